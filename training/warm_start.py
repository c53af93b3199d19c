"""Token embeddings and concept anchors from the training text alone, before the first step."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def factorise(
    tokens: Sequence[Sequence[int]], concepts: NDArray[np.int64], vocab_size: int, width: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Factorise the positive pointwise mutual information of tokens and concepts.

    A text embedded as the mean of its tokens' rows then points at its concept's anchor.

    Args:
        tokens: token ids of every training text.
        concepts: [T] concept of each text.
        vocab_size: number of token rows.
        width: rank of the factorisation.
        seed: of the randomised decomposition.

    Returns:
        float32 [vocab_size, width] token rows and [C, width] unit-norm anchors.

    Source: Levy & Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization".
    """
    lengths = np.fromiter((len(ids) for ids in tokens), np.int64, len(tokens))
    token = np.concatenate([np.asarray(ids, np.int64) for ids in tokens])
    concept = np.repeat(concepts, lengths)
    count = int(concepts.max()) + 1
    weight = np.repeat(1.0 / np.maximum(lengths, 1), lengths)
    table = np.bincount(token * count + concept, weights=weight, minlength=vocab_size * count)
    joint = torch.from_numpy(table.reshape(vocab_size, count)).float()
    joint = joint / joint.sum()
    expected = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    information = torch.log(joint / expected.clamp(min=1e-12) + 1e-12).clamp(min=0)
    rank = min(width, *information.shape)
    torch.manual_seed(seed)
    left, singular, right = torch.svd_lowrank(information, q=rank, niter=4)
    scale = singular.sqrt()
    rows = torch.zeros(vocab_size, width)
    anchors = torch.zeros(count, width)
    rows[:, :rank] = left * scale
    anchors[:, :rank] = torch.nn.functional.normalize(right * scale, dim=1)
    return rows / rows.norm(dim=1).mean().clamp(min=1e-6), anchors
