"""On a pretrained model: memory as foretold, as tracked, and as the system sees it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "support" / "smollm2_memory.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "kind", "tokens"),
    [("grpo", "separate", 16_384), ("ppo", "separate", 300), ("ppo", "shared", 16_384)],
)
def test_memory_is_foretold_tracked_and_seen_alike(arm, kind, tokens):
    command = [sys.executable, str(SCRIPT), arm, kind, str(tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    measured = {phase: parts["tracked"] for phase, parts in found["measured"].items()}
    for phase, parts in found["measured"].items():
        assert sum(size for name, size in parts.items() if name != "tracked") == parts["tracked"], phase
    assert set(found["foretold"]) == set(measured) - {"reward"}
    for phase, size in found["foretold"].items():
        assert size == pytest.approx(measured[phase], rel=0.1), phase
    assert max(measured.values()) == pytest.approx(found["resident_growth"], rel=0.1)
    for phase, count in found["flops"].items():
        assert found["foretold_flops"][phase] == pytest.approx(count, rel=0.05), phase
