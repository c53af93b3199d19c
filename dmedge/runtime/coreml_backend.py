"""Core ML packages, interpreted; runs inside a worker process.

Core ML itself runs on Apple's systems alone. `dmedge.runtime.mil_program` computes what a package says,
which proves the package and not the device; so nothing is timed here.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Program
from dmedge.environment import package_version
from dmedge.errors import DmedgeError, RuntimeFailure, require
from dmedge.runtime.profile import Profile
from dmedge.runtime.wire import Array

# What coremltools imports if it finds it, to convert models of theirs: seconds and 200 MB, and needless for reading.
_LOADED_FOR_NOTHING = ("sklearn", "xgboost", "tensorflow", "transformers", "torchao", "executorch")


class CoremlBackend:
    """One package per program."""

    def __init__(self, threads: int) -> None:
        self._torch = require("torch", "coreml")
        with _hidden(_LOADED_FOR_NOTHING):
            require("coremltools.converters.mil.frontend.milproto.load", "coreml")
        from dmedge.runtime import mil_program

        self._make = mil_program.MilProgram
        self._torch.set_num_threads(threads)
        self.version = f"MIL interpreter, coremltools {package_version('coremltools')}"
        self._programs: dict[str, mil_program.MilProgram] = {}

    def load(self, root: Path, programs: Sequence[Program]) -> None:
        """Load every program below `root`.

        Raises:
            RuntimeFailure: a package is damaged, holds an unknown operation, or has other inputs and outputs.
        """
        for program in programs:
            loaded = self._make(root / program.file)
            found = list(loaded.inputs), list(loaded.outputs)
            expected = [spec.name for spec in program.inputs], [spec.name for spec in program.outputs]
            if found != expected:
                raise RuntimeFailure(
                    f"{root / program.file}: has inputs and outputs {found}; "
                    f"the manifest names {expected}; export again"
                )
            self._programs[program.name] = loaded

    def run(self, program: str, inputs: Sequence[Array], outputs: Sequence[int]) -> list[Array]:
        """Run one program once and return the outputs asked for."""
        loaded = self._programs[program]
        tensors = {name: self._torch.from_numpy(array) for name, array in zip(loaded.inputs, inputs, strict=True)}
        try:
            with self._torch.inference_mode():
                results = loaded.run(tensors)
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            raise RuntimeFailure(
                f"{program} failed: {error}; expected a program made for coreml; run dmedge export"
            ) from error
        return [results[index].numpy() for index in outputs]

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """Refuse: an interpreter's time says nothing of a device.

        Raises:
            DmedgeError: always.
        """
        raise _no_device(program)

    def profile(self, program: str, inputs: Sequence[Array], runs: int) -> Profile:
        """Refuse, as `time` does.

        Raises:
            DmedgeError: always.
        """
        raise _no_device(program)


def _no_device(program: str) -> DmedgeError:
    return DmedgeError(
        f"{program}: found the MIL interpreter, which is not a device: Core ML is not timed here; "
        "expected a runtime that is; run dmedge bench --runtime executorch, or time the app on an iPhone"
    )


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Have imports of these packages fail, as if they were not installed."""
    hidden = [name for name in names if name not in sys.modules]
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]  # None is how the import system is told
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]
