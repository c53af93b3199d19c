"""How well an encoder finds images by text and texts by image, in every language.

`evaluate` serves training, `dmedge eval` and verification alike, so that their figures agree.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from dmedge.data.evalset import EvalSet
from dmedge.errors import DataError, VerifyError
from dmedge.evidence.retrieval import (
    Floats,
    Ints,
    Score,
    macro,
    ranks_both_ways,
    score,
)
from dmedge.runtime.outputs import NORM_TOLERANCE

Direction = Literal["text_to_image", "image_to_text"]
DIRECTIONS: tuple[Direction, ...] = ("text_to_image", "image_to_text")
PART_IMAGES, PART_TEXTS = 512, 8192  # embedded between two steps of a progress display


class TextEncoder(Protocol):
    """What can be evaluated among pictures that were embedded before."""

    def texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts as [T, D] unit-norm rows."""
        ...


class TextImageEncoder(TextEncoder, Protocol):
    """What can be evaluated: a bundle in its runtime, or a model still in training."""

    def images(self, images: Sequence[Any]) -> Floats:
        """Embed images as [N, D] unit-norm rows; a large set comes in several calls."""
        ...


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
        return self.of_texts(direction, self.data.tags[tag] if tag else np.ones(len(self.data.texts), np.bool_))

    def of_texts(self, direction: Direction, wanted: NDArray[np.bool_]) -> dict[str, Score]:
        """As `by_language`, of the texts that `wanted` [T] marks."""
        queries = self.queries[direction]
        rows = np.flatnonzero(wanted[queries.text])
        language = self.language[queries.text[rows]]
        scores = {}
        for i in np.unique(language):
            mine = rows[language == i]
            scores[self.languages[i]] = score(queries.rank[mine], queries.gallery[mine])
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


@dataclass(frozen=True, eq=False)
class Measurement:
    """An evaluation, and the embeddings that comparing two encoders takes."""

    report: AccuracyReport
    images: Floats  # [N, D]
    kept: Ints  # [K] rows of the texts below
    texts: Floats  # [K, D]


def evaluate(encoder: TextImageEncoder, data: EvalSet) -> AccuracyReport:
    """Embed an evaluation set and rank both ways; every language has its own gallery of texts.

    Raises:
        DataError: the set holds no images or no texts.
        VerifyError: an embedding is not finite, or not of unit length.
    """
    return measure(encoder, data).report


def evaluate_among(images: Floats, encoder: TextEncoder, data: EvalSet) -> AccuracyReport:
    """As `evaluate`, with pictures that were embedded before.

    Args:
        images: embeddings [N, D] of `data.images`.

    Raises:
        DataError: the set holds no images or no texts.
        VerifyError: an embedding is not finite, or not of unit length, or there are not as many as pictures.
    """
    return _measure(lambda: images, encoder, data).report


def measure(
    encoder: TextImageEncoder,
    data: EvalSet,
    keep: Ints | None = None,
    advance: Callable[[int], object] = lambda items: None,
) -> Measurement:
    """Evaluate language by language, and keep the embeddings of some texts.

    A language is ranked in a thread while the next is embedded: matrix products and runtimes leave
    Python's lock alone. Two languages are in memory at most: the texts of 100 would fill gigabytes.

    Args:
        keep: rows of the texts whose embeddings to return [default: none].
        advance: told as the work goes on how much of `work_in` was done, by this thread and by another one.

    Raises:
        DataError: the set holds no images or no texts.
        VerifyError: an embedding is not finite, or not of unit length, or there are not as many as pictures.
    """

    def embedded() -> Floats:
        return np.concatenate([encoder.images(part) for part in _parts(data.images, PART_IMAGES, advance)])

    return _measure(embedded, encoder, data, keep, advance)


def _measure(
    embedded: Callable[[], Floats],
    encoder: TextEncoder,
    data: EvalSet,
    keep: Ints | None = None,
    advance: Callable[[int], object] = lambda items: None,
) -> Measurement:
    if not len(data.images) or not len(data.texts):
        raise DataError(
            f"{data.name}: {len(data.images)} images and {len(data.texts)} texts; expected one of each at least"
        )
    keep = np.empty(0, np.int64) if keep is None else keep
    images = _checked(embedded(), "image")
    if len(images) != len(data.images):
        raise VerifyError(
            f"{data.name}: {len(images)} embeddings of {len(data.images)} images; expected one of each, in their "
            "order; the encoder must embed what it is given"
        )
    kept = np.zeros((len(keep), images.shape[1]), np.float32)
    parts, before = [], None
    with ThreadPoolExecutor(1) as ranking:
        for rows in language_rows(data).values():
            texts = _embed_texts(encoder, data, rows, advance)
            is_here = np.isin(keep, rows)
            kept[is_here] = texts[np.searchsorted(rows, keep[is_here])]
            if before is not None:
                parts.append(before.result())
            before = ranking.submit(_rank_language, texts, images, data, rows, advance)
        assert before is not None  # a set with texts has a language
        parts.append(before.result())
    to_image, to_text = (
        Queries(*(np.concatenate(columns) for columns in zip(*part, strict=True))) for part in zip(*parts, strict=True)
    )
    report = AccuracyReport(data, {"text_to_image": to_image, "image_to_text": to_text})
    return Measurement(report, images, keep, kept)


def work_in(data: EvalSet) -> int:
    """Steps of `measure`: every picture is embedded, every text is embedded and ranked."""
    return len(data.images) + 2 * len(data.texts)


def _parts(items: Sequence[Any], size: int, advance: Callable[[int], object]) -> Iterator[Sequence[Any]]:
    """The items by parts, each of which counts once the next is asked for."""
    for start in range(0, len(items), size):
        part = items[start : start + size]
        yield part
        advance(len(part))


def language_rows(data: EvalSet) -> dict[str, Ints]:
    """Each language of the set, in order of the tags, and the rows of its texts, ascending."""
    names, code = np.unique(np.array(data.languages, dtype=np.str_), return_inverse=True)
    order = np.argsort(code, kind="stable")
    ends = np.cumsum(np.bincount(code, minlength=len(names)))
    return {str(name): rows for name, rows in zip(names, np.split(order, ends[:-1]), strict=True)}


def _embed_texts(encoder: TextEncoder, data: EvalSet, rows: Ints, advance: Callable[[int], object]) -> Floats:
    """[R, D] embeddings of some texts; equal ones are embedded once."""
    place: dict[str, int] = {}
    position = [place.setdefault(data.texts[row], len(place)) for row in rows]
    embedded = [encoder.texts(part) for part in _parts(list(place), PART_TEXTS, advance)]
    advance(len(rows) - len(place))
    return _checked(np.concatenate(embedded), "text")[position]


def _rank_language(
    texts: Floats, images: Floats, data: EvalSet, rows: Ints, advance: Callable[[int], object]
) -> tuple[tuple[Ints, ...], tuple[Ints, ...]]:
    """Columns of `Queries` of one language: text to image, and image to text."""
    match = data.text_image[rows]
    text_ranks, queries, image_ranks = ranks_both_ways(texts, images, match, advance)
    first = rows[np.unique(match, return_index=True)[1]]
    to_image = (text_ranks, np.full(len(rows), len(images)), rows, match)
    return to_image, (image_ranks, np.full(len(queries), len(rows)), first, queries)


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
