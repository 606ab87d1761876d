"""The tables of a report, as text cells with a unit on every number: what the page and the summary both print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports import text
from reports.comparison import Comparison, Metric
from reports.series import AXES, MEMORY_PARTS, PHASES, STABILITY, Bars, Curves

SPENT_UNITS = {
    "steps": "steps",
    "prompts": "prompts",
    "samples": "samples",
    "generated_tokens": "tokens",
    "trained_tokens": "tokens",
    "flops": "FLOP",
    "device_seconds": "s",
    "energy_joules": "J",
}
DATA_ROWS = 11


@dataclass(frozen=True)
class Table:
    """head: the column titles; the first column is the rows' own title."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def accuracy(comparison: Comparison) -> Table:
    """One row per task: base, every arm, the difference, what may be said."""
    rows = []
    for result in comparison.tasks:
        metric = comparison.metric(f"eval/{result.task}/accuracy")
        if metric is None:
            continue
        base = text.NONE
        if result.base:
            base = text.percent(result.base.metrics.get("accuracy"))
            if result.base_interval:
                base += "\n" + text.span(*result.base_interval, "fraction")
        rows.append((result.task, base, *(arm_cell(metric, arm) for arm in comparison.arms), *_judged(metric)))
    return Table(("Task", "Base", *_names(comparison.arms), *_difference_head(comparison)), tuple(rows))


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
    metrics = [m for m in comparison.metrics if not m.name.startswith(("eval/", "reward/"))]
    rows = []
    for metric in metrics:
        means = [metric.arms[arm].mean for arm in comparison.arms[:2]]
        shared = (text.ratio(*means),) if comparison.judged else ()
        rows.append((metric.title, *(arm_cell(metric, arm) for arm in comparison.arms), *shared, *_judged(metric)))
    ratio = ("Ratio",) if comparison.judged else ()
    return Table(("Cost", *_names(comparison.arms), *ratio, *_difference_head(comparison)), tuple(rows))


def reward(comparison: Comparison) -> Table:
    rows = [
        (metric.title, *(arm_cell(metric, arm) for arm in comparison.arms), *_judged(metric))
        for metric in comparison.metrics
        if metric.name.startswith("reward/")
    ]
    return Table(("Reward", *_names(comparison.arms), *_difference_head(comparison)), tuple(rows))


def runs(comparison: Comparison) -> Table:
    """Every run, those that failed included, with what it spent and by how much it overshot its budget."""
    axes = [axis for axis in SPENT_UNITS if any(run.spent.get(axis) is not None for run in comparison.runs)]
    currency, limit = str(comparison.bench["budget"].get("currency")), comparison.bench["budget"].get("limit")
    rows = []
    for run in comparison.runs:
        spent = [text.quantity(run.spent.get(axis), SPENT_UNITS[axis]) for axis in axes]
        used = run.spent.get(currency)
        over = text.NONE if used is None or not limit else f"{100 * (used / limit - 1):+.1f} %".replace("-", text.MINUS)
        state = run.status.replace("_", " ") + (f": {run.reason}" if run.reason else "")
        if share := comparison.slowed.get((run.arm, run.seed)):
            state += f"\nmachine {text.percent(share, 0)} slower than at its best"
        whole = text.quantity(run.seconds, "s")
        rows.append((text.arm_name(run.arm), str(run.seed), str(run.order + 1), state, *spent, over, whole))
    head = [axis.replace("_", " ").capitalize().replace("Flops", "FLOPs") for axis in axes]
    return Table(("Arm", "Seed", "Order", "Status", *head, "Over budget", "Wall clock"), tuple(rows))


def curve_data(found: Curves, arms: Sequence[str], *, share: bool) -> Table:
    """An arm's mean at a few evenly spaced places; what the bold line is drawn from."""
    _, unit = AXES[found.axis]
    rows = []
    for arm in arms:
        xs, ys = found.means.get(arm, ((), ()))
        keep = sorted({round(i * (len(xs) - 1) / (DATA_ROWS - 1)) for i in range(DATA_ROWS)}) if xs else []
        for i in keep:
            value = text.percent(ys[i]) if share else text.significant(ys[i])
            rows.append((text.arm_name(arm), text.quantity(xs[i], unit), value))
    return Table(("Arm", AXES[found.axis][0], "Mean of seeds"), tuple(rows))


