"""The statistics in full as tables: each with a heading and a line on how to read it."""

from __future__ import annotations

from typing import NamedTuple

from reports import text
from reports.compare import multiple_tasks
from reports.compare.accuracy import ACCURACY
from reports.compare.comparison import Comparison
from reports.compare.contrasts import difference_of
from reports.compare.pairs import Pair
from reports.compare.sample_efficiency import Arrival, Race
from reports.pages import contrast_tables, tables
from reports.pages.tables import Table
from reports.record.names import AXES


class Section(NamedTuple):
    """prose: titles of the columns that hold words rather than numbers. contrasts: the differences, if several."""

    title: str
    how: str
    table: Table
    prose: tuple[str, ...] = ("Verdict",)
    contrasts: Table | None = None


def sections(comparison: Comparison) -> list[Section]:
    """Those that have rows, in the order in which a doubting reader would ask for them."""
    every = (
        areas(comparison),
        races(comparison),
        early_stopping(comparison),
        holm(comparison),
        *readings(comparison),
        flips(comparison),
        disagreement(comparison),
        aggregate(comparison),
        profile(comparison),
        bands(comparison),
    )
    return [section for section in every if section.table.rows]


def areas(comparison: Comparison) -> Section:
    rows = []
    for area in comparison.findings.areas:
        name, unit = AXES[area.axis]
        stretch = text.span(area.start, area.stop, unit)
        cells = (tables.arm_cell(area.metric, arm) for arm in comparison.arms)
        rows.append(
            (area.quantity.capitalize(), f"{name}\n{stretch}", *cells, *tables.judged_cells(comparison, area.metric))
        )
    how = (
        "The mean height of a run’s curve (the area under it, over its width) on the stretch of the axis that all runs"
        " cover: an arm that learns sooner leads here even where both end equal."
        f"{_first_task(comparison)} The rows look at the same runs from several sides and are not separate findings."
    )
    head = ("Quantity", "Per", *_names(comparison), *tables.difference_head(comparison))
    table = Table(head, tuple(rows))
    return Section("Who leads on the way", how, table, ("Per", "Verdict"), contrast_tables.areas(comparison))


def races(comparison: Comparison) -> Section:
    rows = []
    for race in comparison.findings.races:
        name, unit = AXES[race.axis]
        cells = (_arrival(race.arms[arm], unit) for arm in comparison.arms)
        judged: tuple[str, ...] = ()
        if comparison.only and race.log_ratio:
            cell = contrast_tables.ratio_with_interval(race.log_ratio)
            verdict = tables.verdict_words(race.log_ratio.verdict, better="sooner")
            judged = (cell.partition("\n")[0],) if comparison.undecided else (cell, verdict)
        rows.append((f"{_target(race)}\n{race.goal}", name, *cells, *judged))
    how = (
        "What it took to reach a target that the suite declared, if it did, and to get half, and nine tenths, of the"
        " way from the start to the level that at least half of the runs of each arm reached, which favours neither"
        " arm. An arm’s number is the median of its runs, and below it stands how many of its seeds got there; one that"
        " never did counts as longer than all others. A ratio is only given where every run got there. The"
        " reward is smoothed as in its figure."
        f"{_first_task(comparison)}"
    )
    ratio: tuple[str, ...] = ()
    if comparison.only and comparison.judged:
        times = " ÷ ".join(tables.arm_names(comparison.only.pair))
        ratio = (times,) if comparison.undecided else (f"{times} (95 %)", "Verdict")
    table = Table(("Target", "Per", *_names(comparison), *ratio), tuple(rows))
    several = contrast_tables.races(comparison, lambda race: f"{_target(race)}, {race.goal}")
    return Section("How soon", how, table, ("Target", "Per", "Verdict"), several)


def early_stopping(comparison: Comparison) -> Section:
    base = {result.task: result.base.metrics.get("accuracy") for result in comparison.tasks if result.base}
    rows = []
    for stop in comparison.findings.stops:
        step = text.NONE if stop.step is None else f"step {stop.step:,}"
        reward = text.quantity(stop.reward, "")
        shares = (text.percent(share) for share in (base.get(stop.task), stop.accuracy, stop.final))
        rows.append((stop.task, text.arm_name(stop.arm), str(stop.seed), step, reward, *shares))
    how = (
        "Of the policies of a run that were evaluated, the final one among them, the one before which the training"
        " reward was highest (its mean over the steps since the evaluation before). Only training chooses here: picking"
        " the best evaluation instead would let the questions choose the policy that they then judge."
    )
    head = ("Accuracy on", "Arm", "Seed", "Stopped after", "Reward before", "Base", "There", "At the end")
    return Section("Had each run been stopped at its best training reward", how, Table(head, tuple(rows)), ())


