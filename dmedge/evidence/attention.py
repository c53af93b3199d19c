"""Where the words of a text look in a picture: the cross-attention of the fusion, and how spread out it is."""

from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch

from dmedge.errors import ArtifactError
from dmedge.evidence.pairs import BATCH, Encoded, Pairs, encode_pairs, fusion_of
from dmedge.evidence.retrieval import Floats
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.fusion import FusionHead

Grid = tuple[int, int]  # rows and columns of regions


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The cross-attention of one pair."""

    tokens: tuple[str, ...]  # [L] as the vocabulary writes them
    heads: Floats  # [H, L, P]; each row sums to 1
    grid: Grid  # the P regions, row by row

    @property
    def weights(self) -> Floats:
        """[L, P] mean over heads: where each token looks; rows sum to 1."""
        mean: Floats = self.heads.mean(0)
        return mean

    @property
    def regions(self) -> Floats:
        """[P] mean over tokens: how much each region is looked at; sums to 1."""
        mean: Floats = self.weights.mean(0)
        return mean

    @property
    def token_entropy(self) -> Floats:
        """[L] mean over heads of the entropy of each row, over log P: 0 one region, 1 all alike."""
        mean: Floats = entropy(self.heads).mean(0)
        return mean

    @property
    def entropy(self) -> float:
        """Mean of `token_entropy`."""
        return float(self.token_entropy.mean())


def attention_maps(checkpoint: Checkpoint, pairs: Pairs) -> list[AttentionMap]:
    """The cross-attention of every pair; padding is left out.

    Raises:
        ArtifactError: the fusion has no cross-attention, or there is none, or the patches form no square.
    """
    check_attends(checkpoint)
    return maps_of(checkpoint, encode_pairs(checkpoint, pairs))


@torch.no_grad()
def maps_of(checkpoint: Checkpoint, encoded: Encoded) -> list[AttentionMap]:
    """As `attention_maps`, of pairs that are encoded already."""
    fusion = check_attends(checkpoint)
    grid = grid_of(encoded.patches.shape[1])
    found = []
    for start in range(0, len(encoded.ids), BATCH):
        part = slice(start, start + BATCH)
        weights = fusion.attention_map(encoded.patches[part], encoded.tokens[part])  # [B * H, L, P]
        rows = weights.view(-1, fusion.attention.heads, *weights.shape[1:]).numpy()
        for heads, ids, mask in zip(rows, encoded.ids[part], encoded.mask[part].bool(), strict=True):
            tokens = tuple(checkpoint.tokenizer.piece(int(token)) for token in ids[mask])
            found.append(AttentionMap(tokens, heads[:, mask.numpy()], grid))
    return found


def check_attends(checkpoint: Checkpoint) -> FusionHead:
    """The fusion of a checkpoint, if it has cross-attention.

    Raises:
        ArtifactError: it has not, or there is no fusion.
    """
    fusion = fusion_of(checkpoint)
    if not fusion.attends:
        raise ArtifactError(
            f"the model has fusion {fusion.kind!r} of modality {fusion.modality!r}, which attends to nothing; expected "
            "cross-attention; ask for the gradient map instead (--by gradient), or train with "
            'fusion = "cross-attention", modality = "full"'
        )
    return fusion


def grid_of(patches: int) -> Grid:
    """Rows and columns of the regions that patches stand for.

    Raises:
        ArtifactError: they form no square.
    """
    side = isqrt(patches)
    if side * side != patches:
        raise ArtifactError(f"the image tower gives {patches} patches; expected a square number of them; use another")
    return side, side


def entropy(shares: Floats) -> Floats:
    """Entropy of [..., P] shares over log P, i.e. within 0..1; 0 where P is 1."""
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(shares > 0, -shares * np.log(shares), 0.0)
    found: Floats = parts.sum(-1) / max(np.log(shares.shape[-1]), 1e-12)
    return found
