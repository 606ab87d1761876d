"""The tables of a trend page, newest benchmark first, as text cells with a unit on every number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from reports import text
from reports.pages.tables import Table
from reports.pages.trend_figures import verdict_label
from reports.trend.history import CODE, KINDS, MOST_NAMED, Entry, History, listed
from reports.trend.read import Judged, Value

# Of a reason that a file gives.
MOST_CHARS = 400
Of = Callable[[Entry, str], Value | None]


def groups(history: History) -> Table:
    """One row for all benchmarks that may be held against each other: how many, when, and how far they went apart."""
    by_group: dict[str, list[Entry]] = {}
    for entry in history.counted:
        by_group.setdefault(entry.group or "", []).append(entry)
    rows = []
    for group, own in reversed(by_group.items()):
        ranges = (_range([v.mean for entry in own if (v := entry.accuracy(arm))], "fraction") for arm in history.arms)
        judged = [found for entry in own if (found := history.difference(entry))]
        counts = Counter(verdict_label(each.verdict, history.pair or ()) for each in judged)
        said = ", ".join(f"{count}\u00a0× {label}" for label, count in counts.most_common())
        period = " to ".join(dict.fromkeys((own[0].began[:10], own[-1].began[:10])))
        devices = text.listed(list(dict.fromkeys(entry.device for entry in own)))
        spread = (_range([each.mean for each in judged], "points"), said or text.NONE) if history.pair else ()
        rows.append((group, str(len(own)), period, *ranges, *spread, str(len(own[-1].seeds)), devices))
    spread_head = (_difference_name(history), "Verdict") if history.pair else ()
    head = ("Group", "Benchmarks", "Begun", *_names(history), *spread_head, "Seeds", "Device")
    return Table(head, tuple(rows))


def accuracy(history: History) -> Table:
    rows = []
    for entry in history.counted[::-1]:
        reached = (_cell(entry, Entry.accuracy, arm, "fraction") for arm in history.arms)
        rows.append((*_which(entry), *reached, text.percent(entry.found.base if entry.found else None)))
    return Table(("Benchmark", "Group", *_names(history), "Before training"), tuple(rows))


def difference(history: History) -> Table:
    rows = []
    for entry in history.counted[::-1]:
        if judged := history.difference(entry):
            narrow = _span(judged.low90, judged.high90, "points")
            margin = entry.found.margin if entry.found else None
            declared = f"±{text.points(margin, signed=False)}" if margin else text.NONE
            rows.append(
                (*_which(entry), *difference_cells(history, judged), narrow, declared, judged.reason or text.NONE)
            )
    head = ("Benchmark", "Group", *_difference_head(history), "90 % interval", "Margin", "Why")
    return Table(head, tuple(rows))


def cost(history: History) -> Table:
    names = _names(history)
    rows = []
    for entry in history.counted[::-1]:
        times = (_cell(entry, Entry.step_time, arm, "s") for arm in history.arms)
        sizes = (_cell(entry, Entry.memory, arm, "B") for arm in history.arms)
        gemm = entry.ran.gemm if entry.ran else None
        machine = f"{text.duration(gemm[1])}\n{text.span(gemm[0], gemm[2], 's')}" if gemm else text.NONE
        rows.append((*_which(entry), *times, *sizes, machine, entry.device))
    head = (*(f"{name}, time per step" for name in names), *(f"{name}, peak memory" for name in names))
    return Table(("Benchmark", "Group", *head, "Fixed work", "Device"), tuple(rows))


def changes(history: History) -> Table:
    """Where more than the code is different from the benchmark before."""
    chosen = [entry for entry in history.entries[::-1] if entry.changes.keys() - {CODE}]
    rows = [(_name(entry), *(_phrases(entry.changes.get(kind, ())) for kind in KINDS)) for entry in chosen]
    return Table(("Benchmark", *(kind.capitalize() for kind in KINDS)), tuple(rows))


def code_changes(history: History) -> Table:
    """Where nothing but the code is; with a benchmark a night that is most of them."""
    chosen = [entry for entry in history.entries[::-1] if entry.changes.keys() == {CODE}]
    return Table(("Benchmark", "Code"), tuple((_name(entry), _phrases(entry.changes[CODE])) for entry in chosen))


def benchmarks(history: History) -> Table:
    """Every benchmark, those that are not counted included."""
    rows = []
    for entry in history.entries[::-1]:
        judged = history.difference(entry)
        no_difference = (text.NONE, entry.found.verdict if entry.group and entry.found else text.NONE)
        rows.append(
            (
                f"{_name(entry)}\n{entry.bench_id}",
                entry.status if entry.group else f"{entry.status}\nnot counted: {str(entry.why)[:MOST_CHARS]}",
                *(_cell(entry, Entry.accuracy, arm, "fraction") for arm in history.arms),
                *((difference_cells(history, judged) if judged else no_difference) if history.pair else ()),
                *(_both(entry, arm) for arm in history.arms),
                f"{entry.group or text.NONE}\n{(entry.found.profile if entry.found else None) or ''}".rstrip(),
                listed(entry.seeds),
                f"{(entry.ran.commit if entry.ran else None) or text.NONE}\n{entry.device}",
            )
        )
    costs = (f"{name}, step and memory" for name in _names(history))
    head = ("Benchmark", "Status", *_names(history), *_difference_head(history), *costs)
    return Table((*head, "Group and profile", "Seeds", "Commit and device"), tuple(rows))


def difference_cells(history: History, judged: Judged) -> tuple[str, str]:
    """The difference with its 95 % interval, and what was said of it, but for the reason, which stands elsewhere."""
    interval = _span(judged.low, judged.high, "points")
    beyond = ", beyond the margin" if judged.beyond_margin else ""
    return (
        f"{text.points(judged.mean)}\n{'no interval' if interval == text.NONE else interval}",
        verdict_label(judged.verdict, history.pair or ()) + beyond,
    )


def _name(entry: Entry) -> str:
    return f"{entry.number} · {text.moment(entry.began)}"


def _which(entry: Entry) -> tuple[str, str]:
    return _name(entry), entry.group or text.NONE


def _names(history: History) -> tuple[str, ...]:
    return tuple(text.arm_name(arm) for arm in history.arms)


def _difference_name(history: History) -> str:
    return " − ".join(text.arm_name(arm) for arm in history.pair or ())


def _difference_head(history: History) -> tuple[str, ...]:
    return (f"{_difference_name(history)} (95 % interval)", "Verdict") if history.pair else ()


def _cell(entry: Entry, of: Of, arm: str, unit: str) -> str:
    """The mean, and its 95 % interval on a second line."""
    value = of(entry, arm)
    if value is None:
        return text.NONE
    interval = "" if value.low == value.high else _span(value.low, value.high, unit)
    return text.quantity(value.mean, unit) + (f"\n{interval}" if interval not in ("", text.NONE) else "")


def _both(entry: Entry, arm: str) -> str:
    time, memory = entry.step_time(arm), entry.memory(arm)
    return f"{text.quantity(time.mean if time else None, 's')}\n{text.quantity(memory.mean if memory else None, 'B')}"


def _span(low: float | None, high: float | None, unit: str) -> str:
    return text.NONE if low is None or high is None else text.span(low, high, unit)


def _range(values: Sequence[float | None], unit: str) -> str:
    """From the lowest to the highest."""
    known = [value for value in values if value is not None]
    if not known:
        return text.NONE
    low, high = (text.points(v) if unit == "points" else text.quantity(v, unit) for v in (min(known), max(known)))
    return low if low == high else text.span(min(known), max(known), unit)


def _phrases(found: Sequence[str]) -> str:
    """A few by name, and how many more there are."""
    more = [f"and {len(found) - MOST_NAMED} more"] if len(found) > MOST_NAMED else []
    return "; ".join([*found[:MOST_NAMED], *more]) or text.NONE
