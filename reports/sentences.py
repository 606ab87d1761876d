"""The comparison in sentences: what was found, with its uncertainty, what it cost, and what it does not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reports import text
from reports.record.names import AXIS_NAMES, SPENT_UNITS
from reports.stats.estimates import EQUIVALENCE_LEVEL, LEVEL, Estimate
from reports.stats.verdict import Verdict, VerdictKind


def alone(arm: str, mean: float | None) -> str:
    """For a benchmark of one arm."""
    name = text.arm_name(arm)
    return f"Only {name} was run, so there is nothing to compare: it ended at {text.percent(mean)}."


def unsupported(reason: str) -> str:
    return f"These runs do not support a comparison: {reason}."


def headline(
    verdict: Verdict,
    estimate: Estimate | None,
    arms: Sequence[str],
    means: Mapping[str, float | None],
    margin: float | None,
) -> str:
    """One sentence on the primary metric of two arms, a share, in percentage points."""
    names = [text.arm_name(arm) for arm in arms]
    shares = [f"{name} {text.percent(means[arm])}" for name, arm in zip(names, arms, strict=True)]
    if verdict.kind is VerdictKind.INVALID or estimate is None or estimate.mean is None:
        return unsupported(verdict.reason)
    against = f"{names[0]} {text.percent(means[arms[0]])}, {names[1]} {text.percent(means[arms[1]])}"
    difference = f"{names[0]} − {names[1]} = {text.points(estimate.mean)}"
    wide, narrow = estimate.interval(LEVEL), estimate.interval(EQUIVALENCE_LEVEL)
    if verdict.kind is VerdictKind.NO_VERDICT or wide is None or narrow is None:
        return f"No verdict: {verdict.reason}. What was seen: {' and '.join(shares)} ({difference})."
    interval = f"{difference}, 95 % interval {text.span(*wide, 'points')}"
    if verdict.kind is VerdictKind.EQUIVALENT:
        return (
            f"{names[0]} and {names[1]} ended equivalent in accuracy: {against}; {interval}, and the 90 % interval"
            f" {text.span(*narrow, 'points')} lies inside the declared margin of ±{text.points(margin, signed=False)}."
        )
    if verdict.kind is VerdictKind.INCONCLUSIVE:
        return f"These runs cannot tell {names[0]} from {names[1]} in accuracy: {against}; {interval}."
    winner, loser = names if verdict.winner == arms[0] else names[::-1]
    if verdict.beyond_margin:
        size = f"by more than the declared margin of {text.points(margin, signed=False)}"
    elif verdict.within_margin:
        size = f"but by less than the declared margin of {text.points(margin, signed=False)}"
    elif margin:
        size = f"though perhaps by no more than the declared margin of {text.points(margin, signed=False)}"
    else:
        size = "with no margin declared"
    return f"{winner} ended more accurate than {loser}, {size}: {against}; {interval}."


def does_not_fit(
    unfit: Mapping[str, Mapping[str, str]], cap_gib: float | None, others: Mapping[str, float | None]
) -> str:
    """One sentence on arms that need more memory than they may have, and on what the others reached."""
    within = f" in {cap_gib:g} GiB" if cap_gib else " in this device's memory"
    parts = []
    for arm, where in unfit.items():
        asked = f"{where['component'].replace('_', ' ')} of its {where['phase'].replace('_', ' ')}" if where else ""
        parts.append(f"{text.arm_name(arm)} does not fit{within}" + (f" (no room for the {asked})" if asked else ""))
    fitting = [f"{text.arm_name(arm)} fits and ended at {text.percent(mean)}" for arm, mean in others.items()]
    return f"{text.listed(parts)}; {text.listed(fitting)}."


def power(verdict: Verdict, margin: float | None) -> str:
    """What the runs could have found, and what it would take to do better."""
    if verdict.mde is None or verdict.beyond_margin:
        return ""
    size = text.points(verdict.mde, signed=False)
    found = f"A true difference of {size} would have been found about four times out of five"
    if not margin or verdict.mde <= margin:
        return f"{found}."
    target = f"for the margin of {text.points(margin, signed=False)}"
    if verdict.seeds_needed is None:
        return f"{found}; {target} it takes more questions, not only more seeds."
    return f"{found}; {target} it would take about {text.plural(verdict.seeds_needed, 'seed')} an arm."


def across_axes(arms: Sequence[str], quantity: str, verdicts: Mapping[str, Verdict]) -> str:
    """Who leads over the whole of training, per what; empty where nothing of that could be judged."""
    a, b = (text.arm_name(arm) for arm in arms)
    groups: dict[tuple[VerdictKind, str | None], list[str]] = {}
    for axis, judged in verdicts.items():
        per = f"per {AXIS_NAMES.get(axis, axis.replace('_', ' '))}"
        groups.setdefault((judged.kind, judged.winner), []).append(per)
    parts = [
        f"{text.arm_name(arm)} leads {text.listed(groups[VerdictKind.BETTER, arm])}"
        for arm in dict.fromkeys(arms)
        if (VerdictKind.BETTER, arm) in groups
    ]
    if tied := groups.get((VerdictKind.EQUIVALENT, None)):
        parts.append(f"{a} and {b} tie {text.listed(tied)}")
    if unclear := groups.get((VerdictKind.INCONCLUSIVE, None)):
        parts.append(f"these runs cannot tell {a} from {b} {text.listed(unclear)}")
    if not parts:
        return ""
    return f"Over the whole of training, not only at its end (mean {quantity} on the way): {'; '.join(parts)}."


def across_tasks(verdicts: Mapping[str, Verdict]) -> str:
    """Which leads on tasks other than the first outlast having looked at several; empty where nothing was corrected.

    verdicts: by task, in the order that was declared.
    """
    corrected = {task: verdict for task, verdict in verdicts.items() if verdict.p_holm is not None}
    first = next(iter(verdicts), None)
    leads = []
    for task, verdict in corrected.items():
        leader = verdict.alone or verdict.winner
        if leader and task != first:
            leads.append(f"that of {text.arm_name(leader)} on {task} does{' not' if verdict.alone else ''}")
    if not corrected:
        return ""
    rule = (
        f"Only {first} was named before the runs as the task that decides. On any other a lead counts only where it"
        f" outlasts a correction for having looked at {text.plural(len(corrected), 'task')} (Holm)"
    )
    return f"{rule}: {text.listed(leads)}." if leads else f"{rule}; here there is none."


def contrasts(verdicts: Mapping[tuple[str, str], Verdict]) -> str:
    """What came of several pairs of arms, in one sentence on the primary metric."""
    parts: dict[VerdictKind, list[str]] = {}
    for (first, second), verdict in verdicts.items():
        a, b = text.arm_name(first), text.arm_name(second)
        said = f"{a}/{b}"
        if verdict.kind is VerdictKind.BETTER:
            said = f"{a} above {b}" if verdict.winner == first else f"{b} above {a}"
        parts.setdefault(verdict.kind, []).append(said)
    words = {
        VerdictKind.BETTER: "{}",
        VerdictKind.EQUIVALENT: "equivalent {}",
        VerdictKind.INCONCLUSIVE: "not to be told apart {}",
        VerdictKind.NO_VERDICT: "no verdict on {}",
        VerdictKind.DOES_NOT_FIT: "an arm does not fit in {}",
        VerdictKind.INVALID: "no support from the runs for {}",
    }
    found = [phrase.format(text.listed(parts[kind])) for kind, phrase in words.items() if kind in parts]
    return f"Accuracy after training: {'; '.join(found)}."


def counts(verdicts: Sequence[Verdict]) -> str:
    """'4 contrasts: 2 with a winner, 1 equivalent, 1 inconclusive'."""
    kinds = Counter(verdict.kind for verdict in verdicts)
    words = {VerdictKind.BETTER: "with a winner", VerdictKind.DOES_NOT_FIT: "with an arm that does not fit"}
    order = (VerdictKind.BETTER, VerdictKind.EQUIVALENT, VerdictKind.INCONCLUSIVE)
    ordered = dict.fromkeys((*order, *kinds))
    said = [f"{kinds[kind]} {words.get(kind, kind.value)}" for kind in ordered if kinds[kind]]
    return f"{text.plural(len(verdicts), 'contrast')}: {', '.join(said)}"


def across_contrasts(pairs: int, tasks: int, lost: Sequence[tuple[str, str, str]]) -> str:
    """What several comparisons ask of each. lost: winner, loser and task of the leads that do not outlast it."""
    what = f"{pairs} contrasts" if tasks < 2 else f"{pairs} contrasts on {tasks} tasks"
    rule = f"With {what}, a lead counts only where it outlasts a correction for all of these comparisons (Holm)"
    named = [f"that of {text.arm_name(winner)} over {text.arm_name(loser)} on {task}" for winner, loser, task in lost]
    if not named:
        return f"{rule}."
    return f"{rule}: {text.listed(named)} {'does' if len(named) == 1 else 'do'} not."


def cost(arms: Sequence[str], seconds: Mapping[str, float | None], memory: Mapping[str, float | None]) -> str:
    """One sentence on time and memory; empty when neither was recorded in both arms."""
    first, second = arms
    a, b = text.arm_name(first), text.arm_name(second)
    parts = []
    for what, values, show in (("a step took", seconds, text.duration), ("peak memory was", memory, text.data_size)):
        x, y = values.get(first), values.get(second)
        if x is not None and y is not None:
            parts.append(f"{what} {show(x)} with {a} and {show(y)} with {b} ({text.ratio(x, y)})")
    return f"On this machine {text.listed(parts)}." if parts else ""


def fitted(fit: Mapping[str, Mapping[str, Any]]) -> str:
    """What each arm's share of the same memory was found to hold."""
    parts = []
    for arm, found in fit.items():
        tokens, whole = found.get("tokens"), found.get("whole")
        size = "not even one sequence" if not tokens else f"micro-batches of {text.large(tokens)} tokens"
        parts.append(f"{text.arm_name(arm)} {size}{', a whole step' if tokens and tokens == whole else ''}")
    cap = next((found.get("cap_bytes") for found in fit.values()), None)
    return f"{text.data_size(cap)} of memory hold, as measured: {text.listed(parts)}." if cap and parts else ""


