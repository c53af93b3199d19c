"""What each operation of MIL, the language of Core ML programs, computes: one torch function per operation.

Functions take the parameters of an operation by their names. Tensors come as float32, int32 or bool,
constants of rank 0 as plain numbers, and the caller rounds what they return to the type that the program
declares.

Source: the MIL operation set of iOS 17 and 18, https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

Value: TypeAlias = Tensor | int | float | bool | str


def _tensor(value: Value) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value)


def _list(value: Any) -> list[Any]:
    return value.tolist() if isinstance(value, Tensor) else [value]


def _conv(
    x: Tensor,
    weight: Tensor,
    strides: Tensor,
    pad_type: str,
    dilations: Tensor,
    groups: int,
    pad: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    if pad_type == "custom" and pad is not None:
        top, bottom, left, right = pad.tolist()
        x = F.pad(x, (left, right, top, bottom))
    elif pad_type != "valid":
        raise ValueError(f"conv with pad_type {pad_type!r}")
    return F.conv2d(x, weight, bias, strides.tolist(), 0, dilations.tolist(), groups)


def _layer_norm(x: Tensor, axes: Tensor, epsilon: float, gamma: Tensor, beta: Tensor) -> Tensor:
    if axes.tolist() not in ([-1], [x.dim() - 1]):
        raise ValueError(f"layer_norm over axes {axes.tolist()}")
    return F.layer_norm(x, gamma.shape, gamma, beta, epsilon)


def _gelu(x: Tensor, mode: str) -> Tensor:
    return F.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


def _matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def _gather(x: Tensor, indices: Value, axis: int, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        raise ValueError(f"gather with batch_dims {batch_dims}")
    places = _tensor(indices)
    axis %= x.dim()
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    if batch_dims:
        raise ValueError(f"gather_nd with batch_dims {batch_dims}")
    return x[tuple(indices.unbind(-1))]


def _slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    no = torch.zeros(x.dim(), dtype=torch.bool)
    steps = torch.ones_like(begin) if stride is None else stride
    masks = [no if mask is None else mask for mask in (begin_mask, end_mask, squeeze_mask)]
    rows = zip(*(part.tolist() for part in (begin, end, steps, *masks)), strict=True)
    return x[
        tuple(
            first if is_squeezed else slice(None if is_from_start else first, None if is_to_end else last, step)
            for first, last, step, is_from_start, is_to_end, is_squeezed in rows
        )
    ]


def _concat(values: Sequence[Value], axis: int, interleave: bool = False) -> Tensor:
    if interleave:
        raise ValueError("concat that interleaves")
    tensors = [_tensor(value) for value in values]
    return torch.cat([tensor.reshape(1) if tensor.dim() == 0 else tensor for tensor in tensors], axis)


def _split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    sizes = split_sizes.tolist() if split_sizes is not None else x.shape[axis] // int(num_splits or 1)
    return torch.split(x, sizes, axis)


def _expand_dims(x: Value, axes: Tensor) -> Tensor:
    expanded = _tensor(x)
    for axis in axes.tolist():
        expanded = expanded.unsqueeze(axis)
    return expanded


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


# operation -> function of its parameters; what own towers, CLIP and SigLIP need
OPERATIONS: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "add": lambda x, y: _tensor(x) + y,
    "cast": lambda x, dtype: _tensor(x),  # to the declared type, as after every operation
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "concat": _concat,
    "conv": _conv,
    "equal": lambda x, y: torch.eq(_tensor(x), _tensor(y)),
    "expand_dims": _expand_dims,
    "gather": _gather,
    "gather_nd": _gather_nd,
    "gelu": _gelu,
    "greater_equal": lambda x, y: torch.ge(_tensor(x), _tensor(y)),
    "identity": lambda x: x,
    "layer_norm": _layer_norm,
    "less_equal": lambda x, y: torch.le(_tensor(x), _tensor(y)),
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "log": lambda x, epsilon: torch.log(x + epsilon),
    "matmul": _matmul,
    "maximum": lambda x, y: torch.maximum(_tensor(x), _tensor(y)),
    "mul": lambda x, y: _tensor(x) * y,
    "range_1d": lambda start, end, step: torch.arange(int(start), int(end), int(step), dtype=torch.int32),
    "real_div": lambda x, y: _tensor(x) / _tensor(y),
    "reduce_argmax": lambda x, axis, keep_dims, output_dtype="int32": x.argmax(axis, keep_dims),
    "reduce_l2_norm": lambda x, axes, keep_dims: torch.linalg.vector_norm(x, dim=_list(axes), keepdim=keep_dims),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(_list(axes), keep_dims),
    "reduce_sum": lambda x, axes, keep_dims: x.sum(_list(axes), keep_dims),
    "relu": lambda x: x.relu(),
    "reshape": lambda x, shape: x.reshape(shape.tolist()),
    "select": lambda cond, a, b: torch.where(_tensor(cond), _tensor(a), _tensor(b)),
    "shape": lambda x: torch.tensor(x.shape, dtype=torch.int32),
    "sigmoid": lambda x: x.sigmoid(),
    "slice_by_index": _slice_by_index,
    "softmax": lambda x, axis: x.softmax(axis),
    "split": _split,
    "squeeze": _squeeze,
    "stack": lambda values, axis: torch.stack([_tensor(value) for value in values], axis),
    "sub": lambda x, y: _tensor(x) - y,
    "tile": lambda x, reps: x.repeat(*reps.tolist()),
    "transpose": lambda x, perm: x.permute(perm.tolist()),
}
