"""A benchmark held against a baseline, for people and for whatever collects test results.

One table everywhere: on the terminal, as Markdown (regress.md and GitHub's job page), as JUnit, as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table
from rich.text import Text

from reports import text
from reports.pages.junit import Case, document
from reports.pages.markdown import escaped, row
from reports.record.errors import InfrastructureError
from reports.record.journal import replace_file
from reports.regress.gates import Gate, Outcome
from reports.regress.judge import Regression

# GitHub shows no summary above this size.
SUMMARY_LIMIT = 2**20
MOST_MISMATCHES = 20
HEADLINES = {
    Outcome.REGRESSION: "Regression",
    Outcome.INCOMPLETE: "Incomplete: nothing can be concluded",
    Outcome.UNDECIDED: "No regression found, but not every gate could tell",
}
MARKS = {
    Outcome.REGRESSION: "❌ regression", Outcome.INCOMPLETE: "❌ incomplete", Outcome.UNDECIDED: "❔ cannot tell",
    Outcome.NOT_COMPARED: "➖ not compared", Outcome.PASS: "✅ pass", Outcome.BETTER: "✅ better",
}  # fmt: skip


def headline(regression: Regression) -> str:
    """One sentence: the outcome, and what brought it about."""
    against = f"{regression.bench_id} against the baseline {regression.baseline}"
    if regression.mismatches:
        return f"Not comparable: {against}. What differs: {sentences(regression.mismatches)}"
    grave = regression.of(regression.outcome) if regression.outcome in HEADLINES else ()
    named = f" ({'; '.join(f'{label(gate)}' for gate in grave)})" if grave else ""
    found = f"{HEADLINES.get(regression.outcome, 'No regression')}{named}: {against}."
    if regression.device:
        found += (
            " There is no baseline for this device: quality was compared; time, memory and the bits of the curves"
            f" were not. What differs: {sentences(regression.device)}"
        )
    if regression.better:
        better = "; ".join(label(gate) for gate in regression.of(Outcome.BETTER))
        found += f" Better than the baseline beyond the gate ({better}): update the baseline."
    return found


def sentences(differences: tuple[str, ...]) -> str:
    shown = list(differences[:MOST_MISMATCHES])
    more = [f"{len(differences) - len(shown)} more"] if len(differences) > len(shown) else []
    return "; ".join([*shown, *more]) + "."


def label(gate: Gate) -> str:
    return f"{text.arm_name(gate.arm)} {gate.name}".strip()


def amounts(gate: Gate) -> tuple[str, str]:
    """The baseline's value and this one, with their unit."""
    unit = "" if gate.unit == "steps" else gate.unit
    base, new = (text.quantity(value, unit) for value in (gate.base, gate.new))
    return base, new


def table(regression: Regression) -> Table:
    made = Table("arm", "gate", "baseline", "here", "result", "why", box=None, pad_edge=False)
    for gate in regression.gates:
        cells = (text.arm_name(gate.arm), gate.name, *amounts(gate), gate.outcome.value, gate.sentence)
        made.add_row(*(Text(text.visible(each)) for each in cells))
    return made


def markdown(regression: Regression) -> str:
    lines = [f"## {escaped(regression.suite)} against its baseline", "", escaped(headline(regression)), ""]
    if regression.gates:
        head = ["Arm", "Gate", "Baseline", "Here", "Result", "Why"]
        lines += [row(head), row(["---", "---", "---:", "---:", "---", "---"])]
        for gate in regression.gates:
            lines.append(row([text.arm_name(gate.arm), gate.name, *amounts(gate), MARKS[gate.outcome], gate.sentence]))
    return "\n".join([*lines, ""])


def junit(regression: Regression) -> str:
    """One case per gate. "incomplete" fails like a regression; what could not be judged is skipped."""
    cases = []
    for gate in regression.gates:
        fails = gate.outcome in (Outcome.REGRESSION, Outcome.INCOMPLETE)
        skipped = gate.outcome in (Outcome.UNDECIDED, Outcome.NOT_COMPARED)
        base, new = amounts(gate)
        cases.append(
            Case(
                f"{regression.suite}.{gate.arm}" if gate.arm else regression.suite, gate.name,
                f"baseline: {base}\nhere: {new}\n{gate.outcome.value}: {gate.sentence}",
                failure=(gate.outcome.value, gate.sentence) if fails else None,
                skipped=f"{gate.outcome.value}: {gate.sentence}" if skipped else None,
            )
        )  # fmt: skip
    return document(
        regression.bench_id,
        cases or [Case(regression.suite, "comparable", "", ("not comparable", headline(regression)))],
    )


def write(folder: Path, regression: Regression) -> None:
    """regress.json, regress.md and regress.xml into the benchmark's folder."""
    made = {
        "regress.json": json.dumps(regression.to_json(), indent=1, allow_nan=False) + "\n",
        "regress.md": markdown(regression),
        "regress.xml": junit(regression),
    }
    for name, content in made.items():
        replace_file(folder / name, content.encode("utf-8"))


def append_summary(path: Path, content: str) -> bool:
    """Add Markdown to GitHub's job page. False where it would grow beyond what GitHub shows; nothing is added then."""
    data = f"{content}\n".encode()
    try:
        size = path.stat().st_size if path.exists() else 0
        if size + len(data) > SUMMARY_LIMIT:
            return False
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot be written ({error.strerror})") from None
    return True
