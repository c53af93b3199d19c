"""What a benchmark measures beside latency: operators, on real programs in both runtimes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dmedge.artifact import Artifact
from dmedge.cli.bench import _print_report
from dmedge.cli.main import cli
from dmedge.data.evalset import EvalSet
from dmedge.errors import DmedgeError
from dmedge.evidence.bench import bench_bundle
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.profile import HOTTEST, profile_json
from dmedge.evidence.report import render
from dmedge.evidence.report_data import collect
from dmedge.evidence.verdict import Budget
from dmedge.runtime.onnx_profile import read_profile
from dmedge.runtime.profile import Profile, gathered
from dmedge.runtime.session import open_session
from dmedge.runtime.worker_session import WorkerSession
from tests.proven_bundles import data, pictures
from tests.tiny_bundles import (
    example_inputs,
    int8_checkpoint,
    onnx_bundle,
    onnx_int8_bundle,
    pte_int8_bundle,
    tiny_checkpoint,
)

__all__ = [
    "data",
    "int8_checkpoint",
    "onnx_bundle",
    "onnx_int8_bundle",
    "pictures",
    "pte_int8_bundle",
    "tiny_checkpoint",
]  # fixtures


SECTIONS = {"profile": "hottest operators</h2>"}  # key of bench.json -> what shows that the page has its section
PASSES = BenchConfig(rounds=2, repeats=1, profile=True)


@pytest.fixture(scope="module")
def evidence(
    tmp_path_factory: pytest.TempPathFactory,
    onnx_int8_bundle: Artifact,
    onnx_bundle: Artifact,
    tiny_checkpoint: Artifact,
    data: EvalSet,
) -> Artifact:
    """With every pass."""
    out = tmp_path_factory.mktemp("passes") / "bench"
    sides = (onnx_int8_bundle, onnx_bundle, tiny_checkpoint)
    return bench_bundle(*sides, out, data=data, config=PASSES, budget=Budget())


@pytest.fixture(scope="module")
def report(evidence: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(evidence.file("bench.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def page(evidence: Artifact) -> str:
    return render(collect(evidence.root))


# Operators


def test_operators_of_a_run_add_up_to_less_than_the_run(report: dict[str, Any]) -> None:
    profile = report["profile"]
    assert profile["profiler"] == "onnxruntime's profiler"
    assert set(profile["programs"]) == set(report["programs"])
    for row in profile["programs"].values():
        assert 0 < row["operators_us"] <= row["whole_us"]
        assert len(row["hottest"]) == min(HOTTEST, row["n_operators"])
        shares = [operator["share"] for operator in row["hottest"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-9
        assert all(operator["calls"] == 1 for operator in row["hottest"])
    kinds = {operator["kind"] for operator in profile["programs"]["encode_image"]["hottest"]}
    assert kinds & {"QLinearConv", "Conv"}


def test_the_command_and_the_page_name_the_hottest_operator(
    report: dict[str, Any], evidence: Artifact, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hottest = report["profile"]["programs"]["encode_image"]["hottest"][0]
    _print_report(report, evidence)
    said = capsys.readouterr().out
    assert "no latency" in said
    assert hottest["name"] in said
    assert f"Hottest operators of encode_image: {hottest['name']}" in page


def test_evidence_of_before_has_no_section_of_what_it_lacks(evidence: Artifact, page: str) -> None:
    collection = collect(evidence.root)
    (entry,) = collection.judged
    assert entry.bench is not None
    old = {key: value for key, value in entry.bench.items() if key not in SECTIONS and key != "schema_version"}
    before = render(replace(collection, judged=[replace(entry, bench=old)]))
    for heading in SECTIONS.values():
        assert heading in page
        assert heading not in before


def test_executorch_tells_the_operators_within_its_delegates(pte_int8_bundle: Artifact) -> None:
    with open_session(pte_int8_bundle) as session:
        assert isinstance(session, WorkerSession)
        found = profile_json(session.profile("encode_image", example_inputs("encode_image"), 20))
    assert found["runs"] == 20
    assert 0 < found["operators_us"] <= found["whole_us"]
    assert any("onvolution" in operator["name"] for operator in found["hottest"])
    assert all(operator["calls"] == 1 for operator in found["hottest"])


def test_elsewhere_a_profile_is_refused_before_any_work(onnx_int8_bundle: Artifact) -> None:
    done = CliRunner().invoke(cli, ["bench", str(onnx_int8_bundle.root), "--profile", "--device", "ssh:nobody@nowhere"])
    assert done.exit_code == 1
    assert "profile on ssh:nobody@nowhere" in " ".join(done.stderr.split())


def test_events_of_a_run_are_summed_and_the_median_run_counts() -> None:
    calm = [("a", "Conv", 2.0), ("b", "MatMul", 10.0), ("a", "Conv", 3.0)]
    interrupted = [("a", "Conv", 2.0), ("b", "MatMul", 10.0), ("a", "Conv", 4000.0)]
    operators = gathered([calm, interrupted, calm])
    assert [(operator.name, operator.calls, operator.ns) for operator in operators] == [("b", 1, 10), ("a", 2, 5)]
    assert Profile("p", 3, 30.0, operators).operators_ns == 15
    assert profile_json(Profile("p", 3, 30.0, ()))["hottest"] == []


def test_a_profile_without_its_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps([{"cat": "Session", "name": "model_run", "ts": 1, "dur": 5}]), encoding="utf-8")
    assert read_profile(path, 1).whole_ns == 5000
    with pytest.raises(DmedgeError, match="wrote 1 runs; expected 2"):
        read_profile(path, 2)
