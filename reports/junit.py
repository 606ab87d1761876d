"""The comparison as JUnit XML, one case per metric, for whatever collects test results.

"invalid" is a failure. Everything else passes with its numbers in the output: that PPO lost is a result, not a fault.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from reports import tables, text
from reports.comparison import Comparison

# What XML 1.0 cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(comparison: Comparison) -> str:
    """One <testsuite>; `failures` counts the invalid metrics."""
    cases = []
    for metric in comparison.metrics:
        case = ElementTree.Element(
            "testcase", classname=_legal(str(comparison.bench["suite"])), name=_legal(metric.name)
        )
        values = [f"{text.arm_name(arm)}: {tables.one_line(tables.arm_cell(metric, arm))}" for arm in comparison.arms]
        judged = metric.difference.verdict if metric.difference else None
        if judged:
            values += [
                f"difference: {tables.one_line(tables.interval_cell(metric))}",
                f"verdict: {tables.verdict_cell(metric)}",
            ]
        if judged and judged.label == "invalid":
            failure = ElementTree.SubElement(case, "failure", type="invalid", message=_legal(judged.reason))
            failure.text = _legal(judged.reason)
        ElementTree.SubElement(case, "system-out").text = _legal("\n".join(values))
        cases.append(case)
    if not cases:
        case = ElementTree.Element("testcase", classname=_legal(str(comparison.bench["suite"])), name="comparison")
        ElementTree.SubElement(case, "failure", type="invalid", message=_legal(comparison.headline))
        cases.append(case)
    failures = sum(case.find("failure") is not None for case in cases)
    suite = ElementTree.Element(
        "testsuite",
        name=_legal(str(comparison.bench["bench_id"])),
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        skipped="0",
    )
    suite.extend(cases)
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def _legal(value: str) -> str:
    return _ILLEGAL.sub("\ufffd", text.visible(value))
