"""An encoder embeds alike in every runtime, whatever the order, the batch and the number of workers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dmedge.artifact import Artifact
from dmedge.errors import ArtifactError, DataError, DmedgeError
from dmedge.patience import patient_progress
from dmedge.runtime import shared_work
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.front_end import context_length
from tests.conftest import MakeArtifact
from tests.tiny_bundles import CONFIG, WORDS, onnx_bundle, pte_bundle, tiny_checkpoint

__all__ = ["onnx_bundle", "pte_bundle", "tiny_checkpoint"]  # fixtures

TEXTS = ["", "x", *WORDS, "red apple", "красный дом", "🍜", "word " * 100]
BUNDLES = ["onnx_bundle", pytest.param("pte_bundle", marks=pytest.mark.slow)]


@pytest.fixture
def pictures(rng: np.random.Generator) -> list[Any]:
    """Arrays and pictures of several shapes and modes."""
    arrays = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((16, 16, 3), (40, 20, 3), (9, 50, 3))]
    grey = Image.fromarray(rng.integers(0, 256, (30, 31), dtype=np.uint8))
    clear = Image.fromarray(rng.integers(0, 256, (20, 20, 4), dtype=np.uint8))
    return [*arrays, grey, clear]


@pytest.fixture
def baseline(tiny_checkpoint: Artifact) -> Iterator[Encoder]:
    with Encoder(tiny_checkpoint) as opened:
        yield opened


def assert_close(found: NDArray[np.float32], want: NDArray[np.float32]) -> None:
    assert found.dtype == want.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_bundle_embeds_like_its_checkpoint(
    bundle: str, baseline: Encoder, pictures: list[Any], request: pytest.FixtureRequest
) -> None:
    with Encoder(request.getfixturevalue(bundle)) as encoder:
        assert_close(encoder.texts(TEXTS), baseline.texts(TEXTS))
        assert_close(encoder.images(pictures), baseline.images(pictures))
        texts = TEXTS[: len(pictures)]
        for found, want in zip(encoder.pairs(pictures, texts), baseline.pairs(pictures, texts), strict=True):
            assert_close(found, want)
        assert encoder.labels == baseline.labels
        assert encoder.embed_dim == baseline.embed_dim == CONFIG.embed_dim


def test_embeddings_are_unit_vectors_in_the_order_given(baseline: Encoder, pictures: list[Any]) -> None:
    texts, images = baseline.texts(TEXTS), baseline.images(pictures)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([texts, images]), axis=1), 1, rtol=1e-5)
    assert_close(baseline.texts(TEXTS[::-1]), texts[::-1])
    assert_close(baseline.images(pictures[::-1]), images[::-1])
    np.testing.assert_array_equal(texts[TEXTS.index("red apple")], texts[len(WORDS) + 2])  # named twice in TEXTS


def test_nothing_embeds_as_nothing(baseline: Encoder) -> None:
    assert baseline.texts([]).shape == baseline.images([]).shape == (0, CONFIG.embed_dim)
    match, classes = baseline.pairs([], [])
    assert match.shape == (0,)
    assert classes.shape == (0, CONFIG.classes)


def test_workers_share_the_work_and_keep_the_order(
    onnx_bundle: Artifact, baseline: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_work, "CHUNK", 3)  # many chunks for two workers to race for
    texts = [f"{word} {i}" for i in range(6) for word in WORDS]
    with Encoder(onnx_bundle, workers=2) as encoder:
        assert_close(encoder.texts(texts), baseline.texts(texts))
        assert len(encoder.facts()) == 2
    with pytest.raises(DmedgeError, match="workers is 0; expected 1 or more"):
        Encoder(onnx_bundle, workers=0)


def test_array_of_the_right_size_is_what_preprocessing_would_give(baseline: Encoder, pictures: list[Any]) -> None:
    ready: NDArray[np.uint8] = pictures[0]
    assert_close(baseline.images([ready]), baseline.images([Image.fromarray(ready)]))


def test_pairs_fuse_the_right_image_with_the_right_text(baseline: Encoder, pictures: list[Any]) -> None:
    match, classes = baseline.pairs([pictures[0], pictures[1], pictures[0]], ["x", "x", "red apple"])
    for i, (picture, text) in enumerate([(pictures[0], "x"), (pictures[1], "x"), (pictures[0], "red apple")]):
        alone = baseline.pairs([picture], [text])
        assert_close(alone[0], match[i : i + 1])
        assert_close(alone[1], classes[i : i + 1])
    assert len({*match.tolist()}) == 3


def test_fuse_is_what_pairs_are_made_of(baseline: Encoder, pictures: list[Any]) -> None:
    ids, mask = baseline.text_inputs("red apple")
    _, patches = baseline.session.run("encode_image", [pictures[0][None]])
    _, tokens = baseline.session.run("encode_text", [ids, mask])
    for found, want in zip(
        baseline.fuse(patches, tokens, mask), baseline.pairs(pictures[:1], ["red apple"]), strict=True
    ):
        assert_close(found, want)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)],
    ids=["grey", "alpha", "float"],
)
def test_array_of_another_layout_is_refused(image: Any, baseline: Encoder) -> None:
    with pytest.raises(DataError, match=r"expected uint8\[height, width, 3\]"):
        baseline.images([image])


def test_pairs_of_unequal_number_are_refused(baseline: Encoder, pictures: list[Any]) -> None:
    with pytest.raises(DataError, match="5 images and 1 texts"):
        baseline.pairs(pictures, ["x"])


def test_closed_encoder_says_so(onnx_bundle: Artifact) -> None:
    encoder = Encoder(onnx_bundle)
    encoder.close()
    encoder.close()
    with pytest.raises(DmedgeError, match="closed"):
        encoder.texts(["x"])


def test_artifact_that_names_no_context_length_is_refused(make_artifact: MakeArtifact) -> None:
    with pytest.raises(ArtifactError, match="names no context_length"):
        context_length(make_artifact("bundle", kind="bundle"))


def test_progress_shows_only_when_work_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []

    @contextmanager
    def fake(description: str, total: int) -> Iterator[Callable[[float], None]]:
        assert (description, total) == ("encoding texts", 30)
        yield steps.append

    monkeypatch.setattr("dmedge.patience.progress", fake)
    for wait_s, is_shown, want in ((60.0, True, []), (0.0, False, []), (0.0, True, [10, 20])):
        monkeypatch.setattr("dmedge.patience.WAIT_S", wait_s)
        with patient_progress("encoding texts", 30, is_shown=is_shown) as advance:
            advance(10)
            advance(20)
        assert steps == want
