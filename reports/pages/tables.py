"""The tables of a report, as text cells with a unit on every number: what the page and the summary both print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import text
from reports.compare.accuracy import ACCURACY, AT_BEST_REWARD, GAIN, sampled_title
from reports.compare.comparison import Comparison, Difference, Metric
from reports.compare.contrasts import Contrast
from reports.compare.curves import STABILITY, Curves
from reports.compare.phase_costs import Bars, part_title, title
from reports.record.identity import REWARD
from reports.record.names import AXES, CRITIC_PHASES, SPENT_UNITS
from reports.stats.bands import Band
from reports.stats.verdict import Verdict, VerdictKind

DATA_ROWS = 11


@dataclass(frozen=True)
class Table:
    """head: the column titles; the first column is the rows' own title. kinds: a word per row to choose rows by."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    kinds: tuple[str, ...] = ()


def accuracy(comparison: Comparison) -> Table:
    """Per task, one row for each way of counting right answers: base, every arm, the difference, what may be said."""
    rows = []
    for result in comparison.tasks:
        base = result.base.metrics if result.base else {}
        own = {str(metric.quantity): metric for metric in accuracy_rows(comparison, result.task)}
        for key, metric in own.items():
            before = text.percent(base.get(ACCURACY if key == AT_BEST_REWARD else key))
            if result.base_interval and key in (ACCURACY, AT_BEST_REWARD):
                before += "\n" + text.span(*result.base_interval, "fraction")
            title = share_title(comparison, metric)
            rows.append(
                (title, before, *(arm_cell(metric, arm) for arm in comparison.arms), *judged_cells(comparison, metric))
            )
    return Table(("Task", "Base", *arm_names(comparison.arms), *difference_head(comparison)), tuple(rows))


def accuracy_rows(comparison: Comparison, task: str) -> list[Metric]:
    """The ways of counting right answers."""
    return [metric for metric in comparison.metrics if metric.task == task and metric.quantity != GAIN]


def share_title(comparison: Comparison, metric: Metric) -> str:
    """Its task and, where there are several ways of counting, which one it is."""
    task = str(metric.task)
    one_of_several = len(accuracy_rows(comparison, task)) > 1
    return f"{task}\n{_counted(comparison, task, str(metric.quantity))}" if one_of_several else task


def _counted(comparison: Comparison, task: str, key: str) -> str:
    """Which policies a share is about, or which of their answers."""
    if key == ACCURACY:
        return "after training"
    if key != AT_BEST_REWARD:
        return f"after training, {sampled_title(key)}"
    always_last = all(stop.at_end for stop in comparison.findings.stops if stop.task == task)
    return "at the best training reward" + (", which was the last in every run" if always_last else "")


def per_seed(comparison: Comparison) -> Table:
    """One row per task, arm and seed: the reward's own verdict beside lm-eval style extraction and format failures."""
    names = ("accuracy", "exact_match_strict", "exact_match_flexible", "truncated_fraction", "no_answer_fraction")
    rows = []
    for result in comparison.tasks:
        policies: list[tuple[str, str, Any]] = [("base", text.NONE, result.base)] if result.base else []
        policies += [(text.arm_name(arm), str(seed), e) for (arm, seed), e in sorted(result.per_run.items())]
        for who, seed, evaluation in policies:
            shares = (text.percent(evaluation.metrics.get(name)) for name in names)
            rows.append((result.task, who, seed, *shares, f"{evaluation.questions:,}"))
    head = ("Task", "Policy", "Seed", "Accuracy", "Strict", "Flexible", "Cut by the cap", "No answer", "Questions")
    return Table(head, tuple(rows))


def cost(comparison: Comparison) -> Table:
    """What a step, and the whole budget, cost."""
    only = comparison.only if comparison.judged else None
    rows = []
    for metric in cost_rows(comparison):
        ratio = (ratio_cell(metric, only),) if only else ()
        cells = (arm_cell(metric, arm) for arm in comparison.arms)
        rows.append((metric.title, *cells, *ratio, *judged_cells(comparison, metric)))
    head = ("Cost", *arm_names(comparison.arms), *(("Ratio",) if only else ()), *difference_head(comparison))
    return Table(head, tuple(rows))


def cost_rows(comparison: Comparison) -> list[Metric]:
    return [metric for metric in comparison.metrics if not metric.task and metric.name != REWARD]


