"""The comparison as JUnit XML, one case per metric and contrast, for whatever collects test results.

"invalid" is a failure. Everything else passes with its numbers in the output: that PPO lost is a result, not a fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from reports import text
from reports.compare.comparison import Comparison, Difference, Metric
from reports.pages import tables
from reports.stats.verdict import VerdictKind

# What XML 1.0 cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case. failure: (its type, why) where it failed; skipped: why it was not judged."""

    group: str
    name: str
    output: str
    failure: tuple[str, str] | None = None
    skipped: str | None = None


def render(comparison: Comparison) -> str:
    """One <testsuite>; `failures` counts the invalid differences."""
    group = str(comparison.bench["suite"])
    cases = []
    for metric in comparison.metrics:
        if comparison.several and metric.judged:
            for contrast in comparison.contrasts:
                name = f"{metric.name} {' - '.join(contrast.pair)}"
                cases.append(_case(group, name, metric, contrast.pair, metric.between(contrast.pair)))
        else:
            cases.append(_case(group, metric.name, metric, comparison.arms, metric.difference))
    return document(
        str(comparison.bench["bench_id"]), cases or [Case(group, "comparison", "", ("invalid", comparison.headline))]
    )


def _case(group: str, name: str, metric: Metric, arms: Sequence[str], difference: Difference | None) -> Case:
    """What these arms reached, and the difference where it is judged."""
    values = [f"{text.arm_name(arm)}: {tables.one_line(tables.arm_cell(metric, arm))}" for arm in arms]
    failure = None
    if difference:
        values += [
            f"difference: {tables.one_line(tables.interval_cell(difference, metric.unit))}",
            f"verdict: {tables.verdict_cell(difference)}",
        ]
        if difference.verdict.kind is VerdictKind.INVALID:
            failure = ("invalid", difference.verdict.reason)
    return Case(group, name, "\n".join(values), failure)


def document(name: str, cases: Iterable[Case]) -> str:
    """JUnit XML of one <testsuite>, with its counts."""
    elements = [_element(case) for case in cases]

    def count(tag: str) -> str:
        return str(sum(element.find(tag) is not None for element in elements))

    suite = ElementTree.Element(
        "testsuite",
        name=_legal(name),
        tests=str(len(elements)),
        failures=count("failure"),
        errors="0",
        skipped=count("skipped"),
    )
    suite.extend(elements)
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _element(case: Case) -> ElementTree.Element:
    element = ElementTree.Element("testcase", classname=_legal(case.group), name=_legal(case.name))
    if case.failure is not None:
        kind, why = case.failure
        ElementTree.SubElement(element, "failure", type=kind, message=_legal(why)).text = _legal(why)
    if case.skipped is not None:
        ElementTree.SubElement(element, "skipped", message=_legal(case.skipped))
    if case.output:
        ElementTree.SubElement(element, "system-out").text = _legal(case.output)
    return element


def _legal(value: str) -> str:
    return _ILLEGAL.sub("\ufffd", text.visible(value))
