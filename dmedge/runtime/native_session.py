"""A session whose programs run on a device, by a native runner instead of Python."""

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact, Program
from dmedge.devices.folder import PREFIX
from dmedge.devices.jobs import INPUTS, JOB, OUTPUTS, Answer, Job, read_answer, read_outputs, write_job
from dmedge.devices.names import find_device, no_times
from dmedge.devices.native_runner import COMMAND
from dmedge.devices.protocol import Conversation, Device, WorkDirectory
from dmedge.errors import DmedgeError
from dmedge.manifest import Runtime
from dmedge.runtime.onnx_backend import EXACT
from dmedge.runtime.session import TIMEOUT_S, SessionFacts, check_inputs, find_program, runtime_of
from dmedge.runtime.wire import Array

CHUNK = 512  # items in one job


def open_device_session(
    artifact: Artifact,
    device: str | Device,
    *,
    runtime: str | None = None,
    threads: int = 1,
    timeout_s: float = TIMEOUT_S,
) -> "NativeSession":
    """Load the programs of a bundle on a device, by the native runner of their runtime.

    Args:
        artifact: the bundle.
        device: a name such as "qemu:cortex-a76", or the device.
        runtime: one of those that the bundle has programs for [default: that of its first program].
        threads: threads that one run may use.
        timeout_s: longest wait for one answer of the runner.

    Raises:
        ArtifactError: the artifact holds nothing that runs there.
        ConfigError: there is no such device.
        DmedgeError: something that the device needs is missing, or it cannot load the programs.
    """
    if threads < 1:
        raise DmedgeError(f"threads is {threads}; expected 1 or more")
    place = find_device(device) if isinstance(device, str) else device
    return NativeSession(artifact, place, runtime_of(artifact, runtime), threads=threads, timeout_s=timeout_s)


class NativeSession:
    """The programs of a bundle for one runtime on one device; not to be shared between threads."""

    def __init__(self, artifact: Artifact, device: Device, runtime: Runtime, *, threads: int, timeout_s: float) -> None:
        self.programs = tuple(program for program in artifact.manifest.programs if program.runtime == runtime)
        self.device = device
        self._name, self._threads, self._timeout_s = f"{artifact.root} on {device.name}", threads, timeout_s
        runner = device.runner(runtime)
        self._work = device.open()
        self._jobs = 0
        self._kept: dict[bytes, str] = {}  # digest of a job -> its folder there
        self._load_ms = 0.0
        self._last: Answer | None = None
        self._talk: Conversation | None = None
        self._here = Path(tempfile.mkdtemp(prefix=PREFIX))  # of the jobs; a work directory may link to it
        self._end = weakref.finalize(self, _end, self._here, self._work)
        try:
            for name, file in runner.files.items():
                self._work.push(file, name)
            for name in sorted({program.file for program in self.programs}):
                self._work.push(artifact.file(name), name)
            self._talk = self._work.start((COMMAND,))
            self._end.detach()
            self._end = weakref.finalize(self, _end, self._here, self._work, self._talk)
            for program in self.programs:
                self._load_ms += self._run(program, [], (), f"while loading {program.file}").load_ms or 0.0
        except DmedgeError:
            self.close()
            raise

    def run(self, program: str, inputs: Sequence[Array]) -> list[Array]:
        """See `Session.run`."""
        return self.run_many(program, [inputs])[0]

    def run_many(
        self, program: str, items: Sequence[Sequence[Array]], *, outputs: Sequence[int] | None = None
    ) -> list[list[Array]]:
        """See `Session.run_many`; every item is a run of its own."""
        spec = find_program(self.programs, program)
        check_inputs(spec, items)
        wanted = tuple(range(len(spec.outputs)) if outputs is None else outputs)
        results: list[list[Array]] = []
        for start in range(0, len(items), CHUNK):
            found: list[list[Array]] = []
            self._run(spec, items[start : start + CHUNK], wanted, f"while running {program}", found=found)
            results += found
        return results

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """See `Session.time`.

        Raises:
            DmedgeError: the device is emulated, and has no time of its own.
        """
        if not self.device.can_time:
            raise no_times(self.device.name)
        spec = find_program(self.programs, program)
        check_inputs(spec, [inputs])
        wanted = tuple(range(len(spec.outputs)))
        answer = self._run(spec, [inputs], wanted, f"while timing {program}", runs=runs)
        return np.array(answer.samples_ns[0], np.int64)

    def facts(self) -> SessionFacts:
        """See `Session.facts`; an emulated device tells neither time nor memory."""
        if self._last is None or self._talk is None:
            raise self._closed()
        is_real = self.device.can_time
        return SessionFacts(
            runtime=self._last.runtime,
            version=self._last.version,
            threads=self._last.threads,
            load_ms=self._load_ms if is_real else None,
            base_rss_bytes=self._last.base_rss_bytes if is_real else None,
            peak_rss_bytes=self._last.peak_rss_bytes if is_real else None,
        )

    def close(self) -> None:
        """End the runner and remove its work directory; closing twice is fine."""
        self._end()
        self._talk = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(
        self,
        program: Program,
        items: Sequence[Sequence[Array]],
        outputs: Sequence[int],
        doing: str,
        *,
        runs: int | None = None,
        found: list[list[Array]] | None = None,
    ) -> Answer:
        """Have the runner do one job; the outputs are added to `found`."""
        if self._talk is None:
            raise self._closed()
        job = Job(
            program=program.file,
            method=program.name,
            inputs=tuple(spec.name for spec in program.inputs),
            outputs=tuple((index, program.outputs[index].name) for index in outputs),
            threads=self._threads,
            config=(EXACT,),
            runs=runs,
        )
        there = self._sent(job, items)
        self._last = self._ask(there, doing)
        if found is not None:
            outputs_here = self._here / there / OUTPUTS
            self._work.pull(f"{there}/{OUTPUTS}", outputs_here)
            found += read_outputs(outputs_here, self._last)
        if there not in self._kept.values():
            self._work.remove(there)
            shutil.rmtree(self._here / there)
        return self._last

    def _sent(self, job: Job, items: Sequence[Sequence[Array]]) -> str:
        """The folder there of a job; one that is timed is asked for again and again, so it is sent once and kept."""
        self._jobs += 1
        there = f"jobs/{self._jobs}"
        here = self._here / there
        here.mkdir(parents=True)
        write_job(here, job, items)
        key = b"".join(hashlib.sha256((here / name).read_bytes()).digest() for name in (JOB, INPUTS))
        if key in self._kept:
            shutil.rmtree(here)
            return self._kept[key]
        for name in (JOB, INPUTS):
            self._work.push(here / name, f"{there}/{name}")
        if job.runs is not None:
            self._kept[key] = there
        return there

    def _ask(self, folder: str, doing: str) -> Answer:
        assert self._talk is not None
        try:
            line = self._talk.ask(folder, doing, self._timeout_s)
        except DmedgeError as error:
            self.close()
            raise DmedgeError(f"{self._name}: {error}") from error
        try:
            return read_answer(line)
        except DmedgeError as error:
            self._work.remove(folder)
            self._kept = {key: kept for key, kept in self._kept.items() if kept != folder}
            raise DmedgeError(f"{self._name}: failed {doing}: {error}") from error

    def _closed(self) -> DmedgeError:
        return DmedgeError(f"{self._name}: closed; expected an open session; open it again")


def _end(here: Path, work: WorkDirectory, talk: Conversation | None = None) -> None:
    if talk is not None:
        talk.close()
    work.close()
    shutil.rmtree(here, ignore_errors=True)