def reward(comparison: Comparison) -> Table:
    rows = [
        (metric.title, *(arm_cell(metric, arm) for arm in comparison.arms), *judged_cells(comparison, metric))
        for metric in reward_rows(comparison)
    ]
    return Table(("Reward", *arm_names(comparison.arms), *difference_head(comparison)), tuple(rows))


def reward_rows(comparison: Comparison) -> list[Metric]:
    return [metric for metric in comparison.metrics if metric.name == REWARD]


def runs(comparison: Comparison) -> Table:
    """Every run, those that failed included, with what it spent and by how much it overshot its budget."""
    axes = [axis for axis in SPENT_UNITS if any(run.spent.get(axis) is not None for run in comparison.runs)]
    currency, limit = str(comparison.bench["budget"].get("currency")), comparison.bench["budget"].get("limit")
    rows = []
    for run in comparison.runs:
        spent = [text.quantity(run.spent.get(axis), SPENT_UNITS[axis]) for axis in axes]
        used = run.spent.get(currency)
        over = text.NONE if used is None or not limit else f"{100 * (used / limit - 1):+.1f} %".replace("-", text.MINUS)
        state = run.status.replace("_", " ")
        if run.hung:
            state += "\nhung and was started again"
        if run.resumed:
            state += f"\nresumed after step {text.listed([str(step) for step in run.resumed])}"
        if share := comparison.slowed.get((run.arm, run.seed)):
            state += f"\nmachine {text.percent(share, 0)} slower than at its best"
        whole = text.quantity(run.seconds, "s")
        rows.append((text.arm_name(run.arm), str(run.seed), str(run.order + 1), state, *spent, over, whole))
    head = [axis.replace("_", " ").capitalize().replace("Flops", "FLOPs") for axis in axes]
    return Table(("Arm", "Seed", "Order", "Status", *head, "Over budget", "Wall clock"), tuple(rows))


def curve_data(found: Curves, bands: Mapping[str, Band], arms: Sequence[str], *, share: bool) -> Table:
    """An arm's mean and its interval at a few evenly spaced places; what the bold line and its band are drawn from."""
    name, unit = AXES[found.axis]
    value_unit = "fraction" if share else ""
    rows = []
    for arm in arms:
        band, mean = bands.get(arm), found.means.get(arm)
        xs, ys = (band.x, band.mean) if band else mean or ((), ())
        for i in sorted({round(i * (len(xs) - 1) / (DATA_ROWS - 1)) for i in range(DATA_ROWS)} if xs else ()):
            interval = text.span(band.low[i], band.high[i], value_unit) if band else text.NONE
            rows.append((text.arm_name(arm), text.quantity(xs[i], unit), text.quantity(ys[i], value_unit), interval))
    return Table(("Arm", name, "Mean of seeds", "95 % interval"), tuple(rows))


