"""An int8 bundle of the tiny checkpoint, captioned pictures, and evidence of it, each made once per test run."""

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmedge.artifact import Artifact, load_artifact
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.data.evalset import EvalSet, folder_evalset
from dmedge.evidence.bench import bench_bundle
from dmedge.evidence.config import BenchConfig, VerifyConfig
from dmedge.evidence.verdict import Budget
from dmedge.evidence.verify import verify_bundle
from dmedge.export.bundle import ExportConfig, export_bundle
from tests.tiny_bundles import WORDS

PICTURES = 16
LANGUAGES = ("de", "en", "ja")
BENCH = BenchConfig(rounds=2, repeats=1)
VERIFY = VerifyConfig(resamples=100)


@pytest.fixture(scope="session")
def int8_checkpoint(tiny_checkpoint: Artifact) -> Artifact:
    return _int8_checkpoint(tiny_checkpoint.root)


@pytest.fixture(scope="session")
def int8_bundle(int8_checkpoint: Artifact) -> Artifact:
    return _int8_bundle(int8_checkpoint.root)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random pictures, each with a caption in three languages."""
    return _pictures(tmp_path_factory.getbasetemp() / "captioned")


@pytest.fixture(scope="session")
def data(pictures: Path) -> EvalSet:
    return folder_evalset(pictures)


@pytest.fixture(scope="session")
def verify_evidence(
    int8_bundle: Artifact, tiny_checkpoint: Artifact, onnx_bundle: Artifact, pictures: Path
) -> Artifact:
    return _verify_evidence(int8_bundle.root, tiny_checkpoint.root, onnx_bundle.root, pictures)


@pytest.fixture(scope="session")
def bench_evidence(int8_bundle: Artifact, tiny_checkpoint: Artifact, onnx_bundle: Artifact, pictures: Path) -> Artifact:
    return _bench_evidence(int8_bundle.root, tiny_checkpoint.root, onnx_bundle.root, pictures)


@cache  # by path: a fixture that two modules import is made twice, however wide its scope
def _int8_checkpoint(root: Path) -> Artifact:
    parent = load_artifact(root)
    return compress_artifact(
        parent, CompressConfig(int8=True, ledger_texts=0, calibration_items=8), parent.sibling("proven")
    )


@cache
def _int8_bundle(root: Path) -> Artifact:
    parent = load_artifact(root)
    return export_bundle(parent, ExportConfig(target="linux-x86_64", runtimes=("onnxruntime",)), parent.sibling("onnx"))


@cache
def _pictures(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [("image", "language", "text")]
    for i in range(PICTURES):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"images/{i}.png")
        rows += [(f"{i}.png", tag, f"{WORDS[i % len(WORDS)]} {tag} {i}") for tag in LANGUAGES]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


@cache
def _verify_evidence(root: Path, baseline: Path, fp32: Path, pictures: Path) -> Artifact:
    bundle = load_artifact(root)
    return verify_bundle(
        bundle,
        load_artifact(baseline),
        bundle.sibling("verify"),
        data=folder_evalset(pictures),
        config=VERIFY,
        budget=Budget(),
        fp32_bundle=load_artifact(fp32),
    )


@cache
def _bench_evidence(root: Path, baseline: Path, fp32: Path, pictures: Path) -> Artifact:
    bundle = load_artifact(root)
    return bench_bundle(
        bundle,
        load_artifact(fp32),
        load_artifact(baseline),
        bundle.sibling("bench"),
        data=folder_evalset(pictures),
        config=BENCH,
        budget=Budget(latency_ratio=1000.0),
    )