def holm(comparison: Comparison) -> Section:
    """Only where there were several comparisons to have looked at."""
    rows = []
    for metric in (m for m in comparison.metrics if m.task and m.quantity == ACCURACY):
        for pair, found in metric.differences.items():
            if found and found.verdict.p_holm is not None:
                outlasts = "yes" if found.verdict.p_holm < multiple_tasks.ALPHA else "no"
                p_values = (_p(found.estimate.p_value), _p(found.verdict.p_holm))
                rows.append((str(metric.task), *_which(comparison, pair), *p_values, outlasts))
    which: tuple[str, ...] = ()
    if comparison.several:
        title, which = "Having made several comparisons", ("Contrast",)
        how = (
            "Who makes several comparisons finds a difference by chance more easily. Holm’s correction asks more of"
            " each: a lead that does not outlast it is not called one. All contrasts and all tasks are corrected for"
            " together; so are the other quantities on this page, each for itself."
        )
    else:
        title = "Having looked at several tasks"
        how = (
            "Who looks at several tasks finds a difference by chance more easily. Holm’s correction asks more of each:"
            " a lead that does not outlast it is not called one. The other shares of a task’s answers are corrected"
            " alike. The verdict on the first task was declared before the runs and needs no correction."
        )
    head = ("Task", *which, "p of the difference", "p after Holm", "Outlasts the correction")
    return Section(title, how, Table(head, tuple(rows)), which)


def readings(comparison: Comparison) -> list[Section]:
    """One for each task."""
    how = (
        "The same answers under three rules, and what became of those that are not right. A lead that one rule shows"
        " and another does not is a lead in format. All numbers are shares of all answers; what is only described"
        " has no verdict."
    )
    head = ("Answers", "Base", *_names(comparison), *tables.difference_head(comparison))
    found = []
    for task in comparison.findings.readings:
        rows = []
        for metric in task.rows:
            base = text.percent(task.base.get(str(metric.quantity)))
            cells = (tables.arm_cell(metric, arm) for arm in comparison.arms)
            judged = (cell.partition(":")[0] for cell in tables.judged_cells(comparison, metric))
            rows.append((metric.title, base, *cells, *judged))
        title = f"The same answers, read in several ways: {task.task}"
        several = contrast_tables.readings(comparison, task.rows)
        found.append(Section(title, how, Table(head, tuple(rows)), ("Verdict",), several))
    return found


def flips(comparison: Comparison) -> Section:
    rows = []
    for pair, pairings in comparison.findings.pairings.items():
        which = _which(comparison, pair)
        for pairing in pairings:
            for one in pairing.flips:
                counts = (one.both, one.first_only, one.second_only, one.neither)
                rows.append((pairing.task, *which, one.who, *(f"{count:,}" for count in counts), _p(one.p)))
    how = (
        "How many questions both arms, one of them or neither solved after training. McNemar’s exact p is about the two"
        " policies of that row and leaves out that other seeds would give other policies: it describes, and decides"
        " nothing."
    )
    first, second, which = _pair_head(comparison)
    head = ("Task", *which, "Policies", "Both", f"Only {first}", f"Only {second}", "Neither", "McNemar p")
    return Section("Questions that changed hands", how, Table(head, tuple(rows)), (*which, "Policies"))


def disagreement(comparison: Comparison) -> Section:
    rows = []
    for pair, pairings in comparison.findings.pairings.items():
        which = _which(comparison, pair)
        for pairing in pairings:
            within = (text.percent(pairing.within.get(arm)) for arm in pair)
            rows.append((pairing.task, *which, *within, text.percent(pairing.between)))
    how = (
        "The share of questions on which two runs disagree, a mean over all pairs. If runs of different arms disagree"
        " no more than two seeds of the same arm, which questions changed hands says nothing about the arms."
    )
    first, second, which = _pair_head(comparison)
    head = ("Task", *which, f"Two seeds of {first}", f"Two seeds of {second}", "One run of each")
    return Section("How much of that is the seed", how, Table(head, tuple(rows)), which)


