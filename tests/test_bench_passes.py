"""What a benchmark measures beside latency: operators, on real programs in both runtimes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.errors import DmedgeError
from dmedge.evidence.profile import HOTTEST, profile_json
from dmedge.evidence.report import render
from dmedge.evidence.report_data import collect
from dmedge.runtime.onnx_profile import read_profile
from dmedge.runtime.profile import Profile, summed
from dmedge.runtime.session import open_session
from dmedge.runtime.worker_session import WorkerSession
from tests.proven_bundles import pictures
from tests.tiny_bundles import (
    example_inputs,
    int8_checkpoint,
    onnx_bundle,
    onnx_int8_bundle,
    pte_int8_bundle,
    tiny_checkpoint,
)

__all__ = ["int8_checkpoint", "onnx_bundle", "onnx_int8_bundle", "pictures", "pte_int8_bundle", "tiny_checkpoint"]


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    onnx_int8_bundle: Artifact,
    tiny_checkpoint: Artifact,
    onnx_bundle: Artifact,  # the twin, found beside the checkpoint
    pictures: Path,
) -> Path:
    """Evidence with every pass, and what the command printed, as `said.txt`."""
    folder = tmp_path_factory.mktemp("passes")
    command = ["bench", onnx_int8_bundle.root, "--baseline", tiny_checkpoint.root, "--data", pictures, "--rounds", 2]
    done = CliRunner().invoke(cli, [*map(str, command), "--profile", "--out", str(folder / "bench")])
    assert done.exit_code == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout, encoding="utf-8")
    return folder


def report_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bench/bench.json").read_text("utf-8"))
    return found


# Operators


def test_operators_of_a_run_add_up_to_less_than_the_run(bench: Path) -> None:
    profile = report_in(bench)["profile"]
    assert profile["profiler"] == "onnxruntime's profiler"
    assert set(profile["programs"]) == set(report_in(bench)["programs"])
    for row in profile["programs"].values():
        assert 0 < row["operators_us"] <= row["whole_us"]
        assert len(row["hottest"]) == min(HOTTEST, row["n_operators"])
        shares = [operator["share"] for operator in row["hottest"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-9
        assert all(operator["calls"] == 1 for operator in row["hottest"])
    kinds = {operator["kind"] for operator in profile["programs"]["encode_image"]["hottest"]}
    assert kinds & {"QLinearConv", "Conv"}


def test_the_command_and_the_page_name_the_hottest_operator(bench: Path) -> None:
    hottest = report_in(bench)["profile"]["programs"]["encode_image"]["hottest"][0]
    said = (bench / "said.txt").read_text("utf-8")
    assert "no latency" in said
    assert hottest["name"] in said
    page = render(collect(bench / "bench"))
    assert f"Hottest operators of encode_image: {hottest['name']}" in page


def test_the_page_of_evidence_of_before_has_no_such_section(bench: Path) -> None:
    collection = collect(bench / "bench")
    (entry,) = collection.judged
    assert entry.bench is not None
    old = {key: value for key, value in entry.bench.items() if key != "profile"}
    assert "ottest operators" not in render(replace(collection, judged=[replace(entry, bench=old)]))


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


def test_events_of_one_operator_are_summed_and_the_slowest_comes_first() -> None:
    events = [("a", "Conv", 4.0), ("b", "MatMul", 10.0), ("a", "Conv", 8.0), ("b", "MatMul", 20.0)]
    operators = summed(events, 2)
    assert [(operator.name, operator.calls, operator.ns) for operator in operators] == [("b", 1, 15), ("a", 1, 6)]
    assert Profile("p", 2, 30.0, operators).operators_ns == 21
    assert profile_json(Profile("p", 2, 30.0, ()))["hottest"] == []


def test_a_profile_without_its_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps([{"cat": "Session", "name": "model_run", "ts": 1, "dur": 5}]), encoding="utf-8")
    assert read_profile(path, 1).whole_ns == 5000
    with pytest.raises(DmedgeError, match="wrote 1 runs; expected 2"):
        read_profile(path, 2)
