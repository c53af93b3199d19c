"""An interpreter of saved Core ML packages: the MIL program, operation by operation, in torch.

It proves what a package holds, its weights, graph and types, on machines that lack Core ML. It is not Apple's runtime:
of its compiler, its Neural Engine and their speed it says nothing. Every result is rounded to the type that the
program declares, float16 for most, while sums run in float32.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmedge.errors import RuntimeFailure, require
from dmedge.runtime.mil_ops import OPERATIONS, Value

# Integers are kept in int32 whatever their width; the programs only hold indices and sizes in them.
_DTYPES = {"fp16": torch.float16, "fp32": torch.float32, "bool": torch.bool}


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation, ready to run."""

    operation: str
    constants: Mapping[str, Value]
    variables: Mapping[str, str]  # parameter -> name of the value that it takes
    lists: Mapping[str, tuple[Value | str, ...]]  # parameter -> constants and names; a list holds no text
    outputs: tuple[tuple[str, torch.dtype], ...]


class MilProgram:
    """The main function of one `.mlpackage`."""

    def __init__(self, package: Path) -> None:
        """Read it.

        Raises:
            RuntimeFailure: it is damaged, or holds an operation that is not known here.
        """
        self._package = package
        function = read_package(package).functions["main"]
        self.inputs = tuple(function.inputs)
        self.outputs = tuple(variable.name for variable in function.outputs)
        self._dtypes = {name: _dtype(variable) for name, variable in function.inputs.items()}
        self._constants: dict[str, Value] = {}
        self._steps = [self._step(operation) for operation in function.operations if not self._is_constant(operation)]

    def run(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """All outputs, for inputs by name."""
        values: dict[str, Tensor] = {name: _rounded(inputs[name], dtype) for name, dtype in self._dtypes.items()}
        for step in self._steps:
            arguments: dict[str, Any] = dict(step.constants)
            arguments |= {parameter: _wide(values[name]) for parameter, name in step.variables.items()}
            for parameter, items in step.lists.items():
                arguments[parameter] = [_wide(values[i]) if isinstance(i, str) else i for i in items]
            results = OPERATIONS[step.operation](**arguments)
            several = results if isinstance(results, tuple) else (results,)
            for (name, dtype), result in zip(step.outputs, several, strict=True):
                values[name] = _rounded(result, dtype)
        return [values[name] for name in self.outputs]

    def _is_constant(self, operation: Any) -> bool:
        """Keep the value of an operation that is one, decompressed if it is compressed."""
        if operation.op_type == "const":
            value = operation.outputs[0].val
        elif operation.op_type.startswith("constexpr_"):
            value = operation.materialized_val_inference()
        else:
            return False
        self._constants[operation.outputs[0].name] = _constant(value)
        return True

    def _step(self, operation: Any) -> _Step:
        if operation.op_type not in OPERATIONS:
            raise RuntimeFailure(
                f"{self._package}: holds the MIL operation {operation.op_type!r}; "
                f"expected one of {', '.join(OPERATIONS)}; run dmedge export again with this version"
            )
        constants: dict[str, Value] = {}
        variables: dict[str, str] = {}
        lists: dict[str, tuple[Value | str, ...]] = {}
        for parameter, given in operation.inputs.items():
            if given is None:
                continue
            if isinstance(given, (tuple, list)):
                lists[parameter] = tuple(self._constants.get(item.name, item.name) for item in given)
            elif given.name in self._constants:
                constants[parameter] = self._constants[given.name]
            else:
                variables[parameter] = given.name
        outputs = tuple((variable.name, _dtype(variable)) for variable in operation.outputs)
        return _Step(operation.op_type, constants, variables, lists, outputs)


def read_package(package: Path) -> Any:
    """The program of a `.mlpackage` as coremltools keeps it.

    Raises:
        DmedgeError: coremltools is not installed.
        RuntimeFailure: the package is damaged.
    """
    proto = require("coremltools.proto.Model_pb2", "coreml")
    loader = require("coremltools.converters.mil.frontend.milproto.load", "coreml")
    message = require("google.protobuf.message", "coreml")
    damages = (message.DecodeError, RuntimeError, ValueError, KeyError, TypeError, AssertionError, OSError)
    try:
        folder = package / "Data"
        table = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
        paths = {key: folder / item["path"] for key, item in table["itemInfoEntries"].items()}
        path = paths.pop(table["rootModelIdentifier"])
        spec = proto.Model()
        spec.ParseFromString(path.read_bytes())
        [weights] = paths.values()
        return loader.load(spec, spec.specificationVersion, str(weights))
    except damages as error:
        raise RuntimeFailure(
            f"cannot load {package}: {error!r}; expected a Core ML package; run dmedge export"
        ) from error


def operations_of(program: Any) -> Iterable[Any]:
    """All operations of the main function, constants included."""
    operations: Iterable[Any] = program.functions["main"].operations
    return operations


def _constant(value: Any) -> Value:
    """Text and plain numbers as they are, arrays as tensors in the widest type of their kind."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind in "US":
        return str(array)
    wide = array.astype({"f": "float32", "i": "int32", "u": "int32", "b": "bool"}[array.dtype.kind])
    return wide.item() if wide.ndim == 0 else torch.from_numpy(wide)


def _dtype(variable: Any) -> torch.dtype:
    """Declared type of a variable: its elements', for one of rank 0 as well."""
    return _DTYPES.get(variable.dtype.__name__, torch.int32)


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.float16 else value


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """What a variable of this type keeps of a result."""
    return value.to(dtype)
