"""Pictures, texts, and which text belongs to which picture: from the embedded pack or from a folder."""

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dmedge.data.captions import ImageFiles, read_captions
from dmedge.data.emoji import TEST_STYLE, EmojiPack, load_pack
from dmedge.data.pictures import BadRecords, RecordImages, check_record_image
from dmedge.data.records import Dataset, Record
from dmedge.data.splits import cell_split, is_unseen_emoji, training_strings
from dmedge.data.vqa import given_scores
from dmedge.errors import DataError

EvalSplit = Literal["known", "held_out", "novel", "unseen", "all"]
Part = Literal["validation", "test"]


@dataclass(frozen=True, eq=False)
class EvalSet:
    """A gallery of N pictures and T texts, each of which belongs to one picture.

    The texts of a picture in one language are all right answers when a picture looks for text.
    """

    name: str
    images: Sequence[Any]  # [N] PIL images or uint8 [H, W, 3] arrays; files are opened when asked for
    clusters: tuple[str, ...]  # [N] what the picture shows; pictures of a cluster are no independent samples
    texts: tuple[str, ...]  # [T]
    text_image: NDArray[np.int64]  # [T] index into images
    languages: tuple[str, ...]  # [T]
    tags: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)  # name -> [T]
    labels: tuple[str, ...] = ()  # [N] class of the picture, "" where unknown; () where none has one, or some several
    answers: tuple[Mapping[str, float], ...] = ()  # [T] score of every answer; then texts are questions; else ()

    def subset(
        self,
        mask: NDArray[np.bool_] | None = None,
        *,
        max_queries_per_language: int | None = None,
        seed: int = 0,
    ) -> "EvalSet":
        """The same gallery with fewer texts.

        Args:
            mask: bool [T], the texts to keep.
            max_queries_per_language: keep a random choice of the texts of every language.
            seed: of that choice.
        """
        keep = np.ones(len(self.texts), bool) if mask is None else np.array(mask, bool)
        if max_queries_per_language is not None:
            rng = np.random.default_rng(seed)
            languages = np.array(self.languages)
            for language in sorted(set(self.languages)):
                rows = np.flatnonzero(keep & (languages == language))
                keep[rng.permutation(rows)[max_queries_per_language:]] = False
        rows = np.flatnonzero(keep)
        return replace(
            self,
            texts=tuple(self.texts[row] for row in rows),
            text_image=self.text_image[rows],
            languages=tuple(self.languages[row] for row in rows),
            tags={tag: marked[rows] for tag, marked in self.tags.items()},
            answers=tuple(self.answers[row] for row in rows) if self.answers else (),
        )


