"""Which regions of a picture matter: by the gradient of the fusion, and by taking regions out of the picture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dmedge.errors import ArtifactError
from dmedge.evidence.attention import Grid, grid_of
from dmedge.evidence.pairs import (
    BATCH,
    Encoded,
    Pairs,
    blank_pixels,
    encode_pixels,
    fusion_of,
    probabilities,
)
from dmedge.evidence.retrieval import Floats, Ints
from dmedge.model.checkpoint import Checkpoint

Fill = Literal["white", "blur"]
STEPS = 5  # of a curve, after its start
RANDOM = "random"


@dataclass(frozen=True, eq=False)
class Curves:
    """Probability of N pairs while the regions of their pictures go, and while they come."""

    shares: Floats  # [K + 1] of the regions, 0 to 1
    deletion: Floats  # [N, K + 1], the most important region taken out first
    insertion: Floats  # [N, K + 1], the most important region put in first

    @property
    def deletion_area(self) -> Floats:
        """[N] area under `deletion`: the less, the better the order."""
        return _areas(self.deletion, self.shares)

    @property
    def insertion_area(self) -> Floats:
        """[N] area under `insertion`: the more, the better the order."""
        return _areas(self.insertion, self.shares)


def gradient_regions(checkpoint: Checkpoint, encoded: Encoded, classes: Ints | None) -> Floats:
    """Gradient times input of every patch, summed over its width: [N, P], above 0 where it speaks for the answer.

    Args:
        classes: [N], whose logits are followed; the match logit where there are none.

    Raises:
        ArtifactError: the model has no fusion, or is quantized.

    Source: Simonyan et al. 2014, arXiv:1312.6034; Shrikumar et al. 2017, arXiv:1704.02685 (times the input).
    """
    fusion_of(checkpoint)
    if checkpoint.quantization is not None:
        raise ArtifactError(
            "the checkpoint is quantized, and no gradient passes through rounding; expected a float checkpoint; name "
            "the one that it was made from (dmedge info shows it)"
        )
    found = []
    for start in range(0, len(encoded.ids), BATCH):
        part = slice(start, start + BATCH)
        patches = encoded.patches[part].clone().requires_grad_()
        match, *others = checkpoint.model.fuse(patches, encoded.tokens[part], encoded.mask[part])
        logits = match if classes is None else others[0][torch.arange(len(match)), torch.from_numpy(classes[part])]
        (gradient,) = torch.autograd.grad(logits.sum(), patches)
        found.append((gradient * patches.detach()).sum(-1))
    return torch.cat(found).numpy()


def order_by(importance: Floats) -> Ints:
    """[N, P] regions by falling importance; of equal ones the first first."""
    return np.argsort(-importance, axis=1, kind="stable")


def random_order(pairs: int, regions: int, *, seed: int = 0) -> Ints:
    """[N, P] regions in another random order for every pair."""
    return np.random.default_rng(seed).permuted(np.tile(np.arange(regions, dtype=np.int64), (pairs, 1)), axis=1)


def removal_curves(
    checkpoint: Checkpoint,
    pairs: Pairs,
    encoded: Encoded,
    orders: Mapping[str, Ints],
    *,
    fill: Fill = "white",
    steps: int = STEPS,
) -> dict[str, Curves]:
    """Deletion and insertion: regions leave the pixels, or come to a picture that is all `fill`, in some order.

    Args:
        orders: name -> [N, P], the most important region first. One named "random" comes back in reverse, which is
            as random, so that one run serves both curves.
        fill: what a missing region shows: white, as a missing picture does, or the picture itself blurred.
        steps: by which all regions go; P at most.

    Returns:
        curves by the names of the orders; all begin and end alike.

    Source: Petsiuk, Das and Saenko 2018, arXiv:1806.07421.
    """
    filled = FILLS[fill](pairs.pixels)
    regions = encoded.patches.shape[1]
    evenly = np.linspace(0, regions, min(steps, regions) + 1).round().astype(np.int64)
    counts = np.unique([evenly, regions - evenly])  # as many from either end

    def probability(keeps: NDArray[np.bool_]) -> Floats:
        pixels = np.where(_to_pixels(keeps, grid_of(regions), pairs.pixels.shape[1]), pairs.pixels, filled)
        seen = replace(encoded, patches=encode_pixels(checkpoint, pixels))
        return probabilities(checkpoint, seen, pairs.classes)

    whole, empty = (probability(np.full((len(filled), regions), keeps)) for keeps in (True, False))
    found = {}
    for name, order in orders.items():
        rank = np.argsort(order, axis=1)  # [N, P] place of every region in the order
        without = [probability(rank >= count) for count in counts[1:-1]]
        within = without[::-1] if name == RANDOM else [probability(rank < count) for count in counts[1:-1]]
        found[name] = Curves(
            (counts / regions).astype(np.float32),
            deletion=np.stack([whole, *without, empty], 1),
            insertion=np.stack([empty, *within, whole], 1),
        )
    return found


def _areas(curves: Floats, shares: Floats) -> Floats:
    """[N] areas under [N, K + 1] curves, by the trapezoid rule."""
    areas: Floats = (np.diff(shares) * (curves[:, 1:] + curves[:, :-1]) / 2).sum(1)
    return areas


def _to_pixels(keeps: NDArray[np.bool_], grid: Grid, size: int) -> NDArray[np.bool_]:
    """[N, P] regions to [N, S, S, 1] pixels."""
    rows, columns = (np.arange(size) * count // size for count in grid)
    maps = keeps.reshape(-1, *grid)
    return maps[:, rows][:, :, columns][..., None]


def _blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return blurred(pixels, pixels.shape[1] / 6)


def blurred(pixels: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Uint8 [N, S, S, 3] pixels under a Gaussian blur; a radius of 0 leaves them."""
    if not radius:
        return pixels
    blur = ImageFilter.GaussianBlur(radius)
    return np.stack([np.asarray(Image.fromarray(one).filter(blur)) for one in pixels])


FILLS: Mapping[Fill, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {"white": blank_pixels, "blur": _blurred}
assert set(FILLS) == set(get_args(Fill))
