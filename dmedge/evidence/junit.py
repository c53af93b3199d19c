"""Budgets as JUnit XML, which continuous integration shows: a suite for every bundle, a case for every budget line.

`not enough data` is a skipped case with its reason: nothing was broken, and nothing was shown to hold.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from dmedge.evidence.verdict import AT_MOST, EXACT

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production [2]
DIGESTS = ("artifact_sha256", "baseline_sha256", "fp32_bundle_sha256")


def junit_xml(reports: Sequence[tuple[str, Mapping[str, Any]]], *, stage: str) -> bytes:
    """The document.

    Args:
        reports: name of the bundle, and what verify.json or bench.json holds.
        stage: "verify" or "bench".
    """
    root = ElementTree.Element("testsuites", name=f"dmedge {stage}")
    suites = [_suite(name, report, stage) for name, report in reports]
    for key in ("tests", "failures", "errors", "skipped"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.extend(suites)
    ElementTree.indent(root)
    found: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return found + b"\n"


def line_text(line: Mapping[str, Any]) -> str:
    """What was found, and what was expected."""
    sign = "at most" if line["name"] in AT_MOST else "at least"
    value = "unknown" if line["value"] is None else f"{line['value']:.4g}"
    if line["name"] in EXACT:
        between = ""
    else:
        low, high = ("unknown" if line[end] is None else f"{line[end]:.4g}" for end in ("low", "high"))
        between = f" ({low} to {high})"
    return f"{line['name']} is {value}{between}; expected {sign} {line['limit']:g}"


def _suite(name: str, report: Mapping[str, Any], stage: str) -> ElementTree.Element:
    lines = report["budgets"]
    verdicts = [line["verdict"] for line in lines]
    suite = ElementTree.Element("testsuite", name=_plain(name), tests=str(len(lines)), time="0")
    suite.set("failures", str(0 if "failure" in report else verdicts.count("fail")))
    suite.set("errors", str(int("failure" in report)))
    suite.set("skipped", str(verdicts.count("not enough data")))
    facts = {key: report[key] for key in DIGESTS if report.get(key)}
    facts |= {"verdict": report["verdict"] or "none", "runtime": _runtime(report["runtime"])}
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in facts.items():
        ElementTree.SubElement(properties, "property", name=key, value=_plain(value))
    for line in lines:
        _add_case(suite, line, f"dmedge.{stage}.{_plain(name)}", report.get("failure"))
    return suite


def _add_case(suite: ElementTree.Element, line: Mapping[str, Any], classname: str, error: str | None) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=classname, name=line["name"], time="0")
    words = line_text(line)
    if error is not None:
        ElementTree.SubElement(case, "error", message=_plain(error), type="ProgramsFailed")
    elif line["verdict"] == "fail":
        failure = ElementTree.SubElement(case, "failure", message=words, type="BudgetFailed")
        failure.text = f"{words}: the whole interval breaks the limit"
    elif line["verdict"] != "pass":
        ElementTree.SubElement(case, "skipped", message=f"not enough data: {words}")
    else:
        ElementTree.SubElement(case, "system-out").text = words


def _runtime(facts: Mapping[str, Any]) -> str:
    return f"{facts['runtime']} {facts['version']}, {facts['threads']} thread(s)"


def _plain(text: str) -> str:
    """Without what XML cannot hold."""
    return _NO_XML.sub("\ufffd", str(text))
