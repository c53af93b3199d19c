"""Batches of records, made here or in workers: whole, repeatable, and without the records that cannot be read."""

import logging
import multiprocessing
import pickle
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dmedge.data.content import picture_id
from dmedge.data.hf_tokenizer import HfTokenizer, TokenizerRules, rules_json
from dmedge.data.records import DatasetConfig, Record
from dmedge.data.tokenizer import Tokenizer, train_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ConfigError, DataError
from dmedge.training.augment import augment_photo
from dmedge.training.batch import TrainBatch
from dmedge.training.config import TrainConfig
from dmedge.training.loader import Waiting, batches
from dmedge.training.record_source import NO_CLASS, ClassKind, RecordSource
from dmedge.training.shown import restore_shown_, shown_ids, shown_state

RECORDS, SIZE = 20, 16
WORDS = ("red", "green", "blue", "dark", "light")
PLAIN: dict[str, Any] = {"augment": 0.0, "text_noise": 0.0, "subword_sampling": 0.0}


@dataclass(frozen=True)
class Pictures:
    """Small pictures in memory, some of them broken."""

    broken: frozenset[int] = frozenset()
    name: str = "pictures"
    labels: tuple[str, ...] = ("a", "b", "c")
    answers: tuple[str, ...] = ("yes", "no")

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, index: int) -> Record:
        content = BytesIO()
        Image.fromarray(picture(index)).save(content, "PNG")
        image = content.getvalue()[:50] if index in self.broken else content.getvalue()
        texts = tuple(f"{word} number {index}" for word in WORDS[: 1 + index % 4])
        labels = (index % 3,) if index % 5 else ()
        return Record(f"p{index}", image, texts, ("en",) * len(texts), labels, {"yes": 0.6, "rare": 1.0})

    def text_languages(self) -> tuple[tuple[str, ...], ...]:
        return tuple(("en",) * (1 + index % 4) for index in range(RECORDS))


def picture(index: int) -> np.typing.NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    train_tokenizer([f"{word} number {i}" for word in WORDS for i in range(20)], path, 400)
    return Tokenizer(path, 24)


def hf_tokenizer(*, pads: bool) -> HfTokenizer:
    library = pytest.importorskip("tokenizers")
    words = {word: place for place, word in enumerate(("[PAD]", "[UNK]", "number", *WORDS))}
    inner = library.Tokenizer(library.models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = library.pre_tokenizers.Whitespace()
    rules = rules_json(TokenizerRules(kind="tokenizers", pad_id=0, pads=pads))
    return HfTokenizer({"tokenizer_rules.json": rules, "tokenizer.json": inner.to_str().encode()}, 9)


def source(
    tokenizer: Tokenizer | HfTokenizer,
    broken: Sequence[int] = (),
    *,
    class_kind: ClassKind = "none",
    max_bad_share: float = 0.2,
    **changes: Any,
) -> RecordSource:
    config = TrainConfig(
        batch_size=6, texts_per_image=2, dataset=DatasetConfig(max_bad_share=max_bad_share), data="folder"
    )
    return RecordSource(
        Pictures(frozenset(broken)), tokenizer, Preprocess(SIZE), replace(config, **changes), class_kind
    )


def texts_of(batch: TrainBatch) -> set[tuple[int, tuple[int, ...]]]:
    """Key and tokens of every text, without the padding."""
    return {
        (int(key), tuple(ids[mask > 0].tolist()))
        for chunk in batch.chunks
        for ids, mask, key in zip(chunk.ids, chunk.mask, chunk.key, strict=True)
    }


def assert_same(first: TrainBatch, second: TrainBatch) -> None:
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.key, second.key)
    assert first.names == second.names
    assert len(first.chunks) == len(second.chunks)
    for mine, theirs in zip(first.chunks, second.chunks, strict=True):
        assert torch.equal(mine.ids, theirs.ids)
        assert torch.equal(mine.mask, theirs.mask)
        assert torch.equal(mine.key, theirs.key)


# What a batch holds


def test_without_augmentation_a_picture_is_only_preprocessed(tokenizer: Tokenizer) -> None:
    batch = source(tokenizer, **PLAIN).batch(0, 0, 1)
    assert batch.pixels.dtype == torch.uint8
    assert batch.key.dtype == torch.int64
    for pixels, key, name in zip(batch.pixels, batch.key, batch.names, strict=True):
        assert name == f"p{int(key)}"
        assert np.array_equal(pixels.numpy(), picture(int(key)))


