"""What programs return, held against what an embedding or a score is."""

from collections.abc import Sequence

import numpy as np

from dmedge.artifact import Program, TensorSpec
from dmedge.runtime.session import fits
from dmedge.runtime.wire import Array

EMBEDDING = "embedding"  # how programs call that output
NORM_TOLERANCE = 1e-2  # of an embedding's length from 1; int8 and fp16 programs normalise in float


def output_fault(
    program: Program, items: Sequence[Sequence[Array]], results: Sequence[Sequence[Array]], places: Sequence[int]
) -> str | None:
    """What is wrong with what some runs returned, and what was expected; None for nothing.

    Args:
        items: inputs of each run.
        results: outputs of each run.
        places: which outputs of the program these are.
    """
    for column, place in enumerate(places):
        spec, arrays = program.outputs[place], [found[column] for found in results]
        fault = _other_shape(program, items, arrays, spec) or _no_numbers(arrays) or _other_length(arrays, spec)
        if fault is not None:
            return f"{program.name}: output {spec.name!r} {fault}"
    return None


def _other_shape(
    program: Program, items: Sequence[Sequence[Array]], arrays: Sequence[Array], spec: TensorSpec
) -> str | None:
    fitting = set()
    for inputs, array in zip(items, arrays, strict=True):
        signature = (array.dtype, array.shape, *(given.shape for given in inputs))
        if signature in fitting:
            continue
        sizes: dict[str, int] = {}
        for given, taken in zip(inputs, program.inputs, strict=True):
            fits(given.shape, taken, sizes)  # dimensions of one name agree with those of the inputs
        if array.dtype.name != spec.dtype or not fits(array.shape, spec, sizes):
            wanted = f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"
            return f"is {array.dtype.name}{list(array.shape)}; expected {wanted}, as the manifest promises"
        fitting.add(signature)
    return None


def _no_numbers(arrays: Sequence[Array]) -> str | None:
    broken = sum(not np.isfinite(array).all() for array in arrays)
    return f"is not finite for {broken} of {len(arrays)} inputs; expected numbers" if broken else None


def _other_length(arrays: Sequence[Array], spec: TensorSpec) -> str | None:
    if spec.name != EMBEDDING or not arrays:
        return None
    lengths = np.linalg.norm(np.concatenate(arrays).astype(np.float32), axis=-1)
    worst = lengths.flat[np.abs(lengths - 1).argmax()]
    if abs(worst - 1) <= NORM_TOLERANCE:
        return None
    return f"has length {worst:.3f}; expected 1 within {NORM_TOLERANCE}"
