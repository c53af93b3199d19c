"""The report: complete, self-contained, and honest about what failed."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmedge.artifact import Artifact
from dmedge.errors import ArtifactError
from dmedge.evidence.floors import floor_words
from dmedge.evidence.language_chart import FAMILIES, family_of
from dmedge.evidence.report import render, write_report
from dmedge.evidence.report_data import Judged, collect
from dmedge.evidence.svg import log_ticks, ticks
from tests.proven_bundles import (
    LANGUAGES,
    bench_evidence,
    data,
    pictures,
    verify_evidence,
)
from tests.tiny_bundles import int8_checkpoint, onnx_bundle, onnx_int8_bundle, tiny_checkpoint

__all__ = [
    "bench_evidence",
    "data",
    "int8_checkpoint",
    "onnx_bundle",
    "onnx_int8_bundle",
    "pictures",
    "tiny_checkpoint",
    "verify_evidence",
]

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Balance(HTMLParser):
    """Fails on a tag that is closed in the wrong order or never."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Closed at once."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(verify_evidence: Artifact, bench_evidence: Artifact) -> str:
    assert bench_evidence.root.parent == verify_evidence.root.parent
    return render(collect(verify_evidence.root))


def test_the_page_asks_for_nothing_from_outside(page: str) -> None:
    assert not re.search(r"https?:|src=|<script|@import|url\(|<link", page)
    assert page.startswith("<!doctype html>")
    assert "prefers-color-scheme:dark" in page


def test_the_page_is_well_formed(page: str) -> None:
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(svg)


def test_every_language_and_the_host_label_are_shown(page: str, verify_evidence: Artifact) -> None:
    languages = json.loads(verify_evidence.file("verify.json").read_text("utf-8"))["languages"]
    assert set(languages) == set(LANGUAGES)
    for tag, row in languages.items():
        assert f"{row['name']} ({tag})" in page
    assert "host figure, not a phone" in page
    assert "chance" in page


def test_every_head_is_shown_in_every_language_with_its_floor(verify_evidence: Artifact) -> None:
    collection = collect(verify_evidence.root)
    (entry,) = collection.judged
    assert entry.verify is not None
    head = entry.verify["heads"]["match"]
    assert tuple(head["languages"]) == tuple(sorted(LANGUAGES))
    page = render(collection)
    chart = page[page.index("match of picture and text, accuracy, ") :]
    chart = chart[: chart.index("</section>")]
    for row in head["languages"].values():
        assert f"accuracy {row['accuracy']['artifact']:.4f}, baseline {row['accuracy']['baseline']:.4f}" in chart
    assert chart.count('class="label end worst"') == 1 and 'class="floor"' not in chart
    limit = {"name": "worst_match_accuracy_drop", "limit": 0.05, "verdict": "pass"}
    lines = [*entry.verify["budgets"], limit | dict.fromkeys(("value", "low", "high"), 0.0)]
    limited = replace(entry, verify={**entry.verify, "budgets": lines})
    floors = render(replace(collection, judged=[limited])).count('class="floor"') - page.count('class="floor"')
    assert floors == len(LANGUAGES)


def test_languages_under_the_floor_are_named(verify_evidence: Artifact) -> None:
    collection = collect(verify_evidence.root)
    (entry,) = collection.judged
    assert entry.verify is not None
    rows = {
        tag: {**row, "retention_at_10": kept, "low": kept - 0.02, "high": kept + 0.02}
        for kept, (tag, row) in zip(
            (0.9, 0.94, *[0.99] * len(LANGUAGES)), entry.verify["languages"].items(), strict=False
        )
    }
    first, second = (f"{row['name']} ({tag})" for tag, row in list(rows.items())[:2])
    report = {**entry.verify, "languages": rows}
    words = floor_words(report)
    assert words == (
        f"2 of {len(rows)} languages keep less than 0.95 of their baseline's recall@10, 1 of them beyond doubt: "
        f"{first} 0.900, {second} 0.940"
    )
    assert words in render(replace(collection, judged=[replace(entry, verify=report)])).replace("&#x27;", "'")
    kept = {tag: {**row, "retention_at_10": 1.0} for tag, row in rows.items()}
    assert floor_words({**report, "languages": kept}).startswith("no language keeps less than 0.95")
    assert floor_words({**report, "budgets": []}) == ""