def test_texts_are_those_of_their_record_and_as_many_as_asked_for(tokenizer: Tokenizer) -> None:
    pairs = source(tokenizer, **PLAIN)
    shown = set()
    for step in range(20):
        batch = pairs.batch(step, 0, 1)
        texts = texts_of(batch)
        shown |= texts
        for key in batch.key.tolist():
            own = [ids for number, ids in texts if number == key]
            written = {tuple(tokenizer.encode(text)) for text in Pictures()[key].texts}
            assert set(own) <= written
            assert len(own) >= min(2, len(written))
    assert len(shown) == pairs.sampler.pairs  # every text turns up


def test_texts_are_padded_with_others_of_their_length(tokenizer: Tokenizer) -> None:
    batch = source(tokenizer, batch_size=20, **PLAIN).batch(0, 0, 1)
    lengths = [chunk.mask.sum(1) for chunk in batch.chunks]
    assert len(lengths) == 6
    assert all(chunk.ids.shape[1] == length.max() for chunk, length in zip(batch.chunks, lengths, strict=True))
    assert all(a.max() <= b.min() for a, b in pairwise(lengths))


@pytest.mark.parametrize(("pads", "chunks"), [(True, 1), (False, 6)], ids=["fixed", "longest"])
def test_a_foreign_tokenizer_pads_in_its_own_way(pads: bool, chunks: int) -> None:
    tokens = hf_tokenizer(pads=pads)
    batch = source(tokens, **PLAIN).batch(0, 0, 1)
    assert len(batch.chunks) == chunks
    assert all(chunk.ids.shape[1] == (9 if pads else 3) for chunk in batch.chunks)
    words = {(int(key), tokens.encode(text)[0]) for key in batch.key for text in Pictures()[int(key)].texts}
    assert {(key, ids[0]) for key, ids in texts_of(batch)} <= words


def test_classes_are_numbers_or_rows_of_zero_and_one(tokenizer: Tokenizer) -> None:
    single = source(tokenizer, class_kind="single").batch(0, 0, 1)
    expected = [key % 3 if key % 5 else NO_CLASS for key in single.key.tolist()]
    assert single.labels is not None
    assert single.labels.tolist() == expected
    multi = source(tokenizer, class_kind="multi").batch(0, 0, 1).labels
    assert multi is not None
    assert multi.tolist() == [[float(place == label) for place in range(3)] for label in expected]
    assert source(tokenizer).batch(0, 0, 1).labels is None


def test_answers_outside_the_vocabulary_are_left_out(tokenizer: Tokenizer) -> None:
    answers = source(tokenizer).batch(0, 0, 1).answers
    assert answers is not None
    assert torch.equal(answers, torch.tensor([[0.6, 0.0]] * 6))


def test_classes_that_the_data_does_not_have_are_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(DataError, match="pictures: no classes; expected some"):
        RecordSource(Pictures(labels=()), tokenizer, Preprocess(SIZE), TrainConfig(), "single")


# A pure function of the step


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_is_the_same_in_any_order_and_process(tokenizer: Tokenizer, workers: int) -> None:
    fresh = source(tokenizer, broken=[3])
    with closing(batches(source(tokenizer, broken=[3]), 2, 7, workers=workers)) as made:
        found = list(made)
    assert len(found) == 5
    for step in (6, 2, 4, 3, 5):
        assert_same(found[step - 2], fresh.batch(step, 0, 1))


@pytest.mark.parametrize("settings", [PLAIN, {}], ids=["plain", "augmented"])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_see_together_what_one_process_sees(tokenizer: Tokenizer, world: int, settings: dict[str, Any]) -> None:
    whole = source(tokenizer, broken=[3], **settings)
    for step in range(4):
        batch = whole.batch(step, 0, 1)
        parts = [source(tokenizer, broken=[3], **settings).batch(step, rank, world) for rank in range(world)]
        for rank, part in enumerate(parts):
            assert torch.equal(part.pixels, batch.pixels[rank::world])
            assert part.key.tolist() == batch.key[rank::world].tolist()
            assert part.names == batch.names[rank::world]
        assert set().union(*map(texts_of, parts)) == texts_of(batch)
        assert len({len(part.chunks) for part in parts}) == 1


def test_an_epoch_has_as_many_pictures_as_it_takes_to_show_every_text(tokenizer: Tokenizer) -> None:
    assert source(tokenizer, texts_per_image=1).images_per_epoch == 50
    assert 50 / 2 < source(tokenizer, texts_per_image=2).images_per_epoch < 50