def _which(comparison: Comparison, pair: Pair) -> tuple[str, ...]:
    """Of which pair a row is, where there are several."""
    return (difference_of(pair),) if comparison.several else ()


def _pair_head(comparison: Comparison) -> tuple[str, str, tuple[str, ...]]:
    """How the arms of a row's pair are called, and the title of the column that says which pair it is, if needed."""
    if comparison.only:
        first, second = tables.arm_names(comparison.only.pair)
        return first, second, ()
    return "the first", "the second", ("Contrast",)


def aggregate(comparison: Comparison) -> Section:
    found = comparison.findings.aggregate
    rows = []
    if found:
        named = {f"Interquartile mean of the accuracy, {text.arm_name(arm)}": own for arm, own in found.iqm.items()}
        for pair, improvement in found.improvements.items():
            first, second = tables.arm_names(pair)
            named[f"Chance that a run of {first} ends above one of {second}"] = improvement
        for title, one in named.items():
            interval = text.NONE
            if one.low is not None and one.high is not None:
                interval = text.span(one.low, one.high, "fraction")
            rows.append((title, text.percent(one.value), interval))
    tasks = text.plural(len(found.tasks), "task") if found else ""
    how = (
        f"Over {tasks} and all seeds. The interquartile mean leaves out the best and the worst quarter of the runs; a"
        " chance of 50 % means that neither arm is ahead. The intervals resample the seeds, and with few seeds they are"
        " too short: read them as description."
    )
    return Section("All tasks together", how, Table(("Quantity", "Value", "95 % interval"), tuple(rows)), ())


def profile(comparison: Comparison) -> Section:
    found = comparison.findings.aggregate
    rows = []
    for i, level in enumerate(found.levels if found else ()):
        shares = (text.percent(found.profile[arm][i], 0) for arm in found.profile) if found else ()
        rows.append((f"above {text.percent(level)}", *shares))
    how = (
        "The share of an arm’s runs, over all tasks, whose final accuracy lies above each level. An arm that is ahead"
        " in every row is ahead however one weighs good runs against bad ones."
    )
    head = ("Final accuracy", *tables.arm_names(tuple(found.profile) if found else ()))
    return Section("Performance profile", how, Table(head, tuple(rows)), ())


def bands(comparison: Comparison) -> Section:
    """The first task along the steps: the interval that the verdict rests on, and the bootstrap beside it."""
    by_axis = comparison.findings.bands.get(comparison.primary.name, {}) if comparison.primary else {}
    rows = []
    for arm, band in by_axis.get("steps", {}).items():
        for i, x in enumerate(band.x):
            resampled = text.span(*band.resampled[i], "fraction") if band.resampled else text.NONE
            own = text.span(band.low[i], band.high[i], "fraction")
            rows.append((text.arm_name(arm), text.quantity(x, "steps"), text.percent(band.mean[i]), own, resampled))
    how = (
        "How sure the mean curve is at single points. The interval is made as for the final accuracy; the"
        " hierarchical bootstrap (seeds, then questions) is given because it is widely used, but with three to five"
        " seeds it is too wide where seeds agree and too narrow where they do not."
    )
    head = ("Arm", "Step", "Mean of seeds", "95 % interval", "Hierarchical bootstrap, 95 %")
    return Section("Accuracy on the way, with intervals", how, Table(head, tuple(rows)), ())


def _names(comparison: Comparison) -> tuple[str, ...]:
    return tables.arm_names(comparison.arms)


def _target(race: Race) -> str:
    level = text.percent(race.level) if race.quantity == "accuracy" else text.significant(race.level)
    return f"{race.quantity.capitalize()} {level}"


def _first_task(comparison: Comparison) -> str:
    return f" Accuracy is that on {comparison.tasks[0].task}." if comparison.tasks else ""


def _arrival(arrival: Arrival, unit: str) -> str:
    """The median, and how many seeds are behind it."""
    median = text.NONE if arrival.median is None else text.quantity(arrival.median, unit)
    return f"{median}\n{arrival.reached} of {text.plural(arrival.runs, 'seed')}"


def _p(value: float | None) -> str:
    """Two significant digits, and no smaller number than is worth telling apart."""
    if value is None:
        return text.NONE
    return "< 0.001" if value < 0.001 else text.significant(value, 2)
