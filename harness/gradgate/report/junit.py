"""A verdict as JUnit XML, which every CI service shows; what JUnit has no word for is in the properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from gradgate.core.verdict import Result
from gradgate.report.inert import inert
from gradgate.report.model import Report
from gradgate.report.text import result_lines

_TAGS = {"failed": "failure", "error": "error"} | dict.fromkeys(
    ("expected", "not_applicable", "not_built", "inconclusive"), "skipped"
)


def to_junit(report: Report) -> str:
    """One test case a check and stage. A check that did not run, or could not say, is skipped with its reason."""
    tags = [_TAGS.get(result.status) for result in report.results]
    counts = {
        "tests": len(tags),
        "failures": tags.count("failure"),
        "errors": tags.count("error"),
        "skipped": tags.count("skipped"),
    }
    numbers = {key: str(value) for key, value in counts.items()} | {"time": f"{report.seconds:.3f}"}
    root = ET.Element("testsuites", {"name": "gradgate verify", **numbers})
    suite = ET.SubElement(root, "testsuite", {"name": inert(report.subject), **numbers})
    _properties(suite, {"verdict": report.verdict, "not_run": " ".join(report.not_run), **report.environment})
    for result in report.results:
        _case(suite, result)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _case(suite: ET.Element, result: Result) -> None:
    name = f"{result.code} {result.name}" + (f" [{result.stage}]" if result.stage else "")
    head = {"classname": f"gradgate.GG{result.code[2]}", "name": inert(name), "time": f"{result.seconds:.3f}"}
    case = ET.SubElement(suite, "testcase", head)
    numbers = {f"measured.{key}": value for key, value in result.measured.items()}
    numbers |= {f"allowed.{key}": value for key, value in result.allowed.items()}
    _properties(case, {"status": result.status, "reproduce": result.reproduce, **numbers})
    tag = _TAGS.get(result.status)
    if tag is not None:
        first, *rest = result_lines(result, result.reproduce)
        inner = ET.SubElement(case, tag, {"message": inert(first)})
        if tag != "skipped":
            inner.text = inert("\n".join([first, *rest]))


def _properties(parent: ET.Element, values: Mapping[str, Any]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", {"name": inert(name), "value": inert(str(value))})
