"""The names of a record stand in one file; what measures and what shows a run agree with it."""

from dataclasses import fields
from typing import get_args

from harness.measure.budget import Spent
from reports.record.names import (
    AXES,
    AXIS_NAMES,
    COMPONENT_TITLES,
    COMPONENTS,
    CONCLUDED,
    CRITIC_PARTS,
    CRITIC_PHASES,
    CURRENCIES,
    LEARNING,
    NOT_ENDED,
    PHASES,
    SPENT_UNITS,
    Status,
)


def test_every_amount_that_a_run_spends_has_a_unit_in_the_order_in_which_it_is_recorded():
    assert tuple(SPENT_UNITS) == tuple(field.name for field in fields(Spent))


def test_a_budget_is_an_axis_and_an_axis_is_spent():
    assert set(CURRENCIES) < set(AXES) < set(SPENT_UNITS)
    assert set(AXIS_NAMES) == set(AXES)


def test_every_component_has_one_title():
    assert sorted(COMPONENTS) == sorted(COMPONENT_TITLES)
    assert set(COMPONENTS) > CRITIC_PARTS


def test_groups_of_phases_and_of_statuses_name_what_exists():
    assert set(PHASES) > {*CRITIC_PHASES, *LEARNING}
    assert set(get_args(Status)) == {*CONCLUDED, *NOT_ENDED, "failed"}
