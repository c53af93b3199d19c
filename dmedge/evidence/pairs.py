"""Pairs of a picture and a text as a checkpoint sees them, encoded once for every question put to its fusion."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dmedge.data.emoji import load_pack
from dmedge.data.evalset import EvalSet
from dmedge.errors import ArtifactError, DataError
from dmedge.evidence.fusion import WHITE
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.fusion import FusionHead

BATCH = 128


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pictures with a text each."""

    pixels: NDArray[np.uint8]  # [N, S, S, 3], preprocessed
    texts: tuple[str, ...]  # [N]
    classes: Ints | None = None  # [N] the true class of each; None where nobody knows, and the match is asked for

    def __post_init__(self) -> None:
        counts = [len(self.pixels), len(self.texts), *([] if self.classes is None else [len(self.classes)])]
        if len(set(counts)) != 1 or not counts[0]:
            raise DataError(f"{counts} pictures, texts and classes; expected as many of each, at least one")


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the towers make of pairs; the fusion reads nothing else."""

    patches: Tensor  # [N, P, V]
    tokens: Tensor  # [N, L, W]
    mask: Tensor  # [N, L], 1 on tokens
    ids: Tensor  # [N, L]


def fusion_of(checkpoint: Checkpoint) -> FusionHead:
    """The fusion of a checkpoint.

    Raises:
        ArtifactError: it has none.
    """
    if checkpoint.model.fusion is None:
        raise ArtifactError(
            "the model was built with fusion = 'none': image and text never meet in it; expected a fusion; train one "
            'with the recipe emoji-fusion, or set fusion = "cross-attention"'
        )
    return checkpoint.model.fusion


def encode_pairs(checkpoint: Checkpoint, pairs: Pairs) -> Encoded:
    """Run both towers over all pairs, texts padded to the longest of them."""
    patches = encode_pixels(checkpoint, pairs.pixels)
    ids, mask = map(torch.from_numpy, checkpoint.tokenizer.batch(pairs.texts))
    return encode_ids(checkpoint, patches, ids, mask)


@torch.no_grad()
def encode_pixels(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> Tensor:
    """Patches [N, P, V] of uint8 [N, S, S, 3] pixels."""
    whole = torch.from_numpy(np.ascontiguousarray(pixels))
    return torch.cat([checkpoint.model.image(part)[1] for part in _split(whole)])


@torch.no_grad()
def encode_ids(checkpoint: Checkpoint, patches: Tensor, ids: Tensor, mask: Tensor) -> Encoded:
    """Beside [N, P, V] patches the tokens of int [N, L] ids; positions where the mask is 0 are not looked at."""
    rows = [checkpoint.model.text(i, m)[1] for i, m in zip(_split(ids), _split(mask), strict=True)]
    return Encoded(patches, torch.cat(rows), mask, ids)


@torch.no_grad()
def probabilities(checkpoint: Checkpoint, encoded: Encoded, classes: Ints | None) -> Floats:
    """[N] probability of the class of each pair, or, without classes, that its text belongs to its picture."""
    sides = (encoded.patches, encoded.tokens, encoded.mask)
    parts = []
    for patches, tokens, mask in zip(*map(_split, sides), strict=True):
        match, *others = checkpoint.model.fuse(patches, tokens, mask)
        parts.append(match.sigmoid()[:, None] if classes is None else others[0].softmax(-1))
    found = torch.cat(parts).numpy()
    return found[:, 0] if classes is None else found[np.arange(len(found)), classes]


def repeat_pairs(encoded: Encoded, count: int) -> Encoded:
    """One pair `count` times, without copies."""
    parts = (encoded.patches, encoded.tokens, encoded.mask, encoded.ids)
    return Encoded(*(part.expand(count, *part.shape[1:]) for part in parts))


def emoji_pairs(checkpoint: Checkpoint, data: EvalSet, count: int, *, seed: int = 0) -> Pairs:
    """Random pairs of the embedded emoji, no picture twice, so that pairs are independent samples of pictures.

    Args:
        data: made by `emoji_evalset`, i.e. clusters are hexcodes.
        count: pairs, at most one for each picture.

    Raises:
        DataError: there is no text.
    """
    order = np.random.default_rng(seed).permutation(len(data.texts))
    first = np.sort(np.unique(data.text_image[order], return_index=True)[1])[:count]
    rows = order[first]
    shown = [data.images[i] for i in data.text_image[rows]]
    pack = load_pack()
    group = {emoji.hexcode: pack.groups[emoji.group] for emoji in pack.emoji}
    names = [group[data.clusters[i]] for i in data.text_image[rows]]
    known = set(names) <= set(checkpoint.labels) and checkpoint.model.config.classes > 0
    return Pairs(
        pixels=preprocessed(checkpoint, shown),
        texts=tuple(data.texts[row] for row in rows),
        classes=np.array([checkpoint.labels.index(name) for name in names], np.int64) if known else None,
    )


def preprocessed(checkpoint: Checkpoint, images: Iterable[Any]) -> NDArray[np.uint8]:
    """Pictures or uint8 [H, W, 3] arrays as uint8 [N, S, S, 3] pixels."""
    size = checkpoint.preprocess.size
    pictures = (image if isinstance(image, Image.Image) else Image.fromarray(image) for image in images)
    rows = [checkpoint.preprocess(picture) for picture in pictures]
    return np.stack(rows) if rows else np.zeros((0, size, size, 3), np.uint8)


def blank_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """White pictures of the same shape, which is how the fusion was trained to go without one."""
    return np.full_like(pixels, WHITE)


def _split(rows: Tensor) -> list[Tensor]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
