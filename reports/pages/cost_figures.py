"""What the arms cost, as figures: memory by phase and by component, time by phase, the arms one under the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import seaborn as sns
from matplotlib.patches import Patch

from reports import text
from reports.compare.phase_costs import Bars, part_title, title
from reports.pages.svg import WIDTH, legend_above, style
from reports.pages.svg import figure as new_figure
from reports.record.names import CRITIC_PARTS, CRITIC_PHASES, MEMORY_TOTALS

# Okabe–Ito with a hatch each, so that colour is not needed. What only the critic needs is red or orange in all figures.
_PHASE_STYLE = {
    "rollout": ("#56b4e9", ""),
    "reward": ("#f0e442", ""),
    "logprobs": ("#cc79a7", "xx"),
    "reference": ("#999999", "//"),
    "values": ("#e69f00", "--"),
    "policy_update": ("#009e73", ""),
    "critic_update": ("#d55e00", "\\\\"),
    "weight_sync": ("#0072b2", "///"),
}
_PART_STYLE = {
    "weights": ("#0072b2", ""),
    "reference": ("#0072b2", "xx"),
    "engine": ("#0072b2", ".."),
    "optimizer": ("#56b4e9", ""),
    "gradients": ("#56b4e9", "//"),
    "critic": ("#d55e00", "\\\\"),
    "critic_optimizer": ("#e69f00", "--"),
    "critic_gradients": ("#e69f00", "xx"),
    "kv_cache": ("#009e73", ""),
    "activations": ("#cc79a7", ""),
    "temporaries": ("#f0e442", ""),
    "other": ("#999999", "//"),
}
_UNKNOWN_STYLE = ("#dddddd", "oo")


def memory(bars: Bars, arms: Sequence[str]) -> str | None:
    """Peak memory of every phase, the arms one under the other."""
    if not bars.phases:
        return None
    largest = max((v for own in bars.values.values() for v in own.values() if v is not None), default=0)
    scale, unit = _memory_unit(largest)
    with new_figure("memory", WIDTH, _height(len(bars.phases), len(arms))) as (figure, done):
        ax = figure.subplots()
        for index, arm in enumerate(arms):
            for row, phase in enumerate(bars.phases):
                value, y = bars.values[arm][phase], _place(row, index, len(arms))
                if value is None:
                    _beside(ax, 0, y, _why_none([bars], arm))
                    continue
                ax.barh(y, value / scale, _thickness(arms) * 0.88, **_arm_style(index))
                _beside(ax, value / scale, y, text.data_size(value))
        _phase_axis(ax, [title(phase) for phase in bars.phases])
        ax.set(xlim=(0, largest / scale * 1.12 or 1), xlabel=f"Peak memory, {unit}")
        legend_above(ax, [Patch(**_arm_style(i), label=text.arm_name(arm)) for i, arm in enumerate(arms)])
        sns.despine(ax=ax)
        return done()


def memory_parts(parts: Mapping[str, Bars], arms: Sequence[str]) -> str | None:
    """Of what each phase's tensors were made at their peak: a stacked bar for every phase and arm."""
    parts = {phase: bars.without(MEMORY_TOTALS) for phase, bars in parts.items()}
    largest = max((bars.total(arm) for bars in parts.values() for arm in arms), default=0)
    if largest <= 0:
        return None
    scale, unit = _memory_unit(largest)
    used = [part for part in _PART_STYLE if any(_held(bars, part) for bars in parts.values())]
    used += sorted({part for bars in parts.values() for part in bars.phases if _held(bars, part)} - set(used))
    with new_figure("parts", WIDTH, 0.55 + _height(len(parts), len(arms))) as (figure, done):
        ax = figure.subplots()
        for index, arm in enumerate(arms):
            for row, bars in enumerate(parts.values()):
                y, start = _place(row, index, len(arms)), 0.0
                for part in used:
                    value = bars.values[arm].get(part) or 0.0
                    ax.barh(y, value / scale, _thickness(arms) * 0.88, left=start / scale, **_style(_PART_STYLE, part))
                    start += value
                share = bars.share(arm, CRITIC_PARTS)
                note = f"{text.data_size(start)}, critic {text.percent(share, 0)}" if share else text.data_size(start)
                _beside(
                    ax, start / scale, y, f"{text.arm_name(arm)}: {note}" if start else _why_none(parts.values(), arm)
                )
        _phase_axis(ax, [title(phase) for phase in parts])
        ax.set(xlim=(0, largest / scale * 1.32), xlabel=f"Tensors held, {unit}")
        handles = [Patch(**_style(_PART_STYLE, part), label=part_title(part)) for part in used]
        figure.legend(handles=handles, loc="outside upper left", ncols=5, fontsize=9)
        sns.despine(ax=ax)
        return done()


