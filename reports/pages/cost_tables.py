"""What the critic cost, what a point of accuracy cost, and the arithmetic by phase, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reports import text
from reports.compare.critic_cost import Charge, Share
from reports.compare.pairs import Pair
from reports.compare.phase_costs import Bars, title
from reports.pages.tables import Table, arm_names
from reports.record.names import AXES


def critic(charges: Sequence[Charge]) -> Table:
    """One block of rows per arm with a critic: of the whole, what exists only because of it."""
    rows: list[tuple[str, ...]] = []
    for charge in charges:
        name = text.arm_name(charge.arm)
        for what, share, unit in (("time", charge.seconds, "s"), ("arithmetic", charge.flops, "FLOP")):
            if share is not None:
                rows.append((f"{name}, {what} of a run", *_shared(share, unit)))
        if charge.peak is not None and charge.peak_without is not None:
            more = Share(charge.peak - charge.peak_without, charge.peak)
            rows.append((f"{name}, highest peak of all tensors", *_shared(more, "B")))
        if charge.held is not None and charge.peak:
            rows.append((f"{name}, held for it at that peak", *_shared(Share(charge.held, charge.peak), "B")))
    return Table(("What", "All", "Only because of the critic", "Share"), tuple(rows))


def _shared(share: Share, unit: str) -> tuple[str, str, str]:
    return text.quantity(share.whole, unit), text.quantity(share.critic, unit), text.percent(share.critic / share.whole)


def critic_notes(charges: Sequence[Charge]) -> str:
    """How the charge was counted, in sentences."""
    notes = [
        "Counted are the values, the critic’s own update and whole steps that train the critic alone; of memory, the"
        " critic’s weights, gradients and optimizer, and what its phases need beyond all others."
    ]
    for charge in charges:
        name = text.arm_name(charge.arm)
        if charge.critic_steps:
            notes.append(f"{name} trains its critic alone in its first {text.plural(charge.critic_steps, 'step')}.")
        if charge.shared:
            notes.append(
                f"The critic of {name} is a head on the policy’s own layers: what it adds to the policy’s update cannot"
                " be told apart, so these are lower bounds."
            )
    return " ".join(notes)


def point_costs(costs: Mapping[str, Mapping[str, float | None]], arms: Sequence[str], pairs: Sequence[Pair]) -> Table:
    """One row per axis: spending for each percentage point gained over the base, and the ratio of every pair."""
    rows = []
    for axis, per_arm in costs.items():
        name, unit = AXES[axis]
        cells = [text.quantity(per_arm[arm], unit) if per_arm[arm] is not None else "no gain" for arm in arms]
        ratios = (text.ratio(per_arm[first], per_arm[second]) for first, second in pairs)
        rows.append((name, *cells, *ratios))
    ratio_head = ["Ratio"] if len(pairs) == 1 else [" ÷ ".join(arm_names(pair)) for pair in pairs]
    return Table(("For one point of accuracy", *arm_names(arms), *ratio_head), tuple(rows))


def arithmetic(useful: Bars, executed: Bars, arms: Sequence[str]) -> Table:
    """A step's FLOPs by phase and arm: as asked for, and what was run on top of it."""
    rows = []
    sums = {arm: [0.0, 0.0] for arm in arms}
    for phase in useful.phases:
        cells = []
        for arm in arms:
            asked, run = useful.values[arm][phase], executed.values.get(arm, {}).get(phase)
            cells += [text.quantity(asked, "FLOP"), _on_top(asked, run)]
            sums[arm][0] += asked or 0.0
            sums[arm][1] += run or 0.0
        rows.append((title(phase), *cells))
    if rows:
        whole = [cell for asked, run in sums.values() for cell in (text.quantity(asked, "FLOP"), _on_top(asked, run))]
        rows.append(("all phases", *whole))
    head = [column for arm in arms for column in (f"{text.arm_name(arm)}, asked for", "run on top")]
    return Table(("Phase", *head), tuple(rows))


def _on_top(asked: float | None, run: float | None) -> str:
    return text.NONE if not asked or run is None else f"+{text.percent(run / asked - 1)}"
