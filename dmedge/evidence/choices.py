"""What a bundle decides by itself, beside its baseline: a label for a picture, or match and class of a pair.

The variants `prompts` and `fused` give no embeddings to find pictures with. They are judged by the share of
inputs for which they decide as the float checkpoint does in torch, and, where the truth is known, by both
accuracies: a label that is an emoji or its English name is true of pictures of that emoji, classes are the
groups of the emoji, and a text matches its own picture and not another.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from dmedge.artifact import Artifact
from dmedge.data.emoji import Emoji, load_pack
from dmedge.data.evalset import EvalSet
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.runtime.encoder import Encoder
from dmedge.variants import variant_of

VARIANTS = ("fused", "prompts")
PROMPTS = "prompts.json"
PAIRS = 1000  # matching ones, and as many that do not match
UNKNOWN = -1
_Z = 1.959964  # of a normal distribution, for 95 %


@dataclass(frozen=True, eq=False)
class Choices:
    """Decisions of both sides on the same inputs."""

    artifact: Ints  # [N]
    baseline: Ints  # [N]
    truth: Ints  # [N], UNKNOWN where nobody knows

    @property
    def agreement(self) -> tuple[float, float, float]:
        """Share of inputs that both decide alike, and its 95 % interval."""
        return wilson(int((self.artifact == self.baseline).sum()), len(self.artifact))

    def to_json(self) -> dict[str, Any]:
        """The figures by name; accuracies are None where no truth is known."""
        value, low, high = self.agreement
        known = self.truth != UNKNOWN
        return {
            "n": len(self.artifact),
            "agreement": value,
            "low": low,
            "high": high,
            "n_known": int(known.sum()),
            "accuracy": _accuracy(self.artifact, self.truth, known),
            "baseline_accuracy": _accuracy(self.baseline, self.truth, known),
            "most_common": float(np.bincount(self.truth[known]).max() / known.sum()) if known.any() else None,
        }


def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """A share of `n` and the ends of its 95 % interval, which is not empty even if all or none hit.

    Source: Wilson 1927, JASA 22:209.
    """
    share, spread = hits / n, _Z**2 / n
    centre, half = share + spread / 2, _Z * sqrt((share * (1 - share) + spread / 4) / n)
    return share, min(share, (centre - half) / (1 + spread)), max(share, (centre + half) / (1 + spread))


def compare_choices(bundle: Encoder, baseline: Encoder, artifact: Artifact, data: EvalSet) -> dict[str, Choices]:
    """What both sides decide: "label" of every picture, or "match" and, with a class head, "class" of pairs.

    Args:
        bundle: in its runtime.
        baseline: the float checkpoint.
        artifact: the bundle, whose variant is one of `VARIANTS`.
        data: the pictures, and the texts of pairs.
    """
    if variant_of(artifact.manifest) == "prompts":
        return {"label": _labels(bundle, baseline, artifact, data)}
    return _pairs(bundle, baseline, data)


def _labels(bundle: Encoder, baseline: Encoder, artifact: Artifact, data: EvalSet) -> Choices:
    prompts = json.loads(artifact.file(PROMPTS).read_text(encoding="utf-8"))
    table = label_embeddings(baseline, bundle.labels, prompts)
    mine = bundle.scores(data.images).argmax(1)
    theirs = (baseline.images(data.images) @ table.T).argmax(1)
    return Choices(mine, theirs, _true_labels(bundle.labels, data))


def label_embeddings(encoder: Encoder, labels: Sequence[str], prompts: Sequence[Mapping[str, str]]) -> Floats:
    """[C, D] mean of the embeddings of every label's texts, at unit length."""
    rows = encoder.texts([prompt["text"] for prompt in prompts])
    means = [rows[[prompt["label"] == label for prompt in prompts]].mean(0) for label in labels]
    return np.stack([mean / np.linalg.norm(mean) for mean in means])


def _true_labels(labels: Sequence[str], data: EvalSet) -> Ints:
    """Index of the label of every picture, where a label is the emoji that it shows."""
    by_hexcode = emoji_of(data)
    place = {label.casefold(): index for index, label in enumerate(labels)}

    def index_of(cluster: str) -> int:
        emoji = by_hexcode.get(cluster)
        return UNKNOWN if emoji is None else place.get(emoji.char, place.get(emoji.name.casefold(), UNKNOWN))

    return np.array([index_of(cluster) for cluster in data.clusters], np.int64)


class Pairs(NamedTuple):
    """Pictures beside texts: first each text with its own picture, then each with another."""

    image: Ints  # [2N] index of the picture
    own: Ints  # [2N] index of the picture that the text belongs to
    texts: list[str]  # 2N
    is_own: Ints  # [2N] 1 where picture and text are of one cluster


def draw_pairs(data: EvalSet, count: int = PAIRS, seed: int = 0) -> Pairs:
    """At most `count` texts, drawn from all, each with its own picture and with another."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(data.texts))[:count]
    own = data.text_image[rows]
    strangers = (own + rng.integers(1, max(2, len(data.images)), size=len(own))) % len(data.images)
    image, twice = np.concatenate([own, strangers]), np.tile(own, 2)
    clusters = np.array(data.clusters)
    return Pairs(
        image, twice, [data.texts[row] for row in rows] * 2, (clusters[image] == clusters[twice]).astype(np.int64)
    )


def _pairs(bundle: Encoder, baseline: Encoder, data: EvalSet) -> dict[str, Choices]:
    drawn = draw_pairs(data)
    pictures = [data.images[index] for index in drawn.image]
    (match, classes), (want_match, want_classes) = (side.pairs(pictures, drawn.texts) for side in (bundle, baseline))
    found = {"match": Choices((match > 0).astype(np.int64), (want_match > 0).astype(np.int64), drawn.is_own)}
    if classes.shape[1]:
        half = len(drawn.own) // 2  # a class is that of a picture with its own text
        truth = true_classes(bundle.labels, data)[drawn.own[:half]]
        found["class"] = Choices(classes[:half].argmax(1), want_classes[:half].argmax(1), truth)
    return found


def true_classes(labels: Sequence[str], data: EvalSet) -> Ints:
    """[N] index of the class of every picture: the group of its emoji, UNKNOWN where nobody knows."""
    by_hexcode, groups = emoji_of(data), load_pack().groups
    place = {label: index for index, label in enumerate(labels)}
    known = [by_hexcode.get(cluster) for cluster in data.clusters]
    return np.array([UNKNOWN if e is None else place.get(groups[e.group], UNKNOWN) for e in known], np.int64)


def emoji_of(data: EvalSet) -> dict[str, Emoji]:
    """The emoji that clusters of the embedded data name; none for other data."""
    return {emoji.hexcode: emoji for emoji in load_pack().emoji} if data.name.startswith("emoji") else {}


def _accuracy(found: Ints, truth: Ints, known: Any) -> float | None:
    return float((found[known] == truth[known]).mean()) if known.any() else None
