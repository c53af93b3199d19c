"""What the programs of a bundle do that no figure can be made of: a finding, while the other bundles are judged."""

import json
import os
import shutil
import signal
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from dmedge.environment import package_version
from dmedge.errors import ArtifactError
from dmedge.evidence.compare import compare_folders
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.judgeable import check_judgeable
from dmedge.evidence.report import render
from dmedge.evidence.report_data import collect
from dmedge.evidence.report_markdown import render_markdown
from dmedge.flow.prove import find_accuracy
from dmedge.flow.prove_each import verify_each
from dmedge.model.checkpoint import WEIGHTS
from dmedge.runtime.worker_session import WorkerSession
from tests.forged import altered, forge, json_changed, output_changed
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
    assert died in result.stdout and f"{onnx_int8_bundle.root} (programs_work)" in result.stderr

    broken, judged = (
        load_artifact(out / f"{bundle.name}-verify", kind="evidence") for bundle in (onnx_int8_bundle, onnx_bundle)
    )
    report = json.loads(broken.file("verify.json").read_text("utf-8"))
    assert report["verdict"] == "fail" and died in report["failure"]
    assert (report["artifact_sha256"], report["baseline_sha256"]) == (onnx_int8_bundle.digest, tiny_checkpoint.digest)
    assert broken.manifest.summary["failed"] == ["programs_work"]
    assert json.loads(judged.file("verify.json").read_text("utf-8"))["macro"]
    assert not (broken.root / "ranks.npz").exists() and (judged.root / "ranks.npz").exists()

    suites = {suite.get("name"): suite for suite in ElementTree.parse(junit).getroot()}
    mine, other = suites[onnx_int8_bundle.name], suites[onnx_bundle.name]
    assert (mine.get("errors"), mine.get("failures"), other.get("errors")) == ("1", "0", "0")
    error = mine.find("testcase/error")
    assert error is not None and died in error.get("message", "")

    collection = collect(tmp_path)
    for page in (render(collection), render_markdown(collection)):
        assert "could not be judged: " in page.lower() and "SIGSEGV" in page
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


NAN = float("nan")
DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "texts without numbers": (
        output_changed("encode_text", "embedding", "Mul", NAN),
        "encode_text: output 'embedding' is not finite for",
    ),
    "pictures that are too long": (
        output_changed("encode_image", "embedding", "Mul", 3.0),
        "encode_image: output 'embedding' has length 3.000; expected 1 within 0.01",
    ),
    "pictures that are too wide": (
        output_changed("encode_image", "embedding", "Concat"),
        "encode_image: output 'embedding' is float32[1, 24]; expected float32[batch, 12], as the manifest promises",
    ),
    "a fusion without numbers": (
        output_changed("fuse", "classes", "Mul", NAN),
        "fuse: output 'classes' is not finite for",
    ),
    "pixels that do not fit": (
        json_changed("preprocessor_config.json", size=24),
        "what its own files make does not fit its programs: encode_image: input 'pixels' is uint8[1, 24, 24, 3]",
    ),
    "an operator of another runtime": (output_changed("encode_text", "embedding", "Nonsense"), "cannot load"),
}


def test_every_defect_of_a_program_is_evidence_and_the_last_bundle_is_judged(
    onnx_bundle: Artifact, tiny_checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    broken = [altered(onnx_bundle, tmp_path / str(place), change) for place, (change, _) in enumerate(DEFECTS.values())]
    config, bundles = VerifyConfig(data=str(pictures), resamples=100), [*broken, onnx_bundle]
    places = [tmp_path / f"{place}-verify" for place in range(len(bundles))]
    *findings, judged = verify_each(bundles, config, places, baseline=tiny_checkpoint)
    for bundle, (name, (_, words)), proof in zip(broken, DEFECTS.items(), findings, strict=True):
        assert words in proof.report["failure"] and str(bundle.root) in proof.report["failure"], name
        assert (proof.report["verdict"], proof.failed) == ("fail", ["programs_work"])
        assert proof.report["runtime"]["version"] == package_version("onnxruntime")
        assert find_accuracy(bundle) is None  # a benchmark has none to name
    assert "failure" not in judged.report and judged.report["macro"]


def test_the_same_of_the_baseline_is_an_error_and_no_finding(
    onnx_bundle: Artifact, tiny_checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    """A fusion that is asked last, when the bundle has answered already."""
    damaged = altered(tiny_checkpoint, tmp_path / "damaged", fusion_without_numbers)
    bundle = altered(onnx_bundle, tmp_path / "bundle")
    forge(bundle.root, parents=dict.fromkeys(bundle.manifest.parents, damaged.digest))
    result = run("verify", bundle.root, "--baseline", damaged.root, "--data", pictures, "--out", tmp_path / "evidence")
    assert result.exit_code == 1 and not (tmp_path / "evidence").exists()
    assert f"{damaged.root}: fuse: output 'match' is not finite" in " ".join(result.stderr.split())


def fusion_without_numbers(root: Path) -> None:
    tensors = load_file(root / WEIGHTS)
    fusion = {name: np.full_like(tensor, np.nan) for name, tensor in tensors.items() if name.startswith("fusion.")}
    save_file(tensors | fusion, root / WEIGHTS)


def test_what_files_alone_tell_is_said_before_any_bundle_is_judged(
    onnx_bundle: Artifact, tiny_checkpoint: Artifact, pictures: Path, tmp_path: Path
) -> None:
    lacking = altered(onnx_bundle, tmp_path / "lacking", lambda root: (root / "conformance/images/square.png").unlink())
    command = ("verify", onnx_bundle.root, lacking.root, "--baseline", tiny_checkpoint.root, "--data", pictures)
    result = run(*command, "--out", tmp_path / "evidence")
    assert result.exit_code == 1 and not (tmp_path / "evidence").exists()
    assert "square.png" in result.stderr and "expected a picture" in " ".join(result.stderr.split())


def without(*names: str) -> Callable[[dict[str, Any]], object]:
    """Takes programs out of a manifest."""
    return lambda table: table.update(programs=[row for row in table["programs"] if row["name"] not in names])


def narrower(table: dict[str, Any]) -> None:
    """Says that embeddings of texts are of 8 numbers."""
    (text,) = (row for row in table["programs"] if row["name"] == "encode_text")
    text["outputs"][0]["shape"] = [1, 8]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            without("encode_image", "encode_text"),
            "has the programs fuse for onnxruntime .*expected encode_image or enc",
        ),
        (narrower, "embeddings of 12 of encode_image, 8 of encode_text; expected as many numbers of both"),
    ],
    ids=["no encoder", "two widths"],
)
def test_a_manifest_that_promises_nothing_to_judge_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, onnx_bundle: Artifact, tmp_path: Path
) -> None:
    bundle = altered(onnx_bundle, tmp_path / "other")
    table = json.loads((bundle.root / "manifest.json").read_text("utf-8"))
    change(table)
    forge(bundle.root, programs=table["programs"])
    with pytest.raises(ArtifactError, match=message):
        check_judgeable(load_artifact(bundle.root))
