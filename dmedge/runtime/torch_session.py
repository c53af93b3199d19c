"""A checkpoint as a session: its model runs in this process, equal shapes in one batch."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact
from dmedge.environment import package_version
from dmedge.errors import DmedgeError, require
from dmedge.runtime.backend import time_runs
from dmedge.runtime.session import SessionFacts, check_inputs, find_program, peak_resident_bytes, resident_bytes
from dmedge.runtime.wire import Array

BATCH = 256


class TorchSession:
    """The model of a checkpoint; sets torch's thread count, which is one for the whole process."""

    def __init__(self, artifact: Artifact, *, threads: int) -> None:
        self._torch = require("torch", "train")
        self._torch.set_num_threads(threads)
        from dmedge.model.checkpoint import checkpoint_programs, load_checkpoint

        base_rss_bytes = resident_bytes()
        start = time.perf_counter()
        model = load_checkpoint(artifact).model
        load_ms = (time.perf_counter() - start) * 1e3
        self._facts = SessionFacts(
            runtime="torch",
            version=package_version("torch") or "unknown",
            threads=threads,
            load_ms=load_ms,
            base_rss_bytes=base_rss_bytes,
            peak_rss_bytes=0,
        )
        self.programs = checkpoint_programs(model.config)
        self._methods: dict[str, Callable[..., Any]] = {
            program.name: getattr(model, program.name) for program in self.programs
        }

    def run(self, program: str, inputs: Sequence[Array]) -> list[Array]:
        """See `Session.run`; the first dimension may be larger than 1."""
        check_inputs(find_program(self.programs, program), [inputs])
        method = self._find(program)
        with self._torch.inference_mode():
            return [output.numpy() for output in method(*self._tensors(inputs))]

    def run_many(
        self, program: str, items: Sequence[Sequence[Array]], *, outputs: Sequence[int] | None = None
    ) -> list[list[Array]]:
        """See `Session.run_many`; items of equal shapes share batches, nothing is padded."""
        spec = find_program(self.programs, program)
        wanted = tuple(range(len(spec.outputs)) if outputs is None else outputs)
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
        for i, inputs in enumerate(items):
            groups[tuple(array.shape for array in inputs)].append(i)
        results: list[list[Array]] = [[] for _ in items]
        for places in groups.values():
            for start in range(0, len(places), BATCH):
                chunk = places[start : start + BATCH]
                joined = self._run_joined(program, [items[i] for i in chunk], wanted)
                for i, result in zip(chunk, joined, strict=True):
                    results[i] = result
        return results

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """See `Session.time`."""
        check_inputs(find_program(self.programs, program), [inputs])
        method, tensors = self._find(program), self._tensors(inputs)
        with self._torch.inference_mode():
            return time_runs(lambda: method(*tensors), runs)

    def facts(self) -> SessionFacts:
        """See `Session.facts`; memory is that of this whole process."""
        return {**self._facts, "peak_rss_bytes": peak_resident_bytes()}

    def close(self) -> None:
        """Drop the model; closing twice is fine."""
        self._methods.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run_joined(self, program: str, items: Sequence[Sequence[Array]], wanted: Sequence[int]) -> list[list[Array]]:
        rows = len(items[0][0])
        joined = self.run(program, [np.concatenate(arrays) for arrays in zip(*items, strict=True)])
        return [[joined[index][i * rows : (i + 1) * rows] for index in wanted] for i in range(len(items))]

    def _find(self, program: str) -> Callable[..., Any]:
        if program not in self._methods:
            raise DmedgeError(f"{program}: its session is closed; expected an open one; open it again")
        return self._methods[program]

    def _tensors(self, inputs: Sequence[Array]) -> list[Any]:
        return [self._torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
