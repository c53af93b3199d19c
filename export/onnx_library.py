"""Torch's library of ONNX functions, read once: a fifth of what an export of a small program took."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

from dmedge.errors import require

_READ: dict[int, Any] = {}  # opset -> its library


@contextmanager
def one_library() -> Iterator[None]:
    """Within the block torch takes the library that it has read before, where it would read it for every program."""
    registration: Any = require("torch.onnx._internal.exporter._registration", "onnx")
    registry = registration.ONNXRegistry
    original, read = registry.__dict__["from_torchlib"], registry.from_torchlib

    def from_kept(opset_version: int) -> Any:
        if opset_version not in _READ:
            _READ[opset_version] = read(opset_version=opset_version)
        found = copy(_READ[opset_version])  # with lists of its own, to which an export adds its custom operations
        found.functions = {name: [*known] for name, known in found.functions.items()}
        return found

    registry.from_torchlib = staticmethod(from_kept)
    try:
        yield
    finally:
        registry.from_torchlib = original
