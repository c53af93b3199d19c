"""Pairs of a user's own records: which classes a picture has, what a question is answered, or whether both match."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from dmedge.data.pictures import BadRecords, RecordImages, check_record_image
from dmedge.data.records import Dataset, DatasetConfig, Record
from dmedge.errors import DataError
from dmedge.manifest import canonical_json
from dmedge.study.task import UNKNOWN, Kind, Pairs, Part
from dmedge.training.record_materials import class_kind

STRANGER, OWN = "the text of another picture", "its own text"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a pair: its classes or its answer; whether both match, where the data has neither."""

    kind: Kind
    classes: tuple[str, ...]
    is_match: bool = False


class _Drawn(NamedTuple):
    picture: int  # number of the picture
    text: str
    language: str
    scores: Mapping[int, float]
    owner: int  # number of the picture whose text it is


def question_of(data: Dataset) -> Question:
    """The answer where the data has answers, else the classes that it has, else the match."""
    if data.answers:
        return Question("answer", data.answers)
    if data.labels:
        return Question("several" if class_kind(data) == "multi" else "one", data.labels)
    return Question("one", (STRANGER, OWN), is_match=True)


def record_pairs(name: Part, data: Dataset, question: Question, config: DatasetConfig, count: int, seed: int) -> Pairs:
    """Up to `count` pairs of a record and one of its texts, in random order; pictures stay where they are.

    Records without a class are left out, and so are pictures that cannot be read. Questions whose answers are
    none of the classes stay, and no prediction is right there. For the match every pair comes once with its
    own text and once with one of another picture.

    Args:
        config: how many records may be bad, and how large a picture may be.

    Raises:
        DataError: too many pictures cannot be read, or fewer than two different ones are left.
    """
    wanted = -(-count // 2) if question.is_match else count
    known = {word: place for place, word in enumerate(question.classes)}
    bad = BadRecords(config.max_bad_share, data.name)
    place: dict[object, int | None] = {}  # what a picture is known by -> its number; None for a bad one
    shown: list[int] = []  # the record of each picture
    drawn: list[_Drawn] = []
    for row, which in _order(data, seed):
        record = data[row]
        scores = _scores(record, data, question, known)
        if not scores and question.kind != "answer":
            continue
        key = row if isinstance(record.image, bytes) else record.image
        if key not in place:
            bad.saw()
            place[key] = len(shown) if _is_readable(record, config, bad) else None
            shown += [row] if place[key] is not None else []
        if (picture := place[key]) is not None:
            drawn.append(_Drawn(picture, record.texts[which], record.languages[which], scores, picture))
        if len(drawn) == wanted:
            break
    bad.finish()
    drawn = _with_strangers(drawn) if question.is_match else drawn
    _check(name, data, question, drawn)
    return _pairs(name, RecordImages(data, shown, config.max_megapixels), question, drawn)


def _pairs(name: Part, pictures: RecordImages, question: Question, drawn: Sequence[_Drawn]) -> Pairs:
    picture = np.array([pair.picture for pair in drawn], np.int64)
    label = [max(pair.scores, key=pair.scores.__getitem__) if pair.scores else UNKNOWN for pair in drawn]
    return Pairs(
        name,
        pictures,
        picture,
        tuple(pair.text for pair in drawn),
        tuple(pair.language for pair in drawn),
        np.array(label, np.int64),
        picture,
        question.kind,
        tuple(pair.scores for pair in drawn) if question.kind != "one" else (),
        np.array([pair.owner for pair in drawn], np.int64) if question.is_match else None,
    )


def _check(name: Part, data: Dataset, question: Question, drawn: Sequence[_Drawn]) -> None:
    pictures = len({pair.picture for pair in drawn})
    if pictures < 2:
        what = "an answer" if question.kind == "answer" else "a text" if question.is_match else "a class and a text"
        raise DataError(
            f"{data.name}: {pictures} pictures with {what} for the {name} pairs; expected two or more; name more data "
            "by dataset.path, dataset.split or [test]"
        )
    if not any(pair.scores for pair in drawn):
        raise DataError(
            f"{data.name}: no {name} question is answered by any of {len(question.classes)} training answers; expected "
            "some; raise dataset.answers, or name other data by [test]"
        )


def _order(data: Dataset, seed: int) -> Iterator[tuple[int, int]]:
    """Every (record, text) once, in random order."""
    counts = np.array([len(tags) for tags in data.text_languages()], np.int64)
    record = np.repeat(np.arange(len(counts)), counts)
    which = np.arange(len(record)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.random.default_rng([seed, 17]).permutation(len(record))
    return zip(record[order].tolist(), which[order].tolist(), strict=True)


def _scores(record: Record, data: Dataset, question: Question, known: Mapping[str, int]) -> dict[int, float]:
    """Score of every class of a record; the first of the greatest is the one given most."""
    if question.is_match:
        return {1: 1.0}
    named = record.answers if question.kind == "answer" else {data.labels[label]: 1.0 for label in record.labels}
    return {known[word]: score for word, score in named.items() if word in known}


def _is_readable(record: Record, config: DatasetConfig, bad: BadRecords) -> bool:
    try:
        check_record_image(record.image, config.max_megapixels)
    except DataError as error:
        bad.add(record.key, str(error))
        return False
    return True


def _with_strangers(drawn: Sequence[_Drawn]) -> list[_Drawn]:
    """Each pair, and its picture with the text of the next pair, unless that has the same picture or text."""
    found: list[_Drawn] = []
    for own, other in zip(drawn, [*drawn[1:], *drawn[:1]], strict=True):
        if own.picture != other.picture and own.text != other.text:
            found += [own, _Drawn(own.picture, other.text, other.language, {0: 1.0}, other.picture)]
    return found


def fingerprint(parts: Sequence[Pairs], classes: Sequence[str]) -> str:
    """What tells these pairs from others: texts, classes, scores, and which pictures, by number and size in bytes."""
    table = []
    for pairs in parts:
        pictures = pairs.pictures
        assert isinstance(pictures, RecordImages)
        encoded = map(pictures.encoded, range(len(pictures)))
        sizes = [len(one) if isinstance(one, bytes) else one.stat().st_size for one in encoded]
        scores = [sorted(own.items()) for own in pairs.scores]
        table.append([pairs.name, list(pairs.texts), pairs.picture.tolist(), pairs.label.tolist(), scores, sizes])
    return sha256(canonical_json({"classes": list(classes), "pairs": table})).hexdigest()[:16]