def test_every_perturbation_has_a_chart_that_can_be_heard(page: str, verify_evidence: Artifact) -> None:
    found = json.loads(verify_evidence.file("verify.json").read_text("utf-8"))["robustness"]["perturbations"]
    labels = re.findall(r'aria-label="Recall at 10 under ([^"]*)"', page)
    assert len(labels) == len(found)
    for label, row in zip(labels, found.values(), strict=True):
        for strength in range(1, 6):
            mine, theirs = row["artifact"][strength], row["baseline"][strength]
            assert f"strength {strength}: {mine:.3f}, baseline {theirs:.3f}" in label
    assert page.count('class="curve artifact"') == page.count('class="curve baseline"') == len(found)


def test_evidence_of_before_has_no_section_of_what_it_lacks(verify_evidence: Artifact) -> None:
    collection = collect(verify_evidence.root)
    (entry,) = collection.judged
    assert entry.verify is not None
    old = {key: value for key, value in entry.verify.items() if key not in ("groups", "robustness", "heads")}
    old["agreement"] = {key: value for key, value in old["agreement"].items() if not key.startswith("rank_biased")}
    page = render(replace(collection, judged=[replace(entry, verify=old)]))
    for heading in ("groups", "its heads decide", "perturbed", "rank-biased"):
        assert heading in render(collection)
        assert heading not in page


def test_failed_budgets_come_first(verify_evidence: Artifact, bench_evidence: Artifact) -> None:
    collection = collect(verify_evidence.root)
    (entry,) = collection.judged
    assert entry.verify is not None
    lines = [{**line, "verdict": "pass"} for line in entry.verify["budgets"]]
    lines[2]["verdict"] = "fail"
    failed: Mapping[str, Any] = {**entry.verify, "budgets": lines, "verdict": "fail"}
    other = replace(entry, verify={**entry.verify, "verdict": "pass"}, name="kept")
    page = render(replace(collection, judged=[other, replace(entry, verify=failed, name="broken")]))
    assert page.index("<h2>broken: 1 failed") < page.index("<h2>kept: ")
    assert page.index("<h2>broken: 1 failed") < page.index("At a glance")


def test_a_benchmark_alone_is_called_unverified(bench_evidence: Artifact) -> None:
    (entry,) = collect(bench_evidence.root).judged
    alone = replace(entry, verify=None)
    assert alone.verdict == "not verified"
    page = render(replace(collect(bench_evidence.root), judged=[alone]))
    assert "timed but not verified" in page


@pytest.mark.parametrize(
    ("verify", "bench", "expected"),
    [
        ("pass", None, "pass"),
        ("pass", "fail", "fail"),
        ("not enough data", "pass", "not enough data"),
        ("fail", "pass", "fail"),
    ],
)
def test_the_worse_verdict_counts(verify: str, bench: str | None, expected: str) -> None:
    assert Judged("d", "n", {"verdict": verify}, {"verdict": bench}, {}).verdict == expected


def test_names_are_escaped(verify_evidence: Artifact) -> None:
    collection = collect(verify_evidence.root)
    page = render(replace(collection, title="<script>alert(1)</script>"))
    assert "<script>" not in page


def test_a_report_is_written_once(verify_evidence: Artifact, tmp_path: Path) -> None:
    out = write_report([verify_evidence.root], tmp_path / "deep" / "report.html")
    assert out.read_text("utf-8").endswith("</html>\n")
    with pytest.raises(ArtifactError, match="exists already"):
        write_report([verify_evidence.root], out)
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_a_place_without_evidence_is_an_error(tmp_path: Path, tiny_checkpoint: Artifact) -> None:
    with pytest.raises(ArtifactError, match="holds no evidence"):
        collect(tmp_path)
    with pytest.raises(ArtifactError, match="no such directory"):
        collect(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="found a checkpoint; expected evidence"):
        collect(tiny_checkpoint.root)


@pytest.mark.parametrize("end", [0.004, 0.21, 1.0, 7.3, 19.0, 250.0])
def test_ticks_are_round_and_few(end: float) -> None:
    found = ticks(end)
    assert found[0] == 0
    assert found[-1] <= end
    assert 4 <= len(found) <= 11
    assert np.allclose(np.diff(found), found[1])


def test_log_ticks_stay_in_range() -> None:
    assert log_ticks(0.05, 1.1) == [0.05, 0.1, 0.2, 0.5, 1.0]
    assert log_ticks(1e-4, 1e4) == [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0]


def test_every_script_has_a_family() -> None:
    assert [family_of(script) for script in ("Latn", "Beng", "Cher")] == [0, 3, len(FAMILIES) - 1]
