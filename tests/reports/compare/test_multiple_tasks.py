"""What is left of a lead when several tasks were looked at."""

import pytest
from synthetic_bench import TASKS, write_bench

from reports import sentences
from reports.compare import multiple_tasks
from reports.compare.comparison import compare, load
from reports.compare.metrics import Difference, Metric
from reports.compare.pairs import Pair
from reports.pages import statistics_tables, tables
from reports.stats import estimates, holm

PRIMARY, OTHER, THIRD = "first", "second", "third"


def row(task, p, what="eval/{}/accuracy", margin=0.01):
    """A lead of the first arm with this two-sided p on 10 degrees of freedom."""
    t = float(estimates.sps.t.isf(p / 2, 10))
    estimate = estimates.Estimate(0.02, 0.02 / t, 10.0, (6, 6), "made up", seed_variances=(1e-4, 1e-4))
    judged = estimates.verdict(estimate, arms=("ppo", "grpo"), better="higher", margin=margin)
    differences = {Pair("ppo", "grpo"): Difference(estimate, judged)}
    quantity = what.rpartition("/")[2]
    return Metric(what.format(task), task, "fraction", "higher", {}, differences, task, quantity)


def verdicts(*rows):
    return {m.title: m.difference.verdict for m in multiple_tasks.corrected(rows, PRIMARY)}


def test_holm_rejects_the_hypotheses_of_benjamini_and_hochbergs_example():
    # Benjamini and Hochberg, JRSS B 57 (1995), section 3.2: of these, Bonferroni-like procedures reject three at 5 %.
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.324,
        0.4262,
        0.5719,
        0.6528,
        0.759,
        1.0,
    ]
    adjusted = holm.holm(p)
    assert adjusted[:4] == pytest.approx([15 * 0.0001, 14 * 0.0004, 13 * 0.0019, 12 * 0.0095])
    assert sum(value < 0.05 for value in adjusted) == 3


def test_holm_never_falls_never_passes_one_and_keeps_the_order_of_its_input():
    assert holm.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm.holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm.holm([]) == []


def test_a_lead_that_does_not_outlast_the_correction_is_not_called_one():
    found = verdicts(row(PRIMARY, 0.6), row(OTHER, 0.03))
    assert found[OTHER].p_holm == pytest.approx(0.06)
    assert (found[OTHER].label, found[OTHER].alone) == ("inconclusive", "ppo")
    assert "Holm" in found[OTHER].reason
    assert tables.verdict_words(found[OTHER]).startswith("inconclusive: PPO ahead on this task alone")


def test_a_lead_that_outlasts_it_stands():
    found = verdicts(row(PRIMARY, 0.6), row(OTHER, 0.02))
    assert (found[OTHER].label, found[OTHER].alone) == ("ppo better", None)


def test_the_task_that_was_named_before_the_runs_keeps_its_verdict():
    found = verdicts(row(PRIMARY, 0.04), row(OTHER, 0.045))
    assert found[PRIMARY].p_holm == pytest.approx(0.08)
    assert found[PRIMARY].label == "ppo better"
    assert found[OTHER].label == "inconclusive"


def test_a_lost_lead_within_the_margin_leaves_the_arms_equivalent():
    assert verdicts(row(PRIMARY, 0.6, margin=0.05), row(OTHER, 0.03, margin=0.05))[OTHER].label == "equivalent"


def test_only_rows_of_the_same_quantity_are_a_family():
    accuracy, sampled, readings = (
        row(OTHER, 0.04),
        row(OTHER, 0.04, "eval/{}/pass_at_2"),
        row(OTHER, 0.04, "answers/{}/right"),
    )
    made = multiple_tasks.corrected([accuracy, sampled, readings], PRIMARY)
    assert made == [accuracy, sampled, readings]
    assert multiple_tasks.corrected([row(THIRD, 0.04, "answers/{}/right"), readings], PRIMARY)[1] != readings


def test_the_page_says_which_leads_outlast_it(tmp_path):
    found = compare(load(write_bench(tmp_path, steps=20, effect=0.3)))
    assert found.across_tasks.endswith(f"looked at 2 tasks (Holm): that of PPO on {TASKS[1]} does.")
    section = next(s for s in statistics_tables.sections(found) if s.title == "Having looked at several tasks")
    assert [row[-1] for row in section.table.rows] == ["yes", "yes"]


def test_a_lost_lead_is_said_in_words():
    said = sentences.across_tasks(verdicts(row(PRIMARY, 0.6), row(OTHER, 0.03), row(THIRD, 0.001)))
    assert said.endswith("looked at 3 tasks (Holm): that of PPO on second does not and that of PPO on third does.")
    assert sentences.across_tasks(verdicts(row(PRIMARY, 0.6), row(OTHER, 0.7))).endswith("; here there is none.")
    assert sentences.across_tasks(verdicts(row(PRIMARY, 0.01))) == ""
