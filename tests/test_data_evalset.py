"""Evaluation sets from the pack: what is held out, and what the tags mean."""

from typing import get_args

import numpy as np
import pytest

from dmedge.data.emoji import TEST_STYLE, VALIDATION_STYLE, load_pack
from dmedge.data.evalset import EvalSet, EvalSplit, Part, emoji_evalset, normalised
from dmedge.data.splits import cell_split, is_unseen_emoji, training_texts
from dmedge.errors import DataError

LOCALES = ("de", "sr", "sr-Latn", "zh-Hant")


@pytest.fixture(scope="module")
def everything() -> EvalSet:
    return emoji_evalset(locales=LOCALES)


def test_texts_belong_to_the_picture_of_their_emoji(everything: EvalSet) -> None:
    pack = load_pack()
    place = {emoji.hexcode: i for i, emoji in enumerate(pack.emoji)}
    names = {locale: pack.names(locale) for locale in LOCALES}
    images, _ = pack.images(TEST_STYLE)
    assert everything.text_image.dtype == np.int64
    for row in range(0, len(everything.texts), 97):
        image = everything.text_image[row]
        emoji = place[everything.clusters[image]]
        assert everything.texts[row] == names[everything.languages[row]][emoji]
        assert (everything.images[image] == images[emoji]).all()


def test_kinds_are_disjoint_and_cover_all_texts(everything: EvalSet) -> None:
    tags = everything.tags
    kinds = np.stack([tags[kind] for kind in ("known", "held_out", "unseen_emoji")])
    assert (kinds.sum(axis=0) == 1).all()
    assert not (tags["novel"] & ~tags["held_out"]).any()
    assert set(tags) == {"known", "held_out", "novel", "unseen_emoji"}


def test_novel_strings_occur_nowhere_in_training(everything: EvalSet) -> None:
    trained = {normalised(text.text) for text in training_texts(load_pack())}
    held_out = everything.tags["held_out"]
    for row in np.flatnonzero(held_out):
        assert everything.tags["novel"][row] == (normalised(everything.texts[row]) not in trained)
    assert 0 < everything.tags["novel"].sum() < held_out.sum()


@pytest.mark.parametrize("part", get_args(Part))
def test_a_part_holds_its_own_cells_only(part: Part) -> None:
    data = emoji_evalset(locales=LOCALES, split="held_out", part=part)
    for image, language in zip(data.text_image, data.languages, strict=True):
        assert cell_split(data.clusters[image], language) == part
        assert not is_unseen_emoji(data.clusters[image])


def test_splits_keep_the_whole_gallery() -> None:
    full = len(load_pack().emoji)
    splits: tuple[EvalSplit, ...] = ("known", "held_out", "novel", "unseen")
    for split in splits:
        data = emoji_evalset(locales=["de"], split=split)
        assert len(data.images) == len(data.clusters) == full
        assert data.tags["unseen_emoji" if split == "unseen" else split].all()


def test_a_style_that_lacks_emoji_has_a_smaller_gallery() -> None:
    data = emoji_evalset(VALIDATION_STYLE, locales=["de"])
    assert len(data.images) == load_pack().images(VALIDATION_STYLE)[1].sum()
    assert data.text_image.max() < len(data.images)


def test_subset_keeps_rows_together_and_is_seeded(everything: EvalSet) -> None:
    small = everything.subset(everything.tags["known"], max_queries_per_language=7, seed=3)
    assert {language: small.languages.count(language) for language in LOCALES} == dict.fromkeys(LOCALES, 7)
    assert small.tags["known"].all()
    assert small.texts == everything.subset(everything.tags["known"], max_queries_per_language=7, seed=3).texts
    assert small.texts != everything.subset(everything.tags["known"], max_queries_per_language=7, seed=4).texts
    pairs = set(zip(everything.texts, everything.languages, everything.text_image.tolist(), strict=True))
    assert set(zip(small.texts, small.languages, small.text_image.tolist(), strict=True)) <= pairs


def test_subset_leaves_its_set_and_mask_alone(everything: EvalSet) -> None:
    before = everything.tags["known"].copy()
    everything.subset(everything.tags["known"], max_queries_per_language=1)
    assert (everything.tags["known"] == before).all()


def test_subset_of_everything_is_everything(everything: EvalSet) -> None:
    assert everything.subset().texts == everything.texts


def test_wrong_choices_are_refused() -> None:
    with pytest.raises(DataError, match="split 'new' of 'test'; expected known"):
        emoji_evalset(split="new")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unknown locale 'xx'"):
        emoji_evalset(locales=["xx"])
    with pytest.raises(DataError, match="no text is left"):
        emoji_evalset(locales=["de"], split="unseen", part="validation")