def phase_time(bars: Bars, arms: Sequence[str]) -> str | None:
    """Seconds per step, stacked by phase, one bar per arm."""
    longest = max((bars.total(arm) for arm in arms), default=0)
    if not bars.phases or longest <= 0:
        return None
    scale, unit = (1e3, "ms") if longest < 1 else (1, "s")
    with new_figure("phases", WIDTH, 1.55 + 0.5 * len(arms)) as (figure, done):
        ax = figure.subplots()
        for row, arm in enumerate(arms):
            start = 0.0
            for phase in bars.phases:
                value = bars.values[arm][phase] or 0.0
                ax.barh(row, value * scale, 0.62, left=start * scale, **_style(_PHASE_STYLE, phase))
                start += value
            share = bars.share(arm, CRITIC_PHASES)
            note = f"{text.duration(start)}, critic {text.percent(share, 0)}" if share else text.duration(start)
            _beside(ax, start * scale, row, note if start else "no finished run")
        ax.set(yticks=range(len(arms)), yticklabels=[text.arm_name(arm) for arm in arms], ylim=(len(arms) - 0.4, -0.6))
        ax.set(xlim=(0, longest * scale * 1.22), xlabel=f"Time per step, {unit}")
        ax.grid(axis="y", visible=False)
        handles = [Patch(**_style(_PHASE_STYLE, phase), label=title(phase)) for phase in bars.phases]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=9)
        sns.despine(ax=ax)
        return done()


def _memory_unit(largest: float) -> tuple[int, str]:
    return (2**30, "GiB") if largest >= 2**30 else (2**20, "MiB")


def _height(phases: int, arms: int) -> float:
    return 0.8 + phases * (0.24 * arms + 0.16)


def _thickness(arms: Sequence[str]) -> float:
    return 0.8 / len(arms)


def _place(row: int, index: int, arms: int) -> float:
    """Where the bar of arm number `index` lies around the row of its phase."""
    return row + (index - (arms - 1) / 2) * 0.8 / arms


def _phase_axis(ax: Any, titles: Sequence[str]) -> None:
    ax.set(yticks=range(len(titles)), yticklabels=titles, ylim=(len(titles) - 0.45, -0.55))
    ax.grid(axis="y", visible=False)


def _why_none(bars: Iterable[Bars], arm: str) -> str:
    """Why there is no bar: only finished runs are measured, and some phases are one arm's alone."""
    return "not in this arm" if any(one.total(arm) for one in bars) else "no finished run"


def _held(bars: Bars, part: str) -> bool:
    return any(own.get(part) for own in bars.values.values())


def _beside(ax: Any, x: float, y: float, label: str) -> None:
    ax.annotate(label, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)


def _arm_style(index: int) -> dict[str, Any]:
    return {"facecolor": style(index).color, "edgecolor": "white", "hatch": style(index).hatch, "linewidth": 0}


def _style(styles: Mapping[str, tuple[str, str]], name: str) -> dict[str, Any]:
    fill, hatch = styles.get(name, _UNKNOWN_STYLE)
    return {"facecolor": fill, "edgecolor": "#333333", "hatch": hatch, "linewidth": 0.6}