# Bad records


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_are_replaced_counted_and_named(
    tokenizer: Tokenizer, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = source(tokenizer, broken=[3, 8])
    with caplog.at_level(logging.WARNING, "dmedge"), closing(batches(pictures, 0, 20, workers=workers)) as made:
        shown = {name for batch in made for name in batch.names}
    assert shown == {f"p{i}" for i in range(RECORDS)} - {"p3", "p8"}
    assert pictures.bad.bad == 2  # each counts once, whoever met it
    assert "2 of 20 records cannot be used: 2 broken picture" in pictures.bad.summary()
    assert "pictures: skipped p" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_shown_is_known_by_content_and_what_workers_made_ahead_is_not(
    tokenizer: Tokenizer, workers: int
) -> None:
    pictures = source(tokenizer, broken=[3])
    shown: set[str] = set()
    with closing(batches(pictures, 0, 20, workers=workers)) as made:
        for _ in range(2):
            shown |= set(next(made).names)
    ids = shown_ids(pictures)
    assert ids is not None and ids.tolist() == sorted(picture_id(Pictures()[int(name[1:])].image) for name in shown)
    again = source(tokenizer)
    restore_shown_(again, shown_state(pictures))
    assert np.array_equal(again.shown, pictures.shown)
    with pytest.raises(ConfigError, match="pictures: 20 records; expected the 7 that the run began with"):
        restore_shown_(again, torch.zeros(7, dtype=torch.int64))


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_pictures_stop_the_run(tokenizer: Tokenizer, workers: int) -> None:
    pictures = source(tokenizer, broken=[3, 8], max_bad_share=0.05)
    made = batches(pictures, 0, 20, workers=workers)
    with closing(made), pytest.raises(DataError, match=r"2 of 20 records .*\(first: p[38]\).*at most 0.05"):
        list(made)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_without_a_usable_picture_is_an_error_at_once(tokenizer: Tokenizer, workers: int) -> None:
    made = batches(source(tokenizer, broken=range(RECORDS), max_bad_share=1.0), 0, 20, workers=workers)
    with closing(made), pytest.raises(DataError, match=r"^pictures: 100 records drawn in a row .* is p\d+: broken"):
        next(made)


def test_a_picture_of_too_many_pixels_is_a_bad_one(tokenizer: Tokenizer) -> None:
    pictures = source(tokenizer, dataset=DatasetConfig(max_megapixels=1e-5))
    with pytest.raises(DataError, match="too many pixels"):
        pictures.batch(0, 0, 1)


def test_a_picture_that_the_preprocessing_refuses_is_a_bad_one(tokenizer: Tokenizer) -> None:
    def refuse(image: Image.Image) -> np.typing.NDArray[np.uint8]:
        pixels = Preprocess(SIZE)(image)
        if np.array_equal(pixels, picture(5)):
            raise ValueError("unable to infer channel dimension format")
        return pixels

    config = TrainConfig(batch_size=6, dataset=DatasetConfig(max_bad_share=0.1), **PLAIN)
    pictures = RecordSource(Pictures(), tokenizer, refuse, config)
    shown = {name for step in range(20) for name in pictures.batch(step, 0, 1).names}
    assert shown == {f"p{i}" for i in range(RECORDS)} - {"p5"}
    assert pictures.bad.bad == 1


# The loader


@pytest.mark.parametrize("kind", ["own", "foreign"])
def test_a_source_can_be_sent_to_a_process_of_its_own(tokenizer: Tokenizer, kind: str) -> None:
    here = source(tokenizer if kind == "own" else hf_tokenizer(pads=True))
    assert_same(pickle.loads(pickle.dumps(here)).batch(1, 0, 1), here.batch(1, 0, 1))


def test_closing_early_leaves_no_process(tokenizer: Tokenizer) -> None:
    made = batches(source(tokenizer), 0, 10**6, workers=2)
    next(made)
    assert len(multiprocessing.active_children()) == 2
    made.close()
    assert not multiprocessing.active_children()


def test_an_error_of_the_loop_leaves_no_process(tokenizer: Tokenizer) -> None:
    def loop() -> None:
        for _ in batches(source(tokenizer), 0, 10**6, workers=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_draws_no_number_that_a_resumed_run_restores(tokenizer: Tokenizer, workers: int) -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=False)
    with closing(batches(source(tokenizer), 0, 2, workers=workers)) as made:
        assert len(list(made)) == 2
    assert torch.equal(before, torch.get_rng_state())
    assert str(numpy_before) == str(np.random.get_state(legacy=False))


class Slow:
    """A source that takes its time."""

    images_per_epoch = 1

    def batch(self, step: int, rank: int, world: int) -> TrainBatch:
        time.sleep(0.05)
        return TrainBatch(torch.zeros(1, 1, 1, 3, dtype=torch.uint8), torch.tensor([step]), ())


def test_waiting_is_measured_and_evaluation_left_out() -> None:
    waiting, began = Waiting(), time.perf_counter()
    for _ in batches(Slow(), 0, 4, waiting=waiting):
        time.sleep(0.01)
        with waiting.aside():
            time.sleep(0.05)
    assert waiting.waited_s >= 4 * 0.05
    assert waiting.worked_s >= 4 * 0.01
    assert waiting.waited_s + waiting.worked_s <= time.perf_counter() - began - 4 * 0.05
    assert waiting.share == waiting.waited_s / (waiting.waited_s + waiting.worked_s)


def test_workers_make_batches_while_the_loop_works() -> None:
    waiting = Waiting()
    with closing(batches(Slow(), 0, 7, workers=2, waiting=waiting)) as made:
        next(made)
        at_start = waiting.waited_s  # of the processes
        for _ in made:
            time.sleep(0.1)
    assert waiting.waited_s - at_start < 6 * 0.05  # which one process would wait


# Augmentation of photographs


def photos() -> Iterator[Image.Image]:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    yield from (rgb.convert(mode) for mode in ("RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "YCbCr"))
    yield Image.fromarray(np.arange(90 * 120, dtype=np.uint16).reshape(90, 120))
    yield rgb.resize((1, 1))
    turned = rgb.copy()
    turned.getexif()[274] = 6
    yield turned


@pytest.mark.parametrize("image", list(photos()), ids=lambda image: f"{image.mode}-{image.width}")
def test_photos_of_every_mode_are_augmented(image: Image.Image) -> None:
    seen = set()
    for seed in range(4):
        for strength in (0.3, 1.0, 3.0):
            changed = augment_photo(image, np.random.default_rng(seed), strength, size=16, may_flip=True)
            again = augment_photo(image, np.random.default_rng(seed), strength, size=16, may_flip=True)
            assert np.array_equal(np.array(changed), np.array(again))
            pixels = Preprocess(16)(changed)
            assert pixels.shape == (16, 16, 3)
            seen.add(pixels.tobytes())
    assert len(seen) > 6 or image.size == (1, 1)


def test_augmentation_of_no_strength_returns_the_photo_itself() -> None:
    photo = next(photos())
    assert augment_photo(photo, np.random.default_rng(0), 0.0, size=16, may_flip=True) is photo


def test_photos_are_mirrored_only_where_asked_for() -> None:
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 1, 3)))

    def mirrored(may_flip: bool) -> int:
        found = (
            np.asarray(augment_photo(ramp, np.random.default_rng(seed), 1.0, size=64, may_flip=may_flip))
            for seed in range(60)
        )
        return sum(int(pixels[:, 0].mean() > pixels[:, -1].mean()) for pixels in found)

    assert mirrored(may_flip=False) == 0
    assert 15 < mirrored(may_flip=True) < 45  # four standard deviations around half of them


