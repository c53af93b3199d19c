"""Smaller evaluation sets from larger ones, and the digest that says which was used."""

import hashlib

import numpy as np

from dmedge.data.evalset import EvalSet
from dmedge.errors import DataError
from dmedge.evidence.accuracy import language_rows
from dmedge.evidence.retrieval import Ints


def limit_per_language(data: EvalSet, n: int) -> EvalSet:
    """At most `n` texts of every language, chosen by hash; all images stay in the gallery.

    Different emoji are kept in different languages, so that the set as a whole covers most of them.

    Raises:
        DataError: `n` is less than 1.
    """
    if n < 1:
        raise DataError(f"at most {n} texts per language; expected 1 or more")
    keep = []
    for name, rows in language_rows(data):
        keys = [_fraction(f"{name}:{data.clusters[data.text_image[row]]}:{data.texts[row]}") for row in rows]
        keep.append(rows[np.argsort(keys, kind="stable")[:n]])
    return select_texts(data, np.sort(np.concatenate(keep)) if keep else np.empty(0, np.int64))


def select_texts(data: EvalSet, rows: Ints) -> EvalSet:
    """The set with only these texts, and all its images."""
    return EvalSet(
        name=data.name,
        images=data.images,
        clusters=data.clusters,
        texts=tuple(data.texts[row] for row in rows),
        text_image=np.asarray(data.text_image)[rows],
        languages=tuple(data.languages[row] for row in rows),
        tags={tag: marked[rows] for tag, marked in data.tags.items()},
    )


def data_digest(data: EvalSet) -> str:
    """sha256 over every pixel and every text of the set, in order."""
    hasher = hashlib.sha256()
    for image in data.images:
        pixels = np.asarray(image)
        hasher.update(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes())
    for row, text in enumerate(data.texts):
        hasher.update(repr((text, data.languages[row], int(data.text_image[row]))).encode())
    hasher.update(repr(data.clusters).encode())
    return hasher.hexdigest()


def _fraction(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
