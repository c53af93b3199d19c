"""A tiny, seeded, random checkpoint, in int8 and int4 as well, and bundles of them in both runtimes."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import nn

from dmedge.artifact import Artifact, new_artifact
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.export.targets import find_target
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, save_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.runtime.wire import Array
from tests.made_once import made_once

CONFIG = ModelConfig(
    vocab_size=320,
    classes=5,
    image_size=16,
    image_width=8,
    text_width=32,
    text_layers=1,
    embed_dim=12,
    context_length=16,
    concepts=12,
)
INT8 = CompressConfig(int8=True, ledger_texts=0, calibration_items=32)
INT4 = CompressConfig(int4=True, ledger_texts=0, calibration_items=32)

WORDS = ["red apple", "green pear", "grüner Baum", "rotes Haus", "red house", "ラーメン", "soupe de nouilles"]


def tiny_model(config: ModelConfig = CONFIG) -> DualEncoder:
    """A random model in which every branch has a say: no weight is left at zero."""
    torch.manual_seed(0)
    model = DualEncoder(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval().requires_grad_(False)


def two_layer_model() -> DualEncoder:
    """As `tiny_model`, with a second layer of text, for laws that look into the model and lower nothing."""
    return tiny_model(replace(CONFIG, text_layers=2))


def example_inputs(name: str, length: int = 6) -> list[Array]:
    """Random inputs of one program, another draw with every call."""
    size, mask = CONFIG.image_size, np.ones((1, length), np.int32)
    if name == "encode_image":
        return [np.random.randint(0, 256, (1, size, size, 3), np.uint8)]
    if name == "encode_text":
        return [np.random.randint(1, CONFIG.vocab_size, (1, length), np.int32), mask]
    patches = np.random.standard_normal((1, (size // 8) ** 2, 4 * CONFIG.image_width)).astype(np.float32)
    return [patches, np.random.standard_normal((1, length, CONFIG.text_width)).astype(np.float32), mask]


def tiny_tokenizer(folder: Path) -> Tokenizer:
    """A vocabulary over the words of `WORDS`, with bytes for everything else."""
    path = folder / "tokenizer.model"
    train_tokenizer(WORDS * 4, path, CONFIG.vocab_size)
    return Tokenizer(path, CONFIG.context_length)


def write_checkpoint(out: Path, config: ModelConfig = CONFIG) -> Artifact:
    """A checkpoint of `tiny_model`."""
    with new_artifact(out) as draft, TemporaryDirectory() as folder:
        labels = tuple(f"label {i}" for i in range(CONFIG.classes))
        tokenizer = tiny_tokenizer(Path(folder))
        save_checkpoint(draft.path, Checkpoint(tiny_model(config), tokenizer, Preprocess(CONFIG.image_size), labels))
        return draft.finish(kind="checkpoint", stage="test", config={}, programs=checkpoint_programs(config), tools={})


def quick_export(target: str) -> ExportConfig:
    """For a target, with its first runtime alone, to be quick."""
    return ExportConfig(target=target, runtimes=find_target(target).runtimes[:1])


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made_once(tmp_path_factory, "checkpoint", write_checkpoint)


@pytest.fixture(scope="session")
def int8_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Artifact) -> Artifact:
    return made_once(tmp_path_factory, "int8", lambda out: compress_artifact(tiny_checkpoint, INT8, out))


@pytest.fixture(scope="session")
def int4_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Artifact) -> Artifact:
    return made_once(tmp_path_factory, "int4", lambda out: compress_artifact(tiny_checkpoint, INT4, out))


@pytest.fixture(scope="session")
def onnx_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Artifact) -> Artifact:
    return bundle_once(tmp_path_factory, tiny_checkpoint, "linux-x86_64")


@pytest.fixture(scope="session")
def pte_bundle(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Artifact) -> Artifact:
    return bundle_once(tmp_path_factory, tiny_checkpoint, "android")


@pytest.fixture(scope="session")
def onnx_int8_bundle(tmp_path_factory: pytest.TempPathFactory, int8_checkpoint: Artifact) -> Artifact:
    return bundle_once(tmp_path_factory, int8_checkpoint, "linux-x86_64")


@pytest.fixture(scope="session")
def pte_int8_bundle(tmp_path_factory: pytest.TempPathFactory, int8_checkpoint: Artifact) -> Artifact:
    """With a program that verifies itself, and gates that it passes."""
    config = replace(quick_export("android"), bundled=True, min_delegated=0.9, min_int8=0.5)
    return made_once(tmp_path_factory, "int8-android", lambda out: export_bundle(int8_checkpoint, config, out))


def bundle_once(factory: pytest.TempPathFactory, checkpoint: Artifact, target: str) -> Artifact:
    """A shared checkpoint exported by `quick_export`, for all files that ask for it."""
    return made_once(
        factory,
        f"{checkpoint.name}-{target}",
        lambda out: export_bundle(checkpoint, quick_export(target), out),
    )
