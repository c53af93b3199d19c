"""Many small arrays as a few large buffers, so that a pipe carries a whole batch in one message."""

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Packed: TypeAlias = tuple[tuple[str, bytes, bytes], ...]  # per position: dtype, int32 shapes [n, rank], data


def pack(items: Sequence[Sequence[Array]]) -> Packed:
    """Join `items` position by position; at each position all items share dtype and rank."""
    positions = []
    for arrays in zip(*items, strict=True):
        shapes = np.array([array.shape for array in arrays], np.int32)
        data = np.concatenate([array.ravel() for array in arrays])
        positions.append((arrays[0].dtype.str, shapes.tobytes(), data.tobytes()))
    return tuple(positions)


def unpack(packed: Packed, count: int) -> list[list[Array]]:
    """Undo `pack` for `count` items; the arrays are writable views into one buffer per position."""
    positions = [_split(dtype, shapes, data, count) for dtype, shapes, data in packed]
    return [list(arrays) for arrays in zip(*positions, strict=True)]


def _split(dtype: str, shapes: bytes, data: bytes, count: int) -> list[Array]:
    rows: list[list[int]] = np.frombuffer(shapes, np.int32).reshape(count, len(shapes) // (4 * count)).tolist()
    flat: Array = np.frombuffer(bytearray(data), np.dtype(dtype))
    arrays, start = [], 0
    for shape in rows:
        end = start + prod(shape)
        arrays.append(flat[start:end].reshape(shape))
        start = end
    return arrays
