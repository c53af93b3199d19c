"""A session whose programs run in a worker process, where a crash costs one error message."""

import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact
from dmedge.devices.conversation import END_WAIT_S, obituary, overdue
from dmedge.environment import child_environment
from dmedge.errors import DmedgeError, RuntimeFailure
from dmedge.manifest import Runtime
from dmedge.runtime.profile import Profile
from dmedge.runtime.session import SessionFacts, check_inputs, find_program, widened
from dmedge.runtime.wire import Array, pack, unpack

CHUNK = 512  # items in one message


class WorkerSession:
    """The programs of a bundle for one runtime in a worker process; not to be shared between threads."""

    def __init__(self, artifact: Artifact, runtime: Runtime, *, threads: int, timeout_s: float) -> None:
        self.programs = tuple(program for program in artifact.manifest.programs if program.runtime == runtime)
        self._runtime = runtime
        self._root = artifact.root.resolve()
        files = ", ".join(sorted({program.file for program in self.programs}))
        self._name = f"{artifact.root} ({files}): the {self._runtime} worker"
        self._timeout_s = timeout_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `_end`
        self._process, self._requests, self._answers = _start_worker(self._stderr, threads)
        self._end = weakref.finalize(self, _end, self._process, self._requests, self._answers, self._stderr)
        try:
            self._ask("load", (self._runtime, threads, self._root, self.programs), "while loading its programs")
        except DmedgeError:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    def run(self, program: str, inputs: Sequence[Array]) -> list[Array]:
        """See `Session.run`."""
        return self.run_many(program, [inputs])[0]

    def run_many(
        self, program: str, items: Sequence[Sequence[Array]], *, outputs: Sequence[int] | None = None
    ) -> list[list[Array]]:
        """See `Session.run_many`; every item is a run of its own, as on a device."""
        spec = find_program(self.programs, program)
        items = [widened(spec, inputs) for inputs in items]
        check_inputs(spec, items)
        wanted = tuple(range(len(spec.outputs)) if outputs is None else outputs)
        results = []
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            packed = self._ask("run", (program, pack(chunk), len(chunk), wanted), f"while running {program}")
            results += unpack(packed, len(chunk))
        return results

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """See `Session.time`."""
        spec = find_program(self.programs, program)
        inputs = widened(spec, inputs)
        check_inputs(spec, [inputs])
        elapsed = self._ask("time", (program, pack([inputs]), runs), f"while timing {program}")
        return np.frombuffer(elapsed, np.int64)

    def profile(self, program: str, inputs: Sequence[Array], runs: int) -> Profile:
        """Operators of a program, by the runtime's own profiler, over `runs` executions.

        Raises:
            DataError: the inputs do not fit the program.
            DmedgeError: there is no such program, or the runtime failed, died, or cannot be profiled.
        """
        spec = find_program(self.programs, program)
        inputs = widened(spec, inputs)
        check_inputs(spec, [inputs])
        profile: Profile = self._ask("profile", (program, pack([inputs]), runs), f"while profiling {program}")
        return profile

    def facts(self) -> SessionFacts:
        """See `Session.facts`; memory is the worker's."""
        facts: SessionFacts = self._ask("facts", (), "while counting its memory")
        return facts

    def close(self) -> None:
        """End the worker; closing twice is fine."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, arguments: tuple[object, ...], doing: str) -> Any:
        """One request and its answer, or an error that says what became of the worker."""
        if not self._end.alive:
            raise DmedgeError(f"{self._name} is closed; expected an open session; open it again")
        try:
            self._requests.send((method, arguments))
            if not self._answers.poll(self._timeout_s):
                raise self._overdue(doing)
            is_fine, answer = self._answers.recv()
        except (EOFError, OSError):
            raise self._obituary(doing) from None
        if not is_fine:
            raise answer
        return answer

    def _overdue(self, doing: str) -> RuntimeFailure:
        self._process.kill()
        self.close()
        return overdue(self._name, doing, self._timeout_s)

    def _obituary(self, doing: str) -> RuntimeFailure:
        error = obituary(self._name, doing, self._process, self._stderr)
        self.close()
        return error


def _start_worker(stderr: IO[bytes], threads: int) -> tuple[subprocess.Popen[bytes], Connection, Connection]:
    request_end, request_start = os.pipe()
    answer_end, answer_start = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "dmedge.runtime.worker"],
        stdin=request_end,
        stdout=answer_start,
        stderr=stderr,
        env=child_environment(OMP_NUM_THREADS=str(threads)),
    )
    os.close(request_end)
    os.close(answer_start)
    return process, Connection(request_start, readable=False), Connection(answer_end, writable=False)


def _end(process: subprocess.Popen[bytes], requests: Connection, answers: Connection, stderr: IO[bytes]) -> None:
    requests.close()
    answers.close()
    try:
        process.wait(END_WAIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    stderr.close()
