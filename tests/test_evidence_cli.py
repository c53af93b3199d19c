"""The commands eval, verify, bench and report on a real int8 bundle: output, JSON and exit codes."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dmedge.artifact import Artifact, load_artifact
from dmedge.cli.main import cli
from tests.proven_bundles import data, pictures
from tests.tiny_bundles import int8_checkpoint, onnx_bundle, onnx_int8_bundle, tiny_checkpoint

__all__ = ["data", "int8_checkpoint", "onnx_bundle", "onnx_int8_bundle", "pictures", "tiny_checkpoint"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["tiny_checkpoint", "int8_checkpoint", "onnx_int8_bundle"])
def test_eval_prints_recall_both_ways_for_anything_that_runs(
    kind: str, pictures: Path, request: pytest.FixtureRequest
) -> None:
    artifact: Artifact = request.getfixturevalue(kind)
    result = run("eval", artifact.root, "--data", pictures, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["artifact_sha256"] == artifact.digest
    assert found["n"] == 48
    assert found["chance"]["recall_at_10"] == pytest.approx(10 / 16)
    for direction in ("text_to_image", "image_to_text"):
        for row in (found["macro"][direction], found["languages"]["ja"][direction]):
            assert {"recall_at_1", "recall_at_5", "recall_at_10", "n", "chance_at_10"} <= set(row)


def test_eval_speaks_to_people_too(tiny_checkpoint: Artifact, pictures: Path) -> None:
    result = run("eval", tiny_checkpoint.root, "--data", pictures, "--max-per-language", 5)
    assert result.exit_code == 0, result.stderr
    assert "text to image, all" in result.stdout
    assert "means over 3 languages" in result.stdout


def test_eval_refuses_unknown_styles_and_folders(tiny_checkpoint: Artifact) -> None:
    result = run("eval", tiny_checkpoint.root, "--style", "twemojy")
    assert (result.exit_code, "did you mean 'twemoji'" in result.stderr) == (1, True)
    assert run("eval", tiny_checkpoint.root, "--data", "nowhere").exit_code == 1


def test_verify_finds_baseline_and_twin_and_fails_with_three(
    onnx_int8_bundle: Artifact, tiny_checkpoint: Artifact, onnx_bundle: Artifact, pictures: Path, workdir: Path
) -> None:
    out = workdir / "evidence"
    command = ["verify", onnx_int8_bundle.root, "--data", pictures, "--json", "--budget", "program_size_ratio=0.01"]
    result = run(*command, "--robustness", "--max-per-language", 4, "--out", out)
    assert result.exit_code == 3, result.stderr
    assert "budget failed: program_size_ratio" in result.stderr
    report = json.loads(result.stdout)
    assert report["robustness"]["n_texts"] == 12
    assert report["verdict"] == "fail"
    assert report["baseline_sha256"] == tiny_checkpoint.digest
    assert load_artifact(out, kind="evidence").manifest.summary["verdict"] == "fail"
    assert report["fp32_bundle_sha256"] == onnx_bundle.digest  # it stands beside the checkpoint
    relaxed = run(
        *command[:4],
        "--baseline",
        tiny_checkpoint.root,
        "--budget",
        "program_size_ratio=1",
        "--out",
        "again",
        "--budget",
        "robustness_drop=0.5",
    )
    assert relaxed.exit_code == 0, relaxed.stderr
    assert re.search(r"robustness_drop +<= 0.5 +unknown +unknown to unknown +not enough data", relaxed.stdout)
    assert "rank-biased overlap" in relaxed.stdout
    assert re.search(r"match +AUC +[\d,]+ +0\.\d{4} +0\.\d{4} +[+-]0\.\d{4} \(", relaxed.stdout)
    assert "perturbed" not in relaxed.stdout
    assert "verdict: not enough data" in relaxed.stdout
    assert run(*command, "--out", out).exit_code == 1


def test_verify_refuses_other_kinds_and_baselines(
    onnx_int8_bundle: Artifact, int8_checkpoint: Artifact, tiny_checkpoint: Artifact, workdir: Path
) -> None:
    result = run("verify", tiny_checkpoint.root)
    assert (result.exit_code, "found a checkpoint; expected a bundle" in result.stderr) == (1, True)
    result = run("verify", onnx_int8_bundle.root, "--baseline", int8_checkpoint.root, "--out", "never")
    assert (result.exit_code, "is quantized itself" in result.stderr) == (1, True)
    result = run("verify", onnx_int8_bundle.root, "--budget", "program_size=1", "--out", "never")
    assert (result.exit_code, "did you mean 'program_size_ratio'" in result.stderr) == (1, True)
    assert not (workdir / "never").exists()
    result = run("verify")
    assert (result.exit_code, "holds no fitting bundle" in result.stderr) == (1, True)


def test_bench_labels_host_figures_and_refuses_other_devices(
    onnx_int8_bundle: Artifact, tiny_checkpoint: Artifact, onnx_bundle: Artifact, pictures: Path, workdir: Path
) -> None:
    result = run("bench", onnx_int8_bundle.root, "--device", "phone", "--out", workdir / "never")
    assert result.exit_code == 1
    assert "no device 'phone'" in " ".join(result.stderr.split())
    command = ["bench", onnx_int8_bundle.root, "--baseline", tiny_checkpoint.root, "--data", pictures, "--rounds", 2]
    result = run(*command, "--out", workdir / "bench", "--json", "--more-threads", 2)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["label"] == "host figure, not a phone"
    assert "accuracy" in report
    assert set(report["programs"]) == {"encode_image", "encode_text", "encode_text_longest", "fuse"}
    for row in report["programs"].values():
        ratio = row["ratio"]
        assert ratio["rounds"] == 6 and len(ratio["repeats"]) == 3
        assert ratio["low"] <= min(ratio["repeats"]) and max(ratio["repeats"]) <= ratio["high"]
        assert row["artifact"]["n"] == row["fp32"]["n"]
    assert set(report["more_threads"]["2"]) == set(report["programs"])
    for start in report["start"].values():
        assert start["load_ms"] > 0
        assert start["peak_rss_bytes"] >= start["base_rss_bytes"] > 0
        assert len(start["repeats"]) == 3
    assert report["host"]["before"]["cores"] >= 1
    page = run("report", workdir / "bench", "--out", workdir / "page.html")
    assert page.exit_code == 0, page.stderr
    shown = (workdir / "page.html").read_text("utf-8")
    assert "mean over languages.</p>" in shown and f'"">{report["runtime"]["runtime"]}<small>' in shown
    assert "not verified" in shown and shown.count("<small>2 threads</small>") == len(report["programs"])
    repeats = report["programs"]["encode_text"]["ratio"]["repeats"]
    assert f"<dt>each repeat</dt><dd>{', '.join(f'×{value:.2f}' for value in repeats)}</dd>" in shown
    assert run("report", workdir / "bench", "--out", workdir / "page.html").exit_code == 1


def test_several_bundles_are_timed_one_after_another_and_end_in_one_table(
    onnx_int8_bundle: Artifact, tiny_checkpoint: Artifact, onnx_bundle: Artifact, pictures: Path, workdir: Path
) -> None:
    bundles = (onnx_int8_bundle, onnx_bundle)
    command = ["bench", *(bundle.root for bundle in bundles), "--baseline", tiny_checkpoint.root, "--data", pictures]
    result = run(*command, "--rounds", 2, "--out", workdir / "both", "--junit", workdir / "junit.xml")
    assert result.exit_code == 0, result.stderr
    *_, head, first, second = result.stdout.splitlines()
    assert head.split() == ["p50", "ms,", "of", "fp32", "encode_image", "encode_text", "encode_text_longest", "fuse"]
    for bundle, row in zip(bundles, (first, second), strict=True):
        report = json.loads((workdir / "both" / f"{bundle.name}-bench" / "bench.json").read_text("utf-8"))
        assert report["artifact_sha256"] == bundle.digest
        ratios = [f"x{found['ratio']['value']:.2f}" for found in report["programs"].values()]
        assert row.split()[0] == bundle.name and row.split()[2::2] == ratios
    assert 'name="dmedge bench"' in (workdir / "junit.xml").read_text("utf-8")
