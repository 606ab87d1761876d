"""The faults that the regression gate is tried with can still be planted, one change each, in code that parses."""

import ast
from pathlib import Path

import pytest
from gate_trial import FAULTS, caught, planted

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_planted_in_the_code_as_it_is(fault, tmp_path):
    copy = tmp_path / fault.file
    copy.parent.mkdir(parents=True)
    copy.write_bytes((ROOT / fault.file).read_bytes())
    planted(fault, tmp_path)
    assert ast.dump(ast.parse(copy.read_text())) != ast.dump(ast.parse((ROOT / fault.file).read_text()))


@pytest.mark.parametrize(("name", "exit_code", "right"), [("time/step_s", 1, True), ("reward/mean", 1, False)])
def test_a_fault_is_caught_by_a_gate_that_sees_it(name, exit_code, right):
    slower = next(fault for fault in FAULTS if "slower" in fault.name)
    found = {"exit_code": exit_code, "gates": [{"name": name, "outcome": "regression"}]}
    assert bool(caught(slower, found)) == right
