"""What is spent adds up on every axis, and each axis can be the limit."""

from __future__ import annotations

from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.tables import Budget
from harness.measure.budget import Spent
from reports.record.names import CURRENCIES

# Energy is an axis only where a device says it.
AXES = [field.name for field in fields(Spent) if field.name != "energy_joules"]
AMOUNTS = st.dictionaries(st.sampled_from(AXES), st.integers(0, 10**9))


def test_every_currency_is_an_axis() -> None:
    assert set(CURRENCIES) <= set(AXES)
    assert asdict(Spent()) == {**dict.fromkeys(AXES, 0), "energy_joules": None}


@given(AMOUNTS, AMOUNTS)
def test_spending_adds_up_and_changes_nothing_else(first: dict[str, int], second: dict[str, int]) -> None:
    start = Spent().plus(**first)
    total = start.plus(**second)
    assert {axis: getattr(total, axis) for axis in AXES} == {
        axis: first.get(axis, 0) + second.get(axis, 0) for axis in AXES
    }
    assert {axis: getattr(start, axis) for axis in AXES} == {axis: first.get(axis, 0) for axis in AXES}


def test_an_unknown_axis_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Spent().plus(joules=1)


def test_metrics_name_every_axis() -> None:
    assert Spent(steps=2, flops=1.5).metrics() == {
        "budget/steps": 2, "budget/prompts": 0, "budget/samples": 0, "budget/generated_tokens": 0,
        "budget/trained_tokens": 0, "budget/flops": 1.5, "budget/device_seconds": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("currency", CURRENCIES)
@pytest.mark.parametrize(
    ("amount", "fraction", "exhausted"),
    [(0, 0.0, False), (4, 0.5, False), (7, 0.875, False), (8, 1, True), (9, 1.125, True)],
)
def test_a_run_ends_when_its_currency_reaches_the_limit(
    currency: str, amount: int, fraction: float, exhausted: bool
) -> None:
    budget = Budget.model_validate({currency: 8})
    others = {axis: 10**6 for axis in AXES if axis != currency}
    spent = Spent().plus(**others, **{currency: amount})
    assert spent.fraction(budget) == fraction
    assert spent.exhausted(budget) is exhausted


def test_the_memory_cap_is_no_currency() -> None:
    budget = Budget(steps=3, memory_gib=1.0)
    assert (budget.currency, budget.limit) == ("steps", 3.0)


def test_energy_is_an_axis_only_where_the_device_says_what_it_used() -> None:
    assert "budget/energy_joules" not in Spent().plus(steps=1, energy_joules=None).metrics()
    spent = Spent().plus(energy_joules=3.0).plus(energy_joules=None).plus(energy_joules=4.5)
    assert spent.metrics()["budget/energy_joules"] == 7.5