def stability_data(found: Mapping[str, Curves], arms: Sequence[str]) -> Table:
    """The mean at the beginning, the middle and the end, and the extremes of any single seed."""
    rows = []
    for name, one in found.items():
        sign = STABILITY[name]
        for arm in arms:
            values = [y for line in one.lines if line.arm == arm for y in line.y]
            if values:
                ys = one.means[arm].y if arm in one.means else ()
                chosen = (ys[0], ys[len(ys) // 2], ys[-1]) if ys else (None,) * 3
                unit = "fraction" if sign.unit == "%" else ""
                cells = (text.quantity(y, unit) for y in (*chosen, min(values), max(values)))
                rows.append((sign.title, text.arm_name(arm), *cells, "" if sign.unit == "%" else sign.unit))
    return Table(("Quantity", "Arm", "First", "Middle", "Last", "Lowest", "Highest", "Unit"), tuple(rows))


def stability_signs(found: Mapping[str, Curves]) -> Table:
    signs = [STABILITY[name] for name in found]
    return Table(("Quantity", "What to look for"), tuple((sign.title, sign.look_for) for sign in signs))


def memory_peaks(bars: Bars, arms: Sequence[str]) -> Table:
    rows = [(title(phase), *(text.quantity(bars.values[arm][phase], "B") for arm in arms)) for phase in bars.phases]
    return Table(("Phase", *arm_names(arms)), tuple(rows))


def memory_parts(parts: Mapping[str, Bars], arms: Sequence[str]) -> Table:
    """What each phase's tensors were at its peak; what no arm held there is left out."""
    rows = []
    for phase, bars in parts.items():
        for part in bars.phases:
            sizes = [bars.values[arm][part] for arm in arms]
            if any(sizes):
                rows.append((title(phase), part_title(part), *(text.quantity(size, "B") for size in sizes)))
    return Table(("Phase", "Component", *arm_names(arms)), tuple(rows))


def phases(comparison: Comparison) -> Table:
    """Per arm: a step's time by phase, its share of the step, and tokens per second within the phase."""
    arms, seconds, rates = comparison.arms, comparison.phases, comparison.rates
    totals = {arm: seconds.total(arm) for arm in arms}
    rows = []
    for phase in seconds.phases:
        cells = []
        for arm in arms:
            value, rate = seconds.values[arm][phase], rates.values[arm].get(phase)
            share = f"{text.percent(value / totals[arm])} of the step" if value is not None and totals[arm] else ""
            cells.append(f"{text.quantity(value, 's')}\n{share}" if share else text.NONE)
            cells.append(text.quantity(rate, "tokens/s"))
        rows.append((title(phase), *cells))
    rows.append(("all phases", *(cell for arm in arms for cell in (text.quantity(totals[arm] or None, "s"), ""))))
    critics = [seconds.share(arm, CRITIC_PHASES) for arm in arms]
    if any(critics):
        rows.append(("of it the critic’s", *(cell for share in critics for cell in (text.percent(share), ""))))
    head = [f"{name}, {what}" for name in arm_names(arms) for what in ("time", "speed")]
    return Table(("Phase", *head), tuple(rows))


def arm_cell(metric: Metric, arm: str) -> str:
    """The mean, and on a second line its 95 % interval or why there is none."""
    value = metric.arms[arm]
    if value.mean is None:
        return f"{text.NONE}\n{text.plural(value.missing, 'run')} without a value" if value.missing else text.NONE
    # A gain is a difference of shares: points, not per cent.
    signed = metric.quantity == GAIN
    notes = []
    if value.low is not None and value.high is not None and value.low != value.high:
        notes.append(text.span(value.low, value.high, metric.unit, signed=signed))
    if value.n == 1:
        notes.append("n = 1, no interval")
    if value.missing:
        notes.append(f"{value.missing} missing")
    return "\n".join([text.quantity(value.mean, metric.unit, signed=signed), *([", ".join(notes)] if notes else [])])


def interval_cell(difference: Difference | None, unit: str) -> str:
    """The difference, and on a second line its 95 % interval or why there is none."""
    if difference is None or difference.estimate.mean is None:
        return text.NONE
    cell = text.quantity(difference.estimate.mean, unit, signed=True)
    interval = difference.estimate.interval()
    if interval is None:
        return f"{cell}\nno interval"
    if interval[0] == interval[1]:
        return f"{cell}\nthe same in every seed"
    return f"{cell}\n{text.span(*interval, unit, signed=True)}"


def ratio_cell(metric: Metric, contrast: Contrast) -> str:
    return text.ratio(*(metric.arms[arm].mean for arm in contrast.pair))


def one_line(cell: str) -> str:
    """A cell of two lines as 'value (interval)'."""
    value, _, note = cell.partition("\n")
    return f"{value} ({note})" if note else value


def verdict_cell(difference: Difference | None) -> str:
    return verdict_words(difference.verdict) if difference else text.NONE


def verdict_words(judged: Verdict, *, alone: str = "on this task alone", better: str = "better") -> str:
    """alone: where a lead was seen that did not outlast Holm's correction. better: what a winner is."""
    words = judged.words(text.arm_name, better)
    if judged.beyond_margin:
        words += ", beyond the margin"
    if judged.kind is VerdictKind.NO_VERDICT:
        words += f": {judged.reason}"
    if judged.alone:
        words += f": {text.arm_name(judged.alone)} ahead {alone}, not once corrected for several (Holm)"
    return words


def judged_cells(comparison: Comparison, metric: Metric) -> tuple[str, ...]:
    """What stands under `difference_head`."""
    if not comparison.only or not comparison.judged:
        return ()
    difference = metric.between(comparison.only.pair)
    cell = interval_cell(difference, metric.unit)
    return (cell.partition("\n")[0],) if comparison.undecided else (cell, verdict_cell(difference))


def difference_head(comparison: Comparison) -> tuple[str, ...]:
    """For the difference of the only contrast. Several have tables of their own (`reports.pages.contrast_tables`)."""
    if not comparison.only or not comparison.judged:
        return ()
    title = comparison.only.title
    return (title,) if comparison.undecided else (f"{title} (95 % interval)", "Verdict")


def arm_names(arms: Sequence[str]) -> tuple[str, ...]:
    return tuple(text.arm_name(arm) for arm in arms)
