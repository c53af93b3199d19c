"""Embeddings made small enough to carry around: fewer numbers of each, and each number in one byte."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dmedge.errors import DataError

Floats = NDArray[np.float32]
Selection = Literal["all", "leading", "strongest"]

LEVELS = 127  # of a code on either side of zero
BLOCK = 8192  # rows that are float32 at a time


@dataclass(frozen=True, eq=False)
class Vectors:
    """N rows of an index, and what a query goes through before it meets them."""

    codes: NDArray[np.int8] | Floats  # [N, D]
    scales: Floats | None  # [N], what a code of each row is worth; None: rows are float32
    dims: NDArray[np.int32] | None  # [D] ascending, numbers kept of an embedding; None: all
    selection: Selection

    def query(self, embeddings: Floats) -> Floats:
        """[Q, D] of [Q, embed_dim] embeddings: the numbers that are kept, of unit length again if they lead."""
        return select(embeddings, self.dims, self.selection)

    def scores(self, embeddings: Floats) -> Floats:
        """[Q, N] dot products of [Q, embed_dim] embeddings with the rows."""
        queries = self.query(embeddings)
        parts = [
            queries @ self.codes[start : start + BLOCK].T.astype(np.float32, copy=False)
            for start in range(0, len(self.codes), BLOCK)
        ]
        found = np.concatenate(parts, axis=1)
        return found if self.scales is None else found * self.scales

    def rows(self, places: NDArray[np.int64]) -> Floats:
        """[P, D] rows as float32."""
        rows = self.codes[places].astype(np.float32)
        return rows if self.scales is None else rows * self.scales[places, None]


def make_vectors(embeddings: Floats, *, dim: int | None, is_int8: bool) -> Vectors:
    """The rows of an index from [N, embed_dim] unit-norm embeddings.

    Args:
        embeddings: of the pictures.
        dim: how many numbers of each to keep [default: all].
        is_int8: a byte for each number and one float32 for each row, or float32 throughout.

    Raises:
        DataError: `dim` is more than there are.
    """
    dims, selection = choose_dims(embeddings, dim)
    kept = select(embeddings, dims, selection)
    if not is_int8:
        return Vectors(kept, None, dims, selection)
    codes, scales = quantize_rows(kept)
    return Vectors(codes, scales, dims, selection)


def choose_dims(embeddings: Floats, dim: int | None) -> tuple[NDArray[np.int32] | None, Selection]:
    """Which numbers of an embedding to keep.

    The leading ones, as Matryoshka training orders them. Shares of concepts, which are never negative,
    have no order: of those, the ones that are large in these pictures, since a concept that no picture
    shows adds nothing to any dot product with them.

    Args:
        embeddings: [N, embed_dim] of the pictures.
        dim: how many to keep [default: all].

    Raises:
        DataError: `dim` is more than there are.
    """
    width = embeddings.shape[1]
    if dim is None or dim == width:
        return None, "all"
    if dim > width:
        raise DataError(f"--dim {dim}; expected at most {width}, the numbers of an embedding of this bundle")
    if (embeddings >= 0).all():
        energy = np.square(embeddings, dtype=np.float64).sum(axis=0)
        strongest = np.argsort(-energy, kind="stable")[:dim]
        return np.sort(strongest).astype(np.int32), "strongest"
    return np.arange(dim, dtype=np.int32), "leading"


def select(embeddings: Floats, dims: NDArray[np.int32] | None, selection: Selection) -> Floats:
    """[N, D] numbers of [N, embed_dim] embeddings; leading ones get unit length again, as in training."""
    if dims is None:
        return embeddings
    kept = embeddings[:, dims]
    if selection == "leading":
        kept = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return kept


def quantize_rows(rows: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric int8 codes [N, D], -127..127, and the float32 scale [N] of each row."""
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scales = np.where(largest > 0, largest / LEVELS, 1.0).astype(np.float32)
    return np.rint(rows / scales[:, None]).astype(np.int8), scales
