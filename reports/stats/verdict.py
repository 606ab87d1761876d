"""What may be said of a difference, as data, and the one place in which it becomes words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class VerdictKind(StrEnum):
    """The value is what is said, but for BETTER and DOES_NOT_FIT, which say of whom."""

    INVALID = "invalid"
    NO_VERDICT = "no verdict"
    DOES_NOT_FIT = "does not fit"
    BETTER = "better"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be said of a difference between two arms, and what would change it.

    winner: the arm that is better, where `kind` is BETTER. unfit: the arms that had no room, where it is DOES_NOT_FIT.
    beyond_margin: for BETTER, whether the whole 95 % interval lies beyond the margin.
    within_margin: whether the 90 % interval lies inside the margin.
    mde: the difference that would have been found about four times out of five.
    seeds_needed: seeds per arm that would bring the mde down to the margin; None when seeds alone would not.
    p_holm: p of the difference after Holm's correction; None where there is nothing to correct for.
    alone: the arm that this difference alone would call better, where the correction took that away.
    """

    kind: VerdictKind
    reason: str = ""
    winner: str | None = None
    unfit: tuple[str, ...] = ()
    beyond_margin: bool | None = None
    within_margin: bool | None = None
    mde: float | None = None
    seeds_needed: int | None = None
    p_holm: float | None = None
    alone: str | None = None

    def words(self, name: Callable[[str], str] = str, better: str = "better") -> str:
        """'ppo better', 'equivalent', …; `name` says how an arm is called, `better` what it is."""
        if self.kind is VerdictKind.BETTER:
            return leads(name(str(self.winner)), better)
        if self.kind is VerdictKind.DOES_NOT_FIT:
            return f"{' and '.join(map(name, self.unfit))} does not fit"
        return self.kind.value

    @property
    def label(self) -> str:
        """The words of comparison.json, in which arms are called as in bench.json."""
        return self.words()


def leads(arm: str, better: str = "better") -> str:
    return f"{arm} {better}"


def read(label: str, arms: Iterable[str]) -> Verdict | None:
    """The verdict on a difference between these arms that has this label; None for anything else."""
    if winner := next((arm for arm in arms if label == leads(arm)), None):
        return Verdict(VerdictKind.BETTER, winner=winner)
    said = (VerdictKind.INVALID, VerdictKind.NO_VERDICT, VerdictKind.EQUIVALENT, VerdictKind.INCONCLUSIVE)
    return next((Verdict(kind) for kind in said if label == kind), None)