def stability_data(found: Mapping[str, Curves], arms: Sequence[str]) -> Table:
    rows = []
    for name, one in found.items():
        title, unit = STABILITY[name]
        for arm in arms:
            ys = one.means.get(arm, ((), ()))[1]
            if ys:
                cells = [
                    text.percent(y) if unit == "%" else text.significant(y) for y in (ys[0], ys[len(ys) // 2], ys[-1])
                ]
                rows.append((title, text.arm_name(arm), *cells, "share" if unit == "%" else unit))
    return Table(("Quantity", "Arm", "First", "Middle", "Last", "Unit"), tuple(rows))


def bars_data(bars: Bars, arms: Sequence[str], unit: str, *, total: bool = False) -> Table:
    rows = [
        (PHASES.get(phase, phase.replace("_", " ")), *(text.quantity(bars.values[arm][phase], unit) for arm in arms))
        for phase in bars.phases
    ]
    if total:
        sums = [sum(v for v in bars.values[arm].values() if v is not None) for arm in arms]
        rows.append(("all phases", *(text.quantity(value, unit) for value in sums)))
    return Table(("Phase", *_names(arms)), tuple(rows))


def memory_parts(parts: Mapping[str, Bars], arms: Sequence[str]) -> Table:
    """What each phase's tensors were at its peak; what no arm held there is left out."""
    rows = []
    for phase, bars in parts.items():
        for part in bars.phases:
            sizes = [bars.values[arm][part] for arm in arms]
            if any(sizes):
                title = MEMORY_PARTS.get(part, part.replace("_", " "))
                cells = (text.quantity(size, "B") for size in sizes)
                rows.append((PHASES.get(phase, phase.replace("_", " ")), title, *cells))
    return Table(("Phase", "Component", *_names(arms)), tuple(rows))


def settings(rows: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> Table:
    """Declared or undeclared differences, as the audit lists them."""
    cells = []
    for row in rows:
        values = row.get("values") or {}
        cells.append(
            (str(row.get("key")), *(_value(values.get(arm)) for arm in arms), str(row.get("why") or text.NONE))
        )
    return Table(("Setting", *_names(arms), "Why"), tuple(cells))


def shared(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(("Setting", "Value in every arm"), tuple((str(r.get("key")), _value(r.get("value"))) for r in rows))


def evidence(rows: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> Table:
    """Per seed: the hash that both arms share, or both hashes where they differ."""
    cells = []
    for row in rows:
        line = []
        for what in ("weights", "prompts", "first_rollout"):
            digests = [str((row.get(what) or {}).get(arm, "missing"))[:12] for arm in arms]
            line.append(f"✓ {digests[0]}" if len(set(digests)) == 1 else f"✗ {' ≠ '.join(digests)}")
        cells.append((str(row.get("seed")), *line, "✓ equal" if row.get("equal") else "✗ not equal"))
    return Table(("Seed", "Initial weights", "Prompt stream", "First rollouts", "Verdict"), tuple(cells))


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested tables as dotted keys."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += flat(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _value(item)))
    return rows


def arm_cell(metric: Metric, arm: str) -> str:
    """The mean, and on a second line its 95 % interval or why there is none."""
    value = metric.arms[arm]
    if value.mean is None:
        return f"{text.NONE}\n{text.plural(value.missing, 'run')} without a value" if value.missing else text.NONE
    # A gain is a difference of shares: points, not per cent.
    signed = metric.name.endswith("/gain")
    notes = []
    if value.low is not None and value.high is not None and value.low != value.high:
        notes.append(text.span(value.low, value.high, metric.unit, signed=signed))
    if value.n == 1:
        notes.append("n = 1, no interval")
    if value.missing:
        notes.append(f"{value.missing} missing")
    return "\n".join([text.quantity(value.mean, metric.unit, signed=signed), *([", ".join(notes)] if notes else [])])


def interval_cell(metric: Metric) -> str:
    """The difference, and on a second line its 95 % interval or why there is none."""
    found = metric.difference
    if found is None or found.estimate.mean is None:
        return text.NONE
    cell = text.quantity(found.estimate.mean, metric.unit, signed=True)
    interval = found.estimate.interval()
    if interval is None:
        return f"{cell}\nno interval"
    if interval[0] == interval[1]:
        return f"{cell}\nthe same in every seed"
    return f"{cell}\n{text.span(*interval, metric.unit, signed=True)}"


def one_line(cell: str) -> str:
    """A cell of two lines as 'value (interval)'."""
    value, _, note = cell.partition("\n")
    return f"{value} ({note})" if note else value


def verdict_cell(metric: Metric) -> str:
    if metric.difference is None:
        return text.NONE
    judged = metric.difference.verdict
    label = judged.label
    if judged.beyond_margin:
        label += ", beyond the margin"
    if label == "no verdict":
        label += f": {judged.reason}"
    head, _, tail = label.partition(" better")
    return f"{text.arm_name(head)} better{tail}" if " better" in label else label


def _judged(metric: Metric) -> tuple[str, ...]:
    return (interval_cell(metric), verdict_cell(metric)) if metric.difference else ()


def _difference_head(comparison: Comparison) -> tuple[str, ...]:
    names = _names(comparison.arms)
    return (f"{names[0]} − {names[1]} (95 % interval)", "Verdict") if comparison.judged else ()


def _names(arms: Sequence[str]) -> tuple[str, ...]:
    return tuple(text.arm_name(arm) for arm in arms)


def _value(value: Any) -> str:
    if value is None:
        return text.NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else str(value)
    return str(value)
