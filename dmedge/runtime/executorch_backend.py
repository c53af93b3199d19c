"""Programs in ExecuTorch; runs inside a worker process."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Program
from dmedge.environment import package_version
from dmedge.errors import DmedgeError, RuntimeFailure, require
from dmedge.runtime.backend import time_runs
from dmedge.runtime.executorch_profile import read_profile
from dmedge.runtime.profile import WARM_UP, Profile
from dmedge.runtime.wire import Array


class ExecutorchBackend:
    """One method per program; several methods may share one `.pte` file."""

    def __init__(self, threads: int) -> None:
        self._torch = require("torch", "executorch")
        # The public portable_lib imports executorch.exir first, which costs 3 s and 140 MB of memory.
        self._library = require("executorch.extension.pybindings._C", "executorch")
        require("executorch.kernels.quantized", "executorch")  # the kernels that a device links too
        self.version: str = package_version("executorch") or "unknown"
        self._library._unsafe_reset_threadpool(threads)  # once a program is loaded, this would abort the process
        if self._library._threadpool_get_thread_count() != threads:
            found = self._library._threadpool_get_thread_count()
            raise DmedgeError(f"executorch runs {found} threads; expected {threads}; choose another number")
        self._programs: dict[str, Any] = {}  # a method does not keep its program alive
        self._methods: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}

    def load(self, root: Path, programs: Sequence[Program]) -> None:
        """Load every program below `root`.

        Raises:
            RuntimeFailure: a file is no ExecuTorch program, or lacks a method or an operator.
        """
        for program in programs:
            path = root / program.file
            with _explained(f"cannot load {program.name} from {path}"):
                if program.file not in self._programs:
                    self._programs[program.file] = self._library._load_program(str(path))
                self._methods[program.name] = self._programs[program.file].load_method(program.name)
            self._paths[program.name] = path

    def run(self, program: str, inputs: Sequence[Array], outputs: Sequence[int]) -> list[Array]:
        """Run one program once and return the outputs asked for."""
        with _explained(f"{program} failed"):
            results = self._methods[program](self._tensors(inputs))
        return [results[index].numpy() for index in outputs]

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """Time `runs` executions in ns, with inputs set beforehand."""
        method, tensors = self._methods[program], self._tensors(inputs)
        with _explained(f"{program} failed"):
            # An execution may overwrite the memory that is planned for its inputs.
            return time_runs(method.execute, runs, prepare=lambda: method.set_inputs(tensors))

    def profile(self, program: str, inputs: Sequence[Array], runs: int) -> Profile:
        """See `Backend.profile`; of a program of its own, for a tracer slows what it watches."""
        tensors = self._tensors(inputs)
        with tempfile.TemporaryDirectory() as folder, _explained(f"{program} failed"):
            traced = self._library._load_program(str(self._paths[program]), enable_etdump=True)
            method = traced.load_method(program)
            for _ in range(WARM_UP + runs):
                method.set_inputs(tensors)
                method.execute()
            traced.write_etdump_result_to_file(f"{folder}/profile.etdp")
            return read_profile(Path(folder) / "profile.etdp", runs)

    def _tensors(self, inputs: Sequence[Array]) -> list[Any]:
        return [self._torch.from_numpy(array) for array in inputs]


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeFailure(f"{what}: {error}; expected a program made for executorch; run dmedge export") from error
