"""How well an encoder finds images by text and texts by image, in every language.

`evaluate` serves training, `dmedge eval` and verification alike, so that their figures agree.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from dmedge.data.evalset import EvalSet
from dmedge.errors import DataError, VerifyError
from dmedge.evidence.retrieval import (
    Floats,
    Ints,
    Score,
    image_to_text_ranks,
    macro,
    score,
    text_to_image_ranks,
)

Direction = Literal["text_to_image", "image_to_text"]
DIRECTIONS: tuple[Direction, ...] = ("text_to_image", "image_to_text")
NORM_TOLERANCE = 1e-2  # of an embedding's length from 1; int8 and fp16 programs normalise in float


class TextImageEncoder(Protocol):
    """What can be evaluated: a bundle in its runtime, or a model still in training."""

    def images(self, images: Sequence[Any]) -> Floats:
        """Embed images as [N, D] unit-norm rows."""
        ...

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts as [T, D] unit-norm rows."""
        ...


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of one evaluation set by one encoder."""

    images: Floats  # [N, D]
    texts: Floats  # [T, D]


@dataclass(frozen=True, eq=False)
class Queries:
    """Ranks of one direction and what they belong to; row q is one query."""

    rank: Ints  # [Q] from 1
    gallery: Ints  # [Q] number of candidates
    text: Ints  # [Q] the text asked for or with; its language and tags are the query's
    image: Ints  # [Q] the image found or asked with


@dataclass(frozen=True, eq=False)
class AccuracyReport:
    """Ranks of every query of one evaluation set, and the figures read off them."""

    data: EvalSet
    queries: Mapping[Direction, Queries]

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Languages that have texts, in order of their tags."""
        return tuple(sorted(set(self.data.languages)))

    @cached_property
    def language(self) -> Ints:
        """[T] index into `languages` of every text."""
        index = {name: i for i, name in enumerate(self.languages)}
        return np.array([index[name] for name in self.data.languages], dtype=np.int64)

    def by_language(self, direction: Direction, tag: str | None = None) -> dict[str, Score]:
        """Figures of every language that has queries.

        Args:
            tag: count only texts that the evaluation set marks so, e.g. "held_out".
        """
        queries = self.queries[direction]
        wanted = self.data.tags[tag][queries.text] if tag else np.ones(len(queries.text), dtype=bool)
        language = self.language[queries.text]
        scores = {}
        for i, name in enumerate(self.languages):
            rows = wanted & (language == i)
            if rows.any():
                scores[name] = score(queries.rank[rows], queries.gallery[rows])
        return scores

    def macro(self, direction: Direction = "text_to_image", tag: str | None = None) -> Score:
        """Mean over languages, every language alike.

        Raises:
            ValueError: no text carries `tag`.
        """
        return macro(self.by_language(direction, tag))

    def tags(self) -> list[str]:
        """Tags that at least one text carries."""
        return [tag for tag, rows in self.data.tags.items() if rows.any()]

    def to_json(self) -> dict[str, Any]:
        """Macro, per tag and per language, both ways; each figure with its n, gallery and chance."""
        rows = {direction: self.by_language(direction) for direction in DIRECTIONS}
        return {
            "data": self.data.name,
            "n_images": len(self.data.images),
            "n_texts": len(self.data.texts),
            "n_languages": len(rows["text_to_image"]),
            "macro": {direction: macro(rows[direction]).to_json() for direction in DIRECTIONS},
            "tags": {
                tag: {direction: self.macro(direction, tag).to_json() for direction in DIRECTIONS}
                for tag in self.tags()
            },
            "languages": {
                name: {direction: rows[direction][name].to_json() for direction in DIRECTIONS}
                for name in rows["text_to_image"]
            },
        }


def evaluate(encoder: TextImageEncoder, data: EvalSet) -> AccuracyReport:
    """Embed an evaluation set and rank both ways; every language has its own gallery of texts.

    Raises:
        DataError: the set holds no images or no texts.
        VerifyError: an embedding is not finite, or not of unit length.
    """
    return rank(embed(encoder, data), data)


def embed(encoder: TextImageEncoder, data: EvalSet) -> Embeddings:
    """Embed all images and texts; a text that stands in several places is embedded once.

    Raises:
        DataError: the set holds no images or no texts.
        VerifyError: an embedding is not finite, or not of unit length.
    """
    if not len(data.images) or not len(data.texts):
        raise DataError(
            f"{data.name}: {len(data.images)} images and {len(data.texts)} texts; expected one of each at least"
        )
    distinct = list(dict.fromkeys(data.texts))
    row = {text: i for i, text in enumerate(distinct)}
    images = _checked(encoder.images(data.images), "image")
    texts = _checked(encoder.texts(distinct), "text")
    return Embeddings(images, texts[[row[text] for text in data.texts]])


def rank(embeddings: Embeddings, data: EvalSet) -> AccuracyReport:
    """Rank both ways."""
    every_text = np.arange(len(data.texts))
    match = np.asarray(data.text_image, dtype=np.int64)
    ranks = text_to_image_ranks(embeddings.texts, embeddings.images, match)
    to_image = Queries(ranks, np.full(len(ranks), len(data.images)), every_text, match)
    parts = [_to_text(embeddings, match, rows) for _, rows in language_rows(data)]
    to_text = Queries(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return AccuracyReport(data, {"text_to_image": to_image, "image_to_text": to_text})


def language_rows(data: EvalSet) -> Iterator[tuple[str, Ints]]:
    """Each language of the set, in order of the tags, and the rows of its texts."""
    language = np.array(data.languages, dtype=np.str_)
    names, code = np.unique(language, return_inverse=True)
    for i, name in enumerate(names):
        yield str(name), np.flatnonzero(code == i)


def _to_text(embeddings: Embeddings, match: Ints, rows: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Columns of `Queries` for the texts of one language."""
    images, ranks = image_to_text_ranks(embeddings.images, embeddings.texts[rows], match[rows])
    first = rows[np.unique(match[rows], return_index=True)[1]]
    return ranks, np.full(len(ranks), len(rows)), first, images


def _checked(rows: Floats, what: str) -> Floats:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise VerifyError(f"{what} {bad}: its embedding is not finite; expected unit length; export the program again")
    off = np.abs(np.linalg.norm(rows, axis=1) - 1.0)
    if off.max() > NORM_TOLERANCE:
        bad = int(off.argmax())
        raise VerifyError(
            f"{what} {bad}: its embedding has length {np.linalg.norm(rows[bad]):.3f}; expected 1 within "
            f"{NORM_TOLERANCE}; the program must normalise what it returns"
        )
    return rows
