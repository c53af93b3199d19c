"""A runtime that dies under a program: a finding of its own, while the other bundles are judged."""

import json
import os
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.evidence.compare import compare_folders
from dmedge.evidence.report import render
from dmedge.evidence.report_data import collect
from dmedge.evidence.report_markdown import render_markdown
from dmedge.runtime.worker_session import WorkerSession
from tests.proven_bundles import data, pictures
from tests.tiny_bundles import int8_checkpoint, onnx_bundle, onnx_int8_bundle, tiny_checkpoint

__all__ = ["data", "int8_checkpoint", "onnx_bundle", "onnx_int8_bundle", "pictures", "tiny_checkpoint"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def dying(onnx_int8_bundle: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of the int8 bundle is ended, as a fault of the runtime ends it, when it is asked for texts."""
    ask = WorkerSession.run_many

    def run_many(session: WorkerSession, program: str, *rest: Any, **named: Any) -> Any:
        if program == "encode_text" and session._root == onnx_int8_bundle.root.resolve():
            os.kill(session.process_id, signal.SIGSEGV)
        return ask(session, program, *rest, **named)

    monkeypatch.setattr(WorkerSession, "run_many", run_many)


@pytest.mark.usefixtures("dying")
def test_a_runtime_that_dies_is_evidence_and_the_next_bundle_is_judged(
    onnx_int8_bundle: Artifact, onnx_bundle: Artifact, tiny_checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    out, junit = tmp_path / "evidence", tmp_path / "junit.xml"
    bundles = (onnx_int8_bundle.root, onnx_bundle.root, "--baseline", tiny_checkpoint.root, "--data", pictures)
    result = run("verify", *bundles, "--budget", "program_size_ratio=2", "--out", out, "--junit", junit)
    assert result.exit_code == 3
    died = "worker was ended by SIGSEGV while running encode_text"
    assert died in result.stdout and f"{onnx_int8_bundle.root} (programs_ran)" in result.stderr

    broken, judged = (
        load_artifact(out / f"{bundle.name}-verify", kind="evidence") for bundle in (onnx_int8_bundle, onnx_bundle)
    )
    report = json.loads(broken.file("verify.json").read_text("utf-8"))
    assert report["verdict"] == "fail" and died in report["failure"]
    assert (report["artifact_sha256"], report["baseline_sha256"]) == (onnx_int8_bundle.digest, tiny_checkpoint.digest)
    assert broken.manifest.summary["failed"] == ["programs_ran"]
    assert json.loads(judged.file("verify.json").read_text("utf-8"))["macro"]
    assert not (broken.root / "ranks.npz").exists() and (judged.root / "ranks.npz").exists()

    suites = {suite.get("name"): suite for suite in ElementTree.parse(junit).getroot()}
    mine, other = suites[onnx_int8_bundle.name], suites[onnx_bundle.name]
    assert (mine.get("errors"), mine.get("failures"), other.get("errors")) == ("1", "0", "0")
    error = mine.find("testcase/error")
    assert error is not None and died in error.get("message", "")

    collection = collect(tmp_path)
    for page in (render(collection), render_markdown(collection)):
        assert "for its runtime failed" in page and "SIGSEGV" in page
    for run_name, bundle, evidence in (("one", onnx_int8_bundle, broken), ("two", onnx_bundle, judged)):
        shutil.copytree(bundle.root, tmp_path / "runs" / run_name / "web")
        shutil.copytree(evidence.root, tmp_path / "runs" / run_name / "web-verify")
    both = collect(tmp_path / "runs/one", tmp_path / "runs/two")
    assert [entry.name for entry in both.judged] == ["one/web", "two/web"] and both.title == "one, two"
    assert len(collect(tmp_path / "runs/one", tmp_path / "runs/one").judged) == 1
    made = run("report", tmp_path / "runs/one", tmp_path / "runs/two", "--out", tmp_path / "both.html")
    assert made.exit_code == 0 and "two/web" in (tmp_path / "both.html").read_text("utf-8")
    contest = compare_folders([out])
    assert [row.standing.digest for row in contest.contenders] == [onnx_bundle.digest]
    assert any("1 bundles could not be judged" in note for note in contest.notes)


@pytest.mark.usefixtures("dying")
def test_one_bundle_whose_runtime_dies_ends_in_what_became_of_it(
    onnx_int8_bundle: Artifact, pictures: Path, tmp_path: Path
) -> None:
    result = run("verify", onnx_int8_bundle.root, "--data", pictures, "--json", "--out", tmp_path / "evidence")
    assert result.exit_code == 3
    assert "SIGSEGV" in result.stderr and json.loads(result.stdout)["parity"] is None


def test_a_bundle_whose_runtime_dies_while_it_is_timed_leaves_the_others_their_turn(
    onnx_int8_bundle: Artifact,
    onnx_bundle: Artifact,
    tiny_checkpoint: Artifact,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker of the int8 bundle is ended when texts are timed, after the pictures."""
    time = WorkerSession.time

    def time_until_death(session: WorkerSession, program: str, *rest: Any) -> Any:
        if program == "encode_text" and session._root == onnx_int8_bundle.root.resolve():
            os.kill(session.process_id, signal.SIGSEGV)
        return time(session, program, *rest)

    monkeypatch.setattr(WorkerSession, "time", time_until_death)
    out, junit = tmp_path / "timed", tmp_path / "junit.xml"
    bundles = (onnx_int8_bundle.root, onnx_bundle.root, "--baseline", tiny_checkpoint.root, "--data", pictures)
    command = ("bench", *bundles, "--rounds", 2, "--repeats", 1, "--out", out, "--junit", junit)
    result = run(*command)
    assert result.exit_code == 1
    died, kept = (
        "worker was ended by SIGSEGV while timing encode_text",
        out / f"{onnx_int8_bundle.name}-bench-unfinished",
    )
    assert f"{onnx_int8_bundle.root}: " in result.stderr and died in " ".join(result.stderr.split())
    assert str(kept) in result.stdout
    unfinished = json.loads((kept / "unfinished.json").read_text("utf-8"))
    assert list(unfinished["programs"]) == ["encode_image"] and died in unfinished["error"]
    assert load_artifact(out / f"{onnx_bundle.name}-bench", kind="evidence").manifest.stage == "bench"
    suites = {suite.get("name"): suite for suite in ElementTree.parse(junit).getroot()}
    assert suites[onnx_int8_bundle.name].get("errors") == "1" and suites[onnx_bundle.name].get("errors") == "0"
    alone = run("bench", onnx_int8_bundle.root, *bundles[2:], "--rounds", 2, "--repeats", 1, "--out", tmp_path / "one")
    assert alone.exit_code == 1 and died in " ".join(alone.stderr.split()) and not (tmp_path / "one").exists()
