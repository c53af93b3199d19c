"""One way to run an artifact's programs, whatever runtime carries them."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, NotRequired, Protocol, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from dmedge.artifact import Artifact, Program, TensorSpec
from dmedge.config import near_match
from dmedge.errors import ArtifactError, DataError, DmedgeError
from dmedge.manifest import Runtime
from dmedge.runtime.wire import Array

TIMEOUT_S = 600.0


class SessionFacts(TypedDict):
    """What a measurement says of the session it was taken in; None is what an emulated device must not tell."""

    runtime: str
    version: str  # of the runtime's package
    threads: int
    load_ms: float | None  # reading all programs, with the file in the page cache or not
    base_rss_bytes: int | None  # resident memory with the runtime imported, before any program was read
    peak_rss_bytes: int | None  # largest resident memory of the process that runs the programs, until now
    adapter: NotRequired[Mapping[str, Any]]  # what WebGPU computes on, where it computes


class Session(Protocol):
    """Loaded programs: "encode_image", "encode_text" and, where the model fuses, "fuse"; or those of a variant."""

    @property
    def programs(self) -> tuple[Program, ...]:
        """What can be run, with the inputs and outputs of each."""

    def run(self, program: str, inputs: Sequence[Array]) -> list[Array]:
        """Run one program once; uint8 pixels may be fed to one that takes them as float32.

        Raises:
            DataError: the inputs do not fit the program.
            DmedgeError: there is no such program, or the runtime failed or died.
        """

    def run_many(
        self, program: str, items: Sequence[Sequence[Array]], *, outputs: Sequence[int] | None = None
    ) -> list[list[Array]]:
        """Run one program for each item; an item's result never depends on its neighbours.

        Args:
            items: inputs of each run; shapes may differ between items.
            outputs: indices of the outputs to return [default: all]; leaving out large ones saves their copies.

        Raises:
            DataError: the inputs do not fit the program.
            DmedgeError: there is no such program, or the runtime failed or died.
        """

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> NDArray[np.int64]:
        """Nanoseconds that each of `runs` executions took, on inputs already in place; nothing is warmed up before."""

    def facts(self) -> SessionFacts:
        """The runtime, and what it has used so far."""

    def close(self) -> None:
        """Release the programs; closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_session(
    artifact: Artifact, *, runtime: str | None = None, threads: int = 1, timeout_s: float = TIMEOUT_S
) -> Session:
    """Load the programs of a checkpoint (in this process, by torch) or of a bundle (in a worker process).

    Args:
        runtime: one of those that a bundle has programs for [default: that of its first program].
        threads: threads that one run may use.
        timeout_s: longest wait for one answer of a worker (a run, or a chunk of many).

    Raises:
        ArtifactError: the artifact holds nothing to run, or nothing for `runtime`.
        DmedgeError: the runtime is not installed, or cannot load the programs.
    """
    if threads < 1:
        raise DmedgeError(f"threads is {threads}; expected 1 or more")
    found = runtime_of(artifact, runtime)
    if found == "torch":
        from dmedge.runtime.torch_session import TorchSession

        return TorchSession(artifact, threads=threads)
    from dmedge.runtime.worker_session import WorkerSession

    return WorkerSession(artifact, found, threads=threads, timeout_s=timeout_s)


def runtime_of(artifact: Artifact, wanted: str | None = None) -> Runtime:
    """The runtime that carries the programs of a checkpoint or a bundle: `wanted`, or that of the first program.

    Raises:
        ArtifactError: the artifact holds nothing to run, or nothing for the runtime that is wanted.
    """
    programs = artifact.manifest.programs
    runtimes: list[Runtime] = ["torch"] if artifact.manifest.kind == "checkpoint" else [p.runtime for p in programs]
    if not runtimes:
        raise ArtifactError(
            f"{artifact.root}: {artifact.manifest.kind} without programs; "
            "expected a checkpoint, or a bundle for executorch, onnxruntime or coreml; run dmedge export"
        )
    for runtime in runtimes:
        if wanted in (None, runtime):
            return runtime
    known = list(dict.fromkeys(runtimes))
    raise ArtifactError(f"{artifact.root}: has no programs for {wanted!r}{near_match(str(wanted), known)}")


def find_program(programs: Iterable[Program], name: str) -> Program:
    """The program called `name`.

    Raises:
        DmedgeError: there is none.
    """
    table = {program.name: program for program in programs}
    if name not in table:
        raise DmedgeError(f"no program {name!r} in this artifact{near_match(name, sorted(table))}")
    return table[name]


def check_inputs(program: Program, items: Iterable[Sequence[Array]]) -> None:
    """Compare the inputs of some runs with what `program` takes; within a run, dimensions of one name must agree.

    Raises:
        DataError: their number, a dtype or a shape differs.
    """
    fitting = set()
    for inputs in items:
        signature = tuple((array.dtype, array.shape) for array in inputs)
        if signature not in fitting:
            _check_run(program, inputs)
            fitting.add(signature)


def widened(program: Program, inputs: Sequence[Array]) -> list[Array]:
    """Inputs in the types that `program` takes: uint8 pixels become float32 where a runtime has no uint8."""
    types = [spec.dtype for spec in program.inputs] if len(inputs) == len(program.inputs) else []
    return [
        array.astype(np.float32) if (array.dtype.name, wanted) == ("uint8", "float32") else array
        for array, wanted in zip_longest(inputs, types)
    ]


def _check_run(program: Program, inputs: Sequence[Array]) -> None:
    if len(inputs) != len(program.inputs):
        names = [spec.name for spec in program.inputs]
        raise DataError(f"{program.name}: {len(inputs)} inputs; expected {len(names)}: {', '.join(names)}")
    sizes: dict[str, int] = {}
    for spec, array in zip(program.inputs, inputs, strict=True):
        if array.dtype.name != spec.dtype or not fits(array.shape, spec, sizes):
            raise DataError(
                f"{program.name}: input {spec.name!r} is {array.dtype.name}{list(array.shape)}; "
                f"expected {spec.dtype}[{', '.join(map(str, spec.shape))}]; convert it before the call"
            )


def fits(shape: tuple[int, ...], spec: TensorSpec, sizes: dict[str, int]) -> bool:
    """Whether a shape is that of `spec`; a dimension that has a name gets its size in `sizes`, or has it from there."""
    if len(shape) != len(spec.shape):
        return False
    return all(
        found == (expected if isinstance(expected, int) else sizes.setdefault(expected, found))
        for found, expected in zip(shape, spec.shape, strict=True)
    )


def resident_bytes(process: int | None = None) -> int:
    """Resident memory of a process [default: this one] now, 0 where the system does not tell."""
    return _status_bytes("VmRSS", process)


def peak_resident_bytes(process: int | None = None) -> int:
    """Largest resident memory of a process [default: this one] until now.

    Linux counts it in /proc; its `ru_maxrss` survives exec, so a worker would report its parent's peak.
    """
    peak = _status_bytes("VmHWM", process)
    if peak or process is not None:
        return peak
    import resource  # unknown to Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status_bytes(key: str, process: int | None) -> int:
    path = Path(f"/proc/{process or 'self'}/status")
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024  # always given in kB
    return 0
