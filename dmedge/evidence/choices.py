"""What there is to decide, and the truth of it where it is known.

A text matches its own picture and not another. Classes are the groups of the emoji, or the labels that data of one's
own names. A label of the variant `prompts` that is an emoji or its English name is true of pictures of that emoji, and
one that data of one's own names of the pictures that bear it.
"""

import json
from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from dmedge.artifact import Artifact
from dmedge.data.emoji import Emoji, load_pack
from dmedge.data.evalset import EvalSet
from dmedge.errors import ArtifactError
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.runtime.encoder import Encoder

VARIANTS = ("fused", "prompts")
PROMPTS = "prompts.json"
UNKNOWN = -1
_Z = 1.959964  # of a normal distribution, for 95 %


def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """A share of `n` and the ends of its 95 % interval, which is not empty even if all or none hit.

    Source: Wilson 1927, JASA 22:209.
    """
    share, spread = hits / n, _Z**2 / n
    centre, half = share + spread / 2, _Z * sqrt((share * (1 - share) + spread / 4) / n)
    return share, min(share, (centre - half) / (1 + spread)), max(share, (centre + half) / (1 + spread))


def texts_of_labels(bundle: Artifact, labels: Sequence[str]) -> list[list[str]]:
    """The texts of every label of a bundle of the variant `prompts`.

    Raises:
        ArtifactError: they cannot be read, or a label has none.
    """
    path = bundle.file(PROMPTS)
    try:
        prompts = [(prompt["label"], prompt["text"]) for prompt in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: {error!r}; expected texts with their labels; run dmedge export again") from error
    texts = [[text for own, text in prompts if own == label] for label in labels]
    if [] in texts:
        label = labels[texts.index([])]
        raise ArtifactError(
            f"{path}: no text of {label!r}; expected one of every label at least; run dmedge export again"
        )
    return texts


def label_embeddings(encoder: Encoder, texts: Sequence[Sequence[str]]) -> Floats:
    """[C, D] mean of the embeddings of every label's texts, at unit length."""
    rows = encoder.texts([text for own in texts for text in own])
    means = [part.mean(0) for part in np.split(rows, np.cumsum([len(own) for own in texts])[:-1])]
    return np.stack([mean / np.linalg.norm(mean) for mean in means])


def true_labels(labels: Sequence[str], data: EvalSet) -> Ints:
    """[N] index of the label of every picture: the emoji that it shows, or what the data calls it."""
    place = {label.casefold(): index for index, label in enumerate(labels)}
    if data.labels:
        return np.array([place.get(label.casefold(), UNKNOWN) for label in data.labels], np.int64)
    by_hexcode = emoji_of(data)

    def index_of(cluster: str) -> int:
        emoji = by_hexcode.get(cluster)
        return UNKNOWN if emoji is None else place.get(emoji.char, place.get(emoji.name.casefold(), UNKNOWN))

    return np.array([index_of(cluster) for cluster in data.clusters], np.int64)


class Pairs(NamedTuple):
    """Pictures beside texts: first each text with its own picture, then each with another."""

    image: Ints  # [2N] index of the picture
    own: Ints  # [2N] index of the picture that the text belongs to
    texts: list[str]  # 2N
    languages: list[str]  # 2N, of the texts
    is_own: Ints  # [2N] 1 where picture and text are of one cluster


def draw_pairs(data: EvalSet, count: int, seed: int = 0) -> Pairs:
    """At most `count` texts, as many of every language as there are, each with its own picture and with another."""
    rng = np.random.default_rng(seed)
    rows = _in_turns(rng.permutation(len(data.texts)), data.languages)[:count]
    own = data.text_image[rows]
    strangers = (own + rng.integers(1, max(2, len(data.images)), size=len(own))) % len(data.images)
    image, twice = np.concatenate([own, strangers]), np.tile(own, 2)
    clusters = np.array(data.clusters)
    return Pairs(
        image,
        twice,
        [data.texts[row] for row in rows] * 2,
        [data.languages[row] for row in rows] * 2,
        (clusters[image] == clusters[twice]).astype(np.int64),
    )


def _in_turns(rows: Ints, languages: Sequence[str]) -> Ints:
    """[T] `rows` in another order: the first text of every language, then the second, as far as each has any."""
    code = np.unique(np.array(languages, dtype=np.str_), return_inverse=True)[1][rows]
    by_language = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[by_language], code)
    turn = np.empty(len(rows), np.int64)
    turn[by_language] = np.arange(len(rows)) - starts[by_language]
    return rows[np.argsort(turn, kind="stable")]


def true_classes(labels: Sequence[str], data: EvalSet) -> Ints:
    """[N] index of the class of every picture: the group of its emoji or its label, UNKNOWN where nobody knows."""
    place = {label: index for index, label in enumerate(labels)}
    if data.labels:
        return np.array([place.get(label, UNKNOWN) for label in data.labels], np.int64)
    by_hexcode, groups = emoji_of(data), load_pack().groups
    known = [by_hexcode.get(cluster) for cluster in data.clusters]
    return np.array([UNKNOWN if e is None else place.get(groups[e.group], UNKNOWN) for e in known], np.int64)


def emoji_of(data: EvalSet) -> dict[str, Emoji]:
    """The emoji that clusters of the embedded data name; none for other data."""
    return {emoji.hexcode: emoji for emoji in load_pack().emoji} if data.name.startswith("emoji") else {}
