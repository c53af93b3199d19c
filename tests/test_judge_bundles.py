"""The judge on trial with real programs: whatever was done to them on the way is caught by what looks for it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmedge.artifact import Artifact, load_artifact
from dmedge.data.evalset import EvalSet, emoji_evalset
from dmedge.data.tokenizer import train_tokenizer
from dmedge.errors import DataError
from dmedge.evidence.accuracy import AccuracyReport, TextImageEncoder, evaluate
from dmedge.evidence.comparison import Comparison
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.leakage import CALIBRATION
from dmedge.evidence.measured import judge_retentions
from dmedge.evidence.parity import check_parity
from dmedge.evidence.retrieval import Floats
from dmedge.evidence.verdict import Budget
from dmedge.flow.evaluate import evaluate_artifact
from dmedge.model.checkpoint import WEIGHTS
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.session import open_session
from dmedge.runtime.wire import Array
from tests.forged import Change, altered, json_changed, tensor_changed
from tests.tiny_bundles import CONFIG as TINY
from tests.tiny_bundles import int8_checkpoint, onnx_bundle, onnx_int8_bundle, tiny_checkpoint

__all__ = ["int8_checkpoint", "onnx_bundle", "onnx_int8_bundle", "tiny_checkpoint"]

SHUFFLED = np.random.default_rng(0).permutation(TINY.vocab_size)

# Parity: the golden outputs are those of torch


def other_vocabulary(root: Path) -> None:
    """The same words in another order give other ids."""
    train_tokenizer(["house red", "apple green", "pear", "ramen soup"] * 6, root / "tokenizer.model", TINY.vocab_size)


def layer_of_zeros(root: Path) -> None:
    """A convolution, which is four of sums of columns in a float program for this target."""
    for part in ("left", "right", "total", "difference"):
        tensor_changed("encode_image", f"image.blocks.2.second.{part}.weight", np.zeros_like)(root)


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "colours swapped": (
        "encode_image",
        tensor_changed("encode_image", "image.stem.weight", lambda weight: weight[:, ::-1]),
    ),
    "no antialias": ("pixels", json_changed("preprocessor_config.json", resample="nearest")),
    "vocabulary shuffled": (
        "encode_text",
        tensor_changed("encode_text", "text.token.weight", lambda weight: weight[SHUFFLED]),
    ),
    "another vocabulary": ("token ids", other_vocabulary),
    "a layer of zeros": ("encode_image", layer_of_zeros),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_parity_catches_and_names(name: str, onnx_bundle: Artifact, tmp_path: Path) -> None:
    where, change = DAMAGE[name]
    damaged = altered(onnx_bundle, tmp_path / "damaged", change)
    with open_session(damaged) as session:
        report = check_parity(session, damaged)
    assert report.error_ratio > 1
    assert report.first is not None and report.first[0] == where


def test_parity_catches_text_that_is_cut_too_early(onnx_bundle: Artifact, tmp_path: Path) -> None:
    short = altered(onnx_bundle, tmp_path / "short", summary={"context_length": TINY.context_length // 2})
    with open_session(short) as session:
        report = check_parity(session, short)
    assert report.texts_differing and report.error_ratio == float("inf")


# Coverage: the integers of the checkpoint must be in the programs


def test_a_model_that_was_never_quantized_is_caught_even_if_its_bundle_claims_nothing(
    onnx_bundle: Artifact, onnx_int8_bundle: Artifact
) -> None:
    """Float programs under a manifest that forgot its plan: the checkpoint still knows it."""

    def put_float_programs(root: Path) -> None:
        shutil.copytree(onnx_bundle.root / "programs", root / "programs", dirs_exist_ok=True)

    out = onnx_int8_bundle.sibling("silent")
    silent = altered(onnx_int8_bundle, out, put_float_programs, precision={"*": "float32"})
    coverage = measure_coverage(silent, "onnxruntime")
    assert coverage is not None
    assert coverage.modules_planned > 10 and coverage.share_carried_out == 0.0


# Leakage: what was calibrated on is no evidence, whoever asks


def test_eval_refuses_the_pictures_that_were_calibrated_on(int8_checkpoint: Artifact, tmp_path: Path) -> None:
    pictures = list(np.random.default_rng(0).integers(0, 256, (4, TINY.image_size, TINY.image_size, 3), np.uint8))
    items = [{"pixels_sha256": hashlib.sha256(p.tobytes()).hexdigest(), "text_sha256": ""} for p in pictures[:3]]
    record = json.dumps({"data": "mine", "items": items})
    fitted = altered(int8_checkpoint, tmp_path / "fitted", lambda root: (root / CALIBRATION).write_text(record))
    data = EvalSet("seen", pictures, tuple("abcd"), ("x",), np.zeros(1, np.int64), ("en",))
    with pytest.raises(DataError, match=r"3 pictures and 0 novel texts were calibrated on \(mine\)"):
        evaluate_artifact(fitted, data)


# Accuracy: a trained model, on pictures that it never saw


@pytest.fixture(scope="module")
def trained() -> Artifact:
    return load_artifact("emoji", kind="checkpoint")


@pytest.fixture(scope="module")
def names() -> EvalSet:
    """Three languages, and every fifth picture of the unseen style."""
    whole = emoji_evalset(locales=("de", "en", "ja"))
    places = np.arange(0, len(whole.images), 5)
    kept = np.isin(whole.text_image, places) & ~whole.tags["unseen_emoji"]
    fewer = whole.subset(kept)
    return replace(
        fewer,
        images=[whole.images[place] for place in places.tolist()],
        clusters=tuple(whole.clusters[place] for place in places),
        text_image=np.searchsorted(places, fewer.text_image),
    )


@dataclass(frozen=True, eq=False)
class Sides:
    """An encoder whose other side is known already."""

    encoder: TextImageEncoder
    known_images: Floats | None = None
    known_texts: dict[str, Array] | None = None

    def images(self, images: Sequence[Any]) -> Floats:
        return self.encoder.images(images) if self.known_images is None else self.known_images

    def texts(self, texts: Sequence[str]) -> Floats:
        return self.encoder.texts(texts) if self.known_texts is None else np.stack([self.known_texts[t] for t in texts])


@dataclass(frozen=True, eq=False)
class Baseline:
    sides: Sides
    report: AccuracyReport


@pytest.fixture(scope="module")
def baseline(trained: Artifact, names: EvalSet) -> Baseline:
    with Encoder(trained, show_progress=False) as encoder:
        texts = list(dict.fromkeys(names.texts))
        known = dict(zip(texts, encoder.texts(texts), strict=True))
        sides = Sides(encoder, encoder.images(names.images), known)
        return Baseline(sides, evaluate(sides, names))


def verdicts(artifact: TextImageEncoder, baseline: Baseline, names: EvalSet) -> dict[str, str]:
    comparison = Comparison(evaluate(artifact, names), baseline.report, resamples=500)
    return {line.name: line.verdict for line in judge_retentions(comparison, Budget())}


def test_accuracy_lets_a_copy_be(baseline: Baseline, names: EvalSet) -> None:
    assert "fail" not in verdicts(baseline.sides, baseline, names).values()


def weights_changed(name: str, change: Change) -> Callable[[Path], None]:
    """Changes one tensor of a checkpoint."""

    def change_file(root: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(root / WEIGHTS)
        save_file(tensors | {name: np.ascontiguousarray(change(tensors[name]))}, root / WEIGHTS)

    return change_file


WOUNDS: dict[str, tuple[str, Change]] = {
    "colours swapped": ("image.stem.conv.weight", lambda weight: weight[:, ::-1]),
    "vocabulary shuffled": ("text.token.weight", lambda weight: weight[np.random.default_rng(0).permutation(12000)]),
    "a layer of zeros": ("image.blocks.3.second.conv.weight", np.zeros_like),
}


@pytest.mark.parametrize("name", WOUNDS)
def test_accuracy_catches_even_what_was_there_before_the_export(
    name: str, trained: Artifact, baseline: Baseline, names: EvalSet, tmp_path: Path
) -> None:
    """A bundle proves itself by the checkpoint that it was exported from; a damaged one conforms to itself."""
    tensor, change = WOUNDS[name]
    damaged = altered(trained, tmp_path / "damaged", weights_changed(tensor, change))
    is_image = tensor.startswith("image.")
    known = {"known_texts": baseline.sides.known_texts} if is_image else {"known_images": baseline.sides.known_images}
    with Encoder(damaged, show_progress=False) as encoder:
        found = verdicts(Sides(encoder, **known), baseline, names)
    assert found["macro_recall_at_10_retention"] == "fail"


def test_accuracy_catches_text_that_is_cut(baseline: Baseline, names: EvalSet, trained: Artifact) -> None:
    with Encoder(trained, show_progress=False) as encoder:
        cut = encoder.texts([text[:4] for text in names.texts])
    known = dict(zip(names.texts, cut, strict=True))
    sides = Sides(baseline.sides.encoder, baseline.sides.known_images, known)
    assert verdicts(sides, baseline, names)["macro_recall_at_10_retention"] == "fail"


def test_accuracy_catches_pictures_of_another_size_without_antialias(
    baseline: Baseline, names: EvalSet, trained: Artifact
) -> None:
    """Down to a sixth and up again; at a third this model loses next to nothing, and parity alone sees it."""

    def spoiled(image: Any) -> Array:
        picture = Image.fromarray(np.asarray(image))
        small = picture.resize((picture.width // 6, picture.height // 6), Image.Resampling.NEAREST)
        return np.asarray(small.resize(picture.size, Image.Resampling.NEAREST))

    with Encoder(trained, show_progress=False) as encoder:
        images = encoder.images([spoiled(image) for image in names.images])
    sides = Sides(baseline.sides.encoder, images, baseline.sides.known_texts)
    assert verdicts(sides, baseline, names)["macro_recall_at_10_retention"] == "fail"
