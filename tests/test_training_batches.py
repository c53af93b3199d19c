"""Batches of concepts, text noise and subword splits."""

import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.errors import ConfigError
from dmedge.training.augment import noisy_text
from dmedge.training.batch import TrainBatch
from dmedge.training.batches import Batcher, padded_chunks, split_tokens
from dmedge.training.data import draw_batch, load_training_data
from dmedge.training.loader import batches
from tests.tiny_training import ENDINGS, tiny_batcher, tiny_config, tiny_data

TEXTS = ["red heart", "grinning face", "красное сердце", "कुत्ता", "犬の顔", "dog face", "cat face"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    train_tokenizer(TEXTS, path, 400)
    return Tokenizer(path, 24)


def test_a_split_keeps_the_text_and_varies(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    ids = tokenizer.encode("grinning face")
    splits = [split_tokens(ids, tokenizer, rng) for _ in range(50)]
    texts = {"".join(tokenizer.piece(token) for token in split) for split in splits}
    assert texts == {"".join(tokenizer.piece(token) for token in ids)}
    assert len({tuple(split) for split in splits}) > 1


def test_a_split_stays_within_the_context(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("grinning face " * 20)
    assert len(split_tokens(ids, tokenizer, np.random.default_rng(0))) <= tokenizer.context_length


def test_splits_and_noise_are_the_same_in_another_process(tokenizer: Tokenizer) -> None:
    program = (
        "import sys, numpy as np\n"
        "from dmedge.data.tokenizer import Tokenizer\n"
        "from dmedge.training.augment import noisy_text\n"
        "from dmedge.training.batches import split_tokens\n"
        "tokenizer, rng = Tokenizer(sys.argv[1], 24), np.random.default_rng(5)\n"
        "print([split_tokens(tokenizer.encode(noisy_text('grinning face', rng)), tokenizer, rng) for _ in range(20)])"
    )
    rng = np.random.default_rng(5)
    here = [split_tokens(tokenizer.encode(noisy_text("grinning face", rng)), tokenizer, rng) for _ in range(20)]
    there = subprocess.run(
        [sys.executable, "-c", program, str(tokenizer.model_path)], capture_output=True, check=True, text=True
    )
    assert there.stdout.strip() == str(here)


@pytest.mark.parametrize("text", ["a", "ab", "abc", "grinning face", "犬の顔"])
def test_noise_never_empties_a_text(text: str) -> None:
    rng = np.random.default_rng(0)
    assert all(noisy_text(text, rng) for _ in range(200))


# Batches of concepts

PLAIN: dict[str, Any] = {"augment": 0.0, "text_noise": 0.0, "subword_sampling": 0.0}


@pytest.fixture(scope="module")
def batcher(tmp_path_factory: pytest.TempPathFactory) -> Batcher:
    return tiny_batcher(tmp_path_factory.mktemp("batcher"))


def plain(batcher: Batcher, **changes: Any) -> Batcher:
    return replace(batcher, config=tiny_config(**PLAIN | changes))


def tensors(batch: TrainBatch) -> list[torch.Tensor]:
    return [batch.pixels, batch.key, *(each for chunk in batch.chunks for each in (chunk.ids, chunk.mask, chunk.key))]


def texts_of(batch: TrainBatch) -> list[tuple[int, list[int]]]:
    """Key and tokens of every text, in an order that does not depend on the chunks."""
    return sorted(
        (int(key), ids[mask > 0].tolist())
        for chunk in batch.chunks
        for ids, mask, key in zip(chunk.ids, chunk.mask, chunk.key, strict=True)
    )


def test_the_key_of_pictures_and_texts_is_their_concept(batcher: Batcher) -> None:
    batch = plain(batcher).batch(0, 0, 1)
    data, concepts = batcher.data, batch.key.tolist()
    assert len(set(concepts)) == 6
    for pixels, concept in zip(batch.pixels.numpy(), concepts, strict=True):
        own = data.images[data.first_image[concept] : data.first_image[concept + 1]]
        assert any(np.array_equal(pixels, image) for image in own)
    texts = texts_of(batch)
    assert [key for key, _ in texts] == sorted(concepts * 2)
    for key, ids in texts:
        assert ids in [batcher.tokens[row] for row in np.flatnonzero(data.text_concept == key)]


def test_one_process_draws_pictures_first_and_texts_from_what_is_left(batcher: Batcher) -> None:
    batch, rng, generator = batcher.draw(5)
    pixels = batcher.images(batch, rng, generator)
    chunks = batcher.text_chunks(batch, rng)
    again = TrainBatch(pixels, torch.from_numpy(batch.concepts), chunks)
    assert all(map(torch.equal, tensors(batcher.batch(5, 0, 1)), tensors(again)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_is_the_same_in_any_order_and_process(batcher: Batcher, workers: int) -> None:
    with closing(batches(batcher, 3, 7, workers=workers)) as made:
        found = list(made)
    for step in (6, 3, 5, 4):
        assert all(map(torch.equal, tensors(found[step - 3]), tensors(batcher.batch(step, 0, 1))))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_see_together_what_one_process_sees(batcher: Batcher, world: int) -> None:
    undisturbed = plain(batcher)
    for step in range(3):
        whole = undisturbed.batch(step, 0, 1)
        parts = [undisturbed.batch(step, rank, world) for rank in range(world)]
        for rank, part in enumerate(parts):
            assert torch.equal(part.key, whole.key[rank::world])
            assert torch.equal(part.pixels, whole.pixels[rank::world])
        assert sorted(text for part in parts for text in texts_of(part)) == texts_of(whole)


def test_ranks_are_augmented_each_in_its_own_way(batcher: Batcher) -> None:
    first, second = (batcher.batch(0, rank, 2) for rank in range(2))
    again = batcher.batch(0, 1, 2)
    assert all(map(torch.equal, tensors(second), tensors(again)))
    alike = replace(batcher, data=replace(batcher.data, images=np.full_like(batcher.data.images, 128)))
    one, two = (alike.batch(0, rank, 2).pixels for rank in range(2))
    assert not torch.equal(one, two)
    assert first.pixels.shape == second.pixels.shape


def test_an_epoch_is_every_picture(batcher: Batcher) -> None:
    assert batcher.images_per_epoch == 12 * 2


def test_languages_are_drawn_as_they_occur_without_balance() -> None:
    data = tiny_data()
    rare = np.arange(len(data.texts)) % 6 < 5  # one text of two in the last language is gone
    kept = replace(
        data,
        texts=tuple(np.array(data.texts)[rare].tolist()),
        text_concept=data.text_concept[rare],
        first_text=np.concatenate([[0], np.cumsum([2, 2, 1] * 12)]),
    )
    drawn = {}
    for balance in (0.0, 1.0):
        texts = [draw_batch(kept, np.random.default_rng(i), 12, 8, 0.0, balance).texts for i in range(100)]
        cell = np.searchsorted(kept.first_text, np.concatenate(texts), side="right") - 1
        drawn[balance] = np.bincount(cell % len(ENDINGS)) / cell.size
    np.testing.assert_allclose(drawn[0.0], [0.4, 0.4, 0.2], atol=0.03)  # five deviations of 9600 draws
    np.testing.assert_allclose(drawn[1.0], [1 / 3] * 3, atol=0.03)


def test_in_some_languages_their_texts_stay_where_they_belong() -> None:
    data = tiny_data()
    kept = data.in_languages(("cc", "aa"))
    assert kept.languages == ("aa", "cc")
    wanted = [
        (concept, text)
        for concept in range(data.concepts)
        for cell in (3 * concept, 3 * concept + 2)
        for text in data.texts[data.first_text[cell] : data.first_text[cell + 1]]
    ]
    assert list(zip(kept.text_concept.tolist(), kept.texts, strict=True)) == wanted
    assert kept.first_text.tolist() == [2 * cell for cell in range(2 * data.concepts + 1)]
    assert kept.images is data.images
    assert data.in_languages(()) is data
    with pytest.raises(ConfigError, match="no text in 'dd'"):
        data.in_languages(("dd",))


def test_chunks_hold_every_text_once() -> None:
    lengths = [3, 1, 2, 5, 4, 1, 9]
    chunks = padded_chunks([[7] * length for length in lengths], np.arange(7), np.arange(7, dtype=np.uint64), 3)
    assert sorted(key for chunk in chunks for key in chunk.key.tolist()) == list(range(7))
    for chunk in chunks:
        assert chunk.mask.sum(1).tolist() == [lengths[key] for key in chunk.key.tolist()]
        assert torch.equal(chunk.ids, chunk.mask * 7)
    assert padded_chunks([], np.arange(0), np.zeros(0, np.uint64), 3) == ()


def test_the_embedded_pictures_come_in_the_size_that_the_model_takes() -> None:
    small, full = load_training_data(16), load_training_data(48)
    assert small.images.shape == (len(full.images), 16, 16, 3)
    assert small.texts == full.texts