def normalised(text: str) -> str:
    """Text as the tokenizer sees it: two texts with the same form cannot be told apart."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@lru_cache(maxsize=1)
def _trained_strings(pack: EmojiPack) -> frozenset[str]:
    return frozenset(map(normalised, training_strings(pack)))


def emoji_evalset(
    style: str = TEST_STYLE,
    locales: Iterable[str] | None = None,
    split: EvalSplit = "all",
    part: Part = "test",
) -> EvalSet:
    """CLDR names against all pictures of one style.

    Tags: "known" texts were trained on, with pictures of other styles; "held_out" texts are names of
    known emoji in a language that was held out for that emoji; "novel" are those of them whose string
    occurs nowhere in the training text; "unseen_emoji" are names of emoji that were never trained on.

    Args:
        style: an art style of the pack.
        locales: of the pack [default: all].
        split: which texts to keep; the gallery is the same.
        part: which held-out texts: "test", which also has the unseen emoji, or "validation", for choices.

    Raises:
        DataError: unknown style, locale, split or part, or a choice that leaves no text.
    """
    if split not in get_args(EvalSplit) or part not in get_args(Part):
        options = f"{', '.join(get_args(EvalSplit))} of {', '.join(get_args(Part))}"
        raise DataError(f"split {split!r} of {part!r}; expected {options}; choose one of them")
    pack = load_pack()
    images, present = pack.images(style)
    trained = _trained_strings(pack)
    place = np.cumsum(present) - 1
    shown = [(i, pack.emoji[i].hexcode) for i in np.flatnonzero(present)]
    texts, text_image, languages, kinds = [], [], [], []
    for locale in pack.locales if locales is None else locales:
        names = pack.names(locale)
        for i, hexcode in shown:
            name, kind = names[i], _kind(hexcode, locale, part)
            if name is not None and kind is not None:
                texts.append(name)
                text_image.append(place[i])
                languages.append(locale)
                kinds.append(kind)
    of_kind = {kind: np.array([k == kind for k in kinds], bool) for kind in ("known", "held_out", "unseen_emoji")}
    is_new = [k == "held_out" and normalised(text) not in trained for k, text in zip(kinds, texts, strict=True)]
    tags = {**of_kind, "novel": np.array(is_new, bool)}
    data = EvalSet(
        name=f"emoji/{style}/{part}/{split}",
        images=tuple(images[present]),
        clusters=tuple(hexcode for _, hexcode in shown),
        texts=tuple(texts),
        text_image=np.array(text_image, np.int64),
        languages=tuple(languages),
        tags=tags,
    )
    if split != "all":
        data = data.subset(tags["unseen_emoji" if split == "unseen" else split])
    if not data.texts:
        raise DataError(f"{data.name}: no text is left; expected some; choose other locales, split or part")
    return data


def _kind(hexcode: str, locale: str, part: Part) -> str | None:
    if is_unseen_emoji(hexcode):
        return "unseen_emoji" if part == "test" else None
    cell = cell_split(hexcode, locale)
    if cell == "train":
        return "known"
    return "held_out" if cell == part else None


def folder_evalset(path: Path) -> EvalSet:
    """The captioned pictures of a folder.

    PATH holds images/ and either captions.csv (UTF-8, with a header) or captions.parquet, with the columns
    image (file name below images/), language (such as de or zh-Hant) and text, and perhaps label, the class of the
    picture, and answer, which makes the text a question. The gallery is every picture that a caption names. Text of
    any length is kept; the tokenizer shortens it.

    Raises:
        DataError: a file or column is missing, there are no captions, a row names no readable picture,
            an unknown language or no text, or has no answer where others have one; rows count from 1.
        DmedgeError: captions.parquet needs pyarrow.
    """
    captions = read_captions(path)
    place = {image: i for i, image in enumerate(dict.fromkeys(caption.image for caption in captions))}
    labels: dict[str, set[str]] = {image: set() for image in place}
    for caption in captions:
        labels[caption.image].update(caption.labels)
    return EvalSet(
        name=f"folder/{path.resolve().name}",
        images=ImageFiles([path / "images" / image for image in place]),
        clusters=tuple(place),
        texts=tuple(caption.text for caption in captions),
        text_image=np.array([place[caption.image] for caption in captions], np.int64),
        languages=tuple(caption.language for caption in captions),
        labels=_one_each(labels.values()),
        answers=tuple(map(given_scores, (c.answers for c in captions))) if captions[0].answers else (),
    )


def _one_each(labels: Iterable[Collection[str]]) -> tuple[str, ...]:
    """The label of every picture, "" where it has none; nothing where some have several, or all none."""
    found = [tuple(own) for own in labels]
    if max(map(len, found)) != 1:
        return ()
    return tuple(own[0] if own else "" for own in found)


def dataset_evalset(dataset: Dataset, max_megapixels: float = 64.0) -> EvalSet:
    """Any data set as an evaluation set.

    The gallery is every picture that can be read, each of them tried once; pictures that cannot are
    named in the log and left out with their texts. They are opened when asked for.

    Args:
        max_megapixels: larger pictures are left out.

    Raises:
        DataError: no picture can be read.
    """
    bad = BadRecords(1.0, dataset.name)
    rows: list[int] = []
    records: list[Record] = []  # without their pictures
    for row in range(len(dataset)):
        bad.saw()
        try:
            record = dataset[row]
            check_record_image(record.image, max_megapixels)
        except DataError as error:
            bad.add(f"record {row}", str(error))
            continue
        rows.append(row)
        records.append(replace(record, image=b""))
    bad.finish()
    if not rows:
        raise DataError(f"{dataset.name}: {bad.summary()}; expected a picture that can be read; mend the data")
    return EvalSet(
        name=dataset.name,
        images=RecordImages(dataset, rows, max_megapixels),
        clusters=tuple(record.key for record in records),
        texts=tuple(text for record in records for text in record.texts),
        text_image=np.repeat(np.arange(len(records), dtype=np.int64), [len(record.texts) for record in records]),
        languages=tuple(language for record in records for language in record.languages),
        labels=_one_each([dataset.labels[label] for label in record.labels] for record in records),
    )