def slowed(runs: Mapping[tuple[str, int], float], count: int) -> str:
    """A warning about times, where the machine was not always itself."""
    if not runs:
        return ""
    names = text.listed([f"{text.arm_name(arm)} seed {seed}" for arm, seed in runs])
    return (
        f"Read times with care: the machine was up to {text.percent(max(runs.values()), 0)} slower than at its best"
        f" around {len(runs)} of {text.plural(count, 'run')} ({names})."
    )


def combined(parts: Sequence[Mapping[str, Any]]) -> str:
    """Where the runs come from, if not from one benchmark."""
    if not parts:
        return ""
    devices = list(dict.fromkeys(str(part.get("device")) for part in parts))
    machines = f"on {text.listed(devices)}" if len(devices) == 1 else f"on unlike machines ({text.listed(devices)})"
    note = "" if len(devices) == 1 else ": times and memory mix them, each seed’s arms on the same one"
    return f"The runs come from {text.plural(len(parts), 'benchmark')} {machines}{note}."


def limits(suite: str, model: str | None, budget: str, runs: Mapping[str, int], regime: str) -> str:
    """What the result is about, and so what it is not about."""
    counts = text.listed([f"{text.plural(n, 'seed')} of {text.arm_name(arm)}" for arm, n in runs.items()])
    about = f"the suite {suite}, {f'the model {model}' if model else 'one model'}, a budget of {budget} a run"
    return (
        f"These numbers are about {about}, {counts} and the settings listed below ({regime}). They do not show which"
        " algorithm is better on another task, model or budget, nor after tuning each for itself."
    )


def budget_amount(currency: str, limit: float) -> str:
    return text.quantity(limit, SPENT_UNITS.get(currency, currency.replace("_", " ")))
