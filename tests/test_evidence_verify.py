"""Verification of a real int8 bundle in onnxruntime: what it writes, what it refuses, what it notices."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmedge.artifact import Artifact, load_artifact
from dmedge.compress.calibration import draw_calibration
from dmedge.compress.recipe import CompressConfig
from dmedge.data.evalset import EvalSet
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError, DataError, VerifyError
from dmedge.evidence.bench import bench_bundle
from dmedge.evidence.bootstrap import bootstrap_retention, hit_table
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.leakage import check_calibration, find_calibration
from dmedge.evidence.parity import check_parity
from dmedge.evidence.robustness import NAMES
from dmedge.evidence.verdict import Budget
from dmedge.evidence.verify import measure_baseline, verify_bundle
from dmedge.runtime.session import open_session
from tests.forged import altered
from tests.proven_bundles import (
    BENCH,
    LANGUAGES,
    PICTURES,
    VERIFY,
    data,
    pictures,
    verify_evidence,
)
from tests.tiny_bundles import CONFIG, int8_checkpoint, onnx_bundle, onnx_int8_bundle, tiny_checkpoint

__all__ = [
    "data",
    "int8_checkpoint",
    "onnx_bundle",
    "onnx_int8_bundle",
    "pictures",
    "tiny_checkpoint",
    "verify_evidence",
]


def read(evidence: Artifact) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(evidence.file("verify.json").read_text(encoding="utf-8"))
    return table


def test_evidence_has_the_promised_keys(
    verify_evidence: Artifact, onnx_int8_bundle: Artifact, tiny_checkpoint: Artifact
) -> None:
    report = read(verify_evidence)
    assert report["artifact_sha256"] == onnx_int8_bundle.digest
    assert report["baseline_sha256"] == tiny_checkpoint.digest
    assert set(report["languages"]) == set(LANGUAGES)
    for line in report["budgets"]:
        assert set(line) == {"name", "limit", "value", "low", "high", "verdict"}
    assert verify_evidence.manifest.summary["verdict"] == report["verdict"]
    assert verify_evidence.manifest.parents["artifact"] == onnx_int8_bundle.digest


def test_the_bundle_is_left_as_it_was(verify_evidence: Artifact, onnx_int8_bundle: Artifact) -> None:
    assert load_artifact(onnx_int8_bundle.root).digest == onnx_int8_bundle.digest


def test_every_budget_is_judged_and_forty_texts_are_not_enough(verify_evidence: Artifact) -> None:
    lines = {line["name"]: line for line in read(verify_evidence)["budgets"]}
    assert lines["plan_carried_out"]["verdict"] == "pass"
    assert lines["parity_error_ratio"]["verdict"] == "pass"
    assert lines["macro_recall_at_10_retention"]["verdict"] != "pass"  # 48 texts cannot show a loss of 2 %
    assert lines["worst_language_retention"]["verdict"] != "pass"


def test_raw_ranks_are_enough_to_judge_again(verify_evidence: Artifact) -> None:
    with np.load(verify_evidence.file("ranks.npz")) as ranks:
        table = hit_table(
            ranks["image_cluster"][ranks["text_to_image_image"]].astype(np.int64),
            ranks["text_language"][ranks["text_to_image_text"]].astype(np.int64),
            ranks["text_to_image_baseline_rank"] <= 5,
            ranks["text_to_image_artifact_rank"] <= 5,
        )
    kept = bootstrap_retention(table, resamples=VERIFY.resamples).macro
    stored = read(verify_evidence)["macro"]["text_to_image"]["retention"]["recall_at_5"]
    assert (kept.value, kept.low, kept.high) == (stored["value"], stored["low"], stored["high"])


def test_an_unchanged_model_keeps_all_and_all_of_its_size(
    onnx_bundle: Artifact, tiny_checkpoint: Artifact, data: EvalSet, tmp_path: Path
) -> None:
    evidence = verify_bundle(
        onnx_bundle,
        tiny_checkpoint,
        tmp_path / "verify",
        data=data,
        config=VERIFY,
        budget=Budget(robustness_drop=0.0),
        fp32_bundle=onnx_bundle,
        measured_baseline=measure_baseline(tiny_checkpoint, data, threads=1),
    )
    report = read(evidence)
    for direction in ("text_to_image", "image_to_text"):
        kept = report["macro"][direction]["retention"]["recall_at_10"]
        assert (kept["value"], kept["low"], kept["high"]) == (1.0, 1.0, 1.0)
    assert report["size"]["ratio"] == 1.0
    assert report["verdict"] == "fail"  # 1.0 is more than 0.30 of the size
    assert evidence.manifest.summary["failed"] == ["program_size_ratio"]
    assert report["agreement"]["overlap_at_10"] == 1.0
    assert report["agreement"]["rank_biased_overlap"] == pytest.approx(1.0, abs=1e-6)
    assert set(report["robustness"]["drop"].values()) == {0.0}
    assert {line["name"]: line["verdict"] for line in report["budgets"]}["robustness_drop"] == "not enough data"
    match = report["heads"]["match"]["figures"]
    assert abs(match["calibration_error"]["change"]["value"]) < 1e-4
    assert match["accuracy"]["change"]["value"] == 0


def test_a_quantized_baseline_is_refused_before_any_work(
    onnx_int8_bundle: Artifact, int8_checkpoint: Artifact, data: EvalSet, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="is quantized itself"):
        verify_bundle(onnx_int8_bundle, int8_checkpoint, tmp_path / "verify", data=data, config=VERIFY, budget=Budget())
    assert not list(tmp_path.iterdir())


def test_only_bundles_are_verified(int8_checkpoint: Artifact, tiny_checkpoint: Artifact, data: EvalSet) -> None:
    with pytest.raises(ArtifactError, match="found a checkpoint; expected a bundle"):
        out = int8_checkpoint.sibling("never")
        verify_bundle(int8_checkpoint, tiny_checkpoint, out, data=data, config=VERIFY, budget=Budget())


def test_a_plan_that_was_not_carried_out_fails(
    onnx_bundle: Artifact, onnx_int8_bundle: Artifact, data: EvalSet, tiny_checkpoint: Artifact
) -> None:
    """The fp32 programs under a manifest that claims int8."""

    def put_fp32_programs(root: Path) -> None:
        shutil.copytree(onnx_bundle.root / "programs", root / "programs", dirs_exist_ok=True)

    liar = altered(onnx_int8_bundle, onnx_int8_bundle.sibling("liar"), put_fp32_programs)
    coverage = measure_coverage(liar, "onnxruntime")
    assert coverage is not None
    assert coverage.modules_carried_out == 0
    honest = measure_coverage(onnx_int8_bundle, "onnxruntime")
    assert honest is not None
    assert (honest.modules_carried_out, honest.missing) == (honest.modules_planned, ())
    assert honest.modules_planned == coverage.modules_planned > 10


def test_a_bundle_without_plan_has_carried_it_out(onnx_bundle: Artifact) -> None:
    coverage = measure_coverage(onnx_bundle, "onnxruntime")
    assert coverage is not None
    assert (coverage.modules_planned, coverage.share_carried_out) == (0, 1.0)


def test_other_golden_outputs_fail_parity_and_stop_a_benchmark(
    onnx_int8_bundle: Artifact, onnx_bundle: Artifact, tiny_checkpoint: Artifact, data: EvalSet, tmp_path: Path
) -> None:
    def turn_embeddings(root: Path) -> None:
        with np.load(root / "conformance/golden.npz") as archive:
            golden = {name: -array if name.endswith("embedding") else array for name, array in archive.items()}
        np.savez(root / "conformance/golden.npz", allow_pickle=False, **golden)

    broken = altered(onnx_int8_bundle, onnx_int8_bundle.sibling("broken"), turn_embeddings)
    with open_session(broken) as session:
        report = check_parity(session, broken)
    assert report.error_ratio > 1
    assert report.programs["encode_text"].min_cosine < 0
    assert report.programs["fuse"].is_within
    with pytest.raises(VerifyError, match="wrong answers have no latency"):
        bench_bundle(
            broken,
            lambda: pytest.fail("the twin was asked for"),
            tiny_checkpoint,
            tmp_path / "bench",
            data=data,
            config=BENCH,
            budget=Budget(),
        )
    assert not list(tmp_path.iterdir())


def test_another_preprocessing_or_vocabulary_fails_parity(onnx_int8_bundle: Artifact) -> None:
    def paint_the_background(root: Path) -> None:
        path = root / "preprocessor_config.json"
        path.write_text(path.read_text("utf-8").replace("255", "0"), "utf-8")

    dark = altered(onnx_int8_bundle, onnx_int8_bundle.sibling("dark"), paint_the_background)
    with open_session(dark) as session:
        report = check_parity(session, dark)
    assert report.images_differing
    assert report.error_ratio == float("inf")
    assert report.to_json()["error_ratio"] is None


def test_calibration_data_may_not_come_back_as_evaluation_data(onnx_int8_bundle: Artifact, data: EvalSet) -> None:
    calibration = find_calibration(onnx_int8_bundle)
    assert calibration is not None
    preprocess = Preprocess(CONFIG.image_size)
    check_calibration(calibration, data, preprocess)
    drawn = draw_calibration(CompressConfig(int8=True, ledger_texts=0, calibration_items=8), preprocess)
    seen = EvalSet("seen", list(drawn.pixels), tuple("abcdefgh"), ("x",), np.zeros(1, np.int64), ("en",))
    with pytest.raises(DataError, match=r"8 pictures and 0 novel texts were calibrated on \(emoji\)"):
        check_calibration(calibration, seen, preprocess)


def test_calibrated_text_is_refused_only_where_it_should_be_new(onnx_int8_bundle: Artifact, data: EvalSet) -> None:
    calibration = find_calibration(onnx_int8_bundle)
    assert calibration is not None
    preprocess = Preprocess(CONFIG.image_size)
    drawn = draw_calibration(CompressConfig(int8=True, ledger_texts=0, calibration_items=8), preprocess)
    known = EvalSet("text", data.images, data.clusters, drawn.texts[:1], np.zeros(1, np.int64), ("en",))
    check_calibration(calibration, known, preprocess)
    new = EvalSet(
        "text", known.images, known.clusters, known.texts, known.text_image, ("en",), {"novel": np.ones(1, bool)}
    )
    with pytest.raises(DataError, match="0 pictures and 1 novel texts"):
        check_calibration(calibration, new, preprocess)


def test_evidence_is_not_overwritten(
    verify_evidence: Artifact, onnx_int8_bundle: Artifact, tiny_checkpoint: Artifact, data: EvalSet
) -> None:
    with pytest.raises(ArtifactError, match="exists already"):
        verify_bundle(
            onnx_int8_bundle, tiny_checkpoint, verify_evidence.root, data=data, config=VERIFY, budget=Budget()
        )


@pytest.mark.parametrize(
    "settings",
    [{"threads": 0}, {"max_per_language": 0}, {"resamples": 9}, {"confidence": 1.0}, {"robustness_texts": 0}],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        VerifyConfig(**settings)


def test_pictures_and_texts_all_count(verify_evidence: Artifact) -> None:
    found = read(verify_evidence)["data"]
    assert (found["n_images"], found["n_texts"], found["n_languages"]) == (PICTURES, 3 * PICTURES, 3)
    assert found["calibration_checked"]
    assert found["training_checked"] == "by content"  # the tiny checkpoint learned from nothing


def test_perturbed_searches_begin_where_clean_ones_stand(verify_evidence: Artifact) -> None:
    """The clean point of every curve is one figure, and each point has its paired difference."""
    found = read(verify_evidence)["robustness"]
    assert (found["n_texts"], found["gallery"], found["strengths"]) == (12, PICTURES, [0, 1, 2, 3, 4, 5])
    assert tuple(found["perturbations"]) == NAMES
    assert len({(row["artifact"][0], row["baseline"][0]) for row in found["perturbations"].values()}) == 1
    for row in found["perturbations"].values():
        for mine, theirs, apart in zip(row["artifact"], row["baseline"], row["difference"], strict=True):
            assert apart["low"] <= apart["value"] <= apart["high"]
            assert apart["value"] == pytest.approx(mine - theirs, abs=2e-6)
    lost = [row["drop"]["value"] for row in found["perturbations"].values()]
    assert found["drop"]["value"] == pytest.approx(np.mean(lost), abs=2e-6)


def test_rankings_and_heads_are_compared_too(verify_evidence: Artifact) -> None:
    report = read(verify_evidence)
    alike, heads = report["agreement"], report["heads"]
    assert 0 < alike["rank_biased_overlap"] <= 1
    assert alike["rank_biased_residual"] == 0  # sixteen pictures are all compared
    assert heads["class"]["figures"] == {}  # nobody knows the classes of these pictures
    assert (heads["match"]["n"], heads["match"]["clusters"]) == (2 * 3 * PICTURES, PICTURES)
    for row in heads["match"]["figures"].values():
        assert row["change"]["value"] == pytest.approx(row["artifact"] - row["baseline"], abs=2e-6)
        assert row["change"]["low"] <= row["change"]["high"]
    assert set(report["groups"]["script"]["groups"]) == {"Latn", "Jpan"}
