"""A process that loads programs and runs them for the parent that started it.

Requests come on standard input and answers leave on standard output, so the process ends when
its parent does. Whatever libraries print goes to standard error, which the parent keeps for messages.
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dmedge.artifact import Program
from dmedge.errors import DmedgeError
from dmedge.manifest import Runtime
from dmedge.runtime.backend import Backend
from dmedge.runtime.profile import Profile
from dmedge.runtime.session import SessionFacts, peak_resident_bytes, resident_bytes
from dmedge.runtime.wire import Packed, pack, unpack


class Worker:
    """The programs of one artifact in one runtime."""

    def __init__(self, runtime: Runtime, threads: int, root: Path, programs: Sequence[Program]) -> None:
        self._backend = _make_backend(runtime, threads)
        _forget_messages()
        base_rss_bytes = resident_bytes()
        start = time.perf_counter()
        self._backend.load(root, programs)
        self._facts = SessionFacts(
            runtime=runtime,
            version=self._backend.version,
            threads=threads,
            load_ms=(time.perf_counter() - start) * 1e3,
            base_rss_bytes=base_rss_bytes,
            peak_rss_bytes=0,
        )

    def run(self, program: str, packed: Packed, count: int, outputs: Sequence[int]) -> Packed:
        """Run one program for each of `count` packed items."""
        return pack([self._backend.run(program, inputs, outputs) for inputs in unpack(packed, count)])

    def time(self, program: str, packed: Packed, runs: int) -> bytes:
        """Time `runs` executions; int64 nanoseconds."""
        return self._backend.time(program, unpack(packed, 1)[0], runs).tobytes()

    def profile(self, program: str, packed: Packed, runs: int) -> Profile:
        """Have the runtime's profiler watch `runs` executions."""
        return self._backend.profile(program, unpack(packed, 1)[0], runs)

    def facts(self) -> SessionFacts:
        """The runtime, and what this process has used so far."""
        return {**self._facts, "peak_rss_bytes": peak_resident_bytes()}


def _make_backend(runtime: Runtime, threads: int) -> Backend:
    if runtime == "onnxruntime":
        from dmedge.runtime.onnx_backend import OnnxBackend

        return OnnxBackend(threads)
    if runtime == "coreml":
        from dmedge.runtime.coreml_backend import CoremlBackend

        return CoremlBackend(threads)
    from dmedge.runtime.executorch_backend import ExecutorchBackend

    return ExecutorchBackend(threads)


def _forget_messages() -> None:
    """Drop what libraries printed while they were imported: it says nothing of the programs."""
    with suppress(OSError):  # standard error is no file when a person runs this module
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)


def serve(requests: Connection, answers: Connection) -> None:
    """Answer requests until the parent hangs up; the first one loads the programs."""
    worker: Worker | None = None
    while True:
        try:
            method, arguments = requests.recv()
        except EOFError:
            return
        try:
            if worker is None:
                worker = Worker(*arguments)
                answer: Any = worker.facts()
            else:
                answer = getattr(worker, method)(*arguments)
        except DmedgeError as error:
            answers.send((False, error))
        else:
            answers.send((True, answer))


def main() -> None:
    """Take over the standard streams and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle; it then hangs up
    requests = Connection(os.dup(0), writable=False)
    answers = Connection(os.dup(1), readable=False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    try:
        serve(requests, answers)
    except BrokenPipeError:
        return  # the parent has gone while an answer was on its way


if __name__ == "__main__":
    main()
