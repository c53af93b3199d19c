"""Captioned pictures, and evidence of the tiny int8 bundle on them."""

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet, folder_evalset
from dmedge.evidence.bench import bench_bundle
from dmedge.evidence.config import BenchConfig, VerifyConfig
from dmedge.evidence.verdict import Budget
from dmedge.evidence.verify import verify_bundle
from tests.made_once import made_once
from tests.tiny_bundles import WORDS

PICTURES = 16
LANGUAGES = ("de", "en", "ja")
BENCH = BenchConfig(rounds=2, repeats=1)
VERIFY = VerifyConfig(resamples=100, robustness=True, robustness_texts=12)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random pictures, each with a caption in three languages."""
    return _pictures(tmp_path_factory.getbasetemp() / "captioned")


@pytest.fixture(scope="session")
def data(pictures: Path) -> EvalSet:
    return folder_evalset(pictures)


@pytest.fixture(scope="session")
def verify_evidence(
    tmp_path_factory: pytest.TempPathFactory,
    onnx_int8_bundle: Artifact,
    tiny_checkpoint: Artifact,
    onnx_bundle: Artifact,
    data: EvalSet,
) -> Artifact:
    def make(out: Path) -> Artifact:
        return verify_bundle(
            onnx_int8_bundle,
            tiny_checkpoint,
            out,
            data=data,
            config=VERIFY,
            budget=Budget(),
            fp32_bundle=onnx_bundle,
        )

    return made_once(tmp_path_factory, f"{onnx_int8_bundle.name}-verify", make)


@pytest.fixture(scope="session")
def bench_evidence(
    tmp_path_factory: pytest.TempPathFactory,
    onnx_int8_bundle: Artifact,
    tiny_checkpoint: Artifact,
    onnx_bundle: Artifact,
    data: EvalSet,
) -> Artifact:
    def make(out: Path) -> Artifact:
        budget = Budget(latency_ratio=1000.0)
        return bench_bundle(
            onnx_int8_bundle, lambda: onnx_bundle, tiny_checkpoint, out, data=data, config=BENCH, budget=budget
        )

    return made_once(tmp_path_factory, f"{onnx_int8_bundle.name}-bench", make)


@cache  # a fixture that two modules import is made twice, however wide its scope
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
