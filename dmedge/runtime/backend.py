"""What a worker process asks of a runtime, and how it measures."""

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Program
from dmedge.runtime.profile import Profile
from dmedge.runtime.wire import Array


class Backend(Protocol):
    """One runtime, with the number of threads it was made for."""

    version: str

    def load(self, root: Path, programs: Sequence[Program]) -> None:
        """Load every program below `root`.

        Raises:
            DmedgeError: the runtime is not as it must be.
            RuntimeFailure: a file does not load.
        """

    def run(self, program: str, inputs: Sequence[Array], outputs: Sequence[int]) -> list[Array]:
        """Run one program once and return the outputs with these indices.

        Raises:
            RuntimeFailure: the runtime refuses the inputs, or fails.
        """

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """Nanoseconds of each of `runs` executions.

        Raises:
            DmedgeError: the runtime refuses the inputs, or fails.
        """

    def profile(self, program: str, inputs: Sequence[Array], runs: int) -> Profile:
        """Have the runtime's own profiler watch `runs` executions, after `profile.WARM_UP` more.

        Raises:
            DmedgeError: the runtime refuses the inputs, fails, or cannot be profiled.
        """


def time_runs(
    execute: Callable[[], object], runs: int, prepare: Callable[[], object] = lambda: None
) -> NDArray[np.int64]:
    """Nanoseconds of each of `runs` calls of `execute`, each after an untimed `prepare`.

    Python's garbage collector is kept out of it.
    """
    elapsed = np.empty(runs, np.int64)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for i in range(runs):
            prepare()
            start = time.perf_counter_ns()
            execute()
            elapsed[i] = time.perf_counter_ns() - start
    finally:
        if was_enabled:
            gc.enable()
    return elapsed