def test_a_turned_photo_is_augmented_upright() -> None:
    sky = np.zeros((40, 40, 3), np.uint8)
    sky[:20] = 255
    turned = Image.fromarray(np.rot90(sky).copy())
    turned.getexif()[274] = 6  # turn by 90 degrees clockwise to see it
    for seed in range(10):
        pixels = Preprocess(16)(augment_photo(turned, np.random.default_rng(seed), 0.5, size=16))
        assert pixels[4].mean() > pixels[12].mean()


def test_recolouring_keeps_grey_grey_and_what_is_transparent() -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)).convert("RGB")
    clear = grey.copy()
    clear.putalpha(Image.new("L", grey.size, 77))
    for seed in range(5):
        pixels = np.asarray(augment_photo(grey, np.random.default_rng(seed), 1.0, size=32)).astype(int)
        assert np.ptp(pixels, axis=2).max() <= 1  # of rounding
        layer = np.asarray(augment_photo(clear, np.random.default_rng(seed), 1.0, size=32))
        assert np.array_equal(layer[..., :3], pixels)
        assert (layer[..., 3] == 77).all()


def test_strong_augmentation_keeps_a_tenth_of_the_area() -> None:
    photo = next(photos())
    sizes = [augment_photo(photo, np.random.default_rng(seed), 1.0, size=200).size for seed in range(100)]
    areas = [width * height / (photo.width * photo.height) for width, height in sizes]
    assert 0.48 < min(areas) < 0.6
    assert 0.9 < max(areas) <= 1
