"""What a native runner is asked, and what it answers; docs/devices.md describes the files.

A job is a folder: `job.txt` says what to run, `inputs.bin` holds the tensors. The runner adds
`outputs.bin` and answers with one line of JSON.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.errors import DmedgeError

FORMAT = "dmedge-job 1"
JOB, INPUTS, OUTPUTS = "job.txt", "inputs.bin", "outputs.bin"
ALIGNMENT = 64  # of every tensor in inputs.bin

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Some cases for one program."""

    program: str  # file, relative to the work directory
    method: str  # its entry point, for runtimes that have several in a file
    inputs: tuple[str, ...]  # their names
    outputs: tuple[tuple[int, str], ...] = ()  # wanted: place among all outputs of the program, and name
    threads: int = 1
    config: tuple[tuple[str, str], ...] = ()  # session options of onnxruntime
    runs: int | None = None  # timed executions of each case; None runs each once
    warmup: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the runner found."""

    runtime: str
    version: str
    threads: int
    base_rss_bytes: int  # before any program was loaded
    peak_rss_bytes: int  # until now
    samples_ns: tuple[tuple[int, ...], ...]  # of every case
    outputs: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]  # of every case: dtype and shape of each output
    load_ms: float | None = None  # None: the program was loaded before


def write_job(folder: Path, job: Job, cases: Sequence[Sequence[Array]]) -> None:
    """Write `job.txt` and `inputs.bin` into `folder`."""
    lines = [FORMAT, f"program {job.program}", f"method {job.method}", f"threads {job.threads}"]
    lines += [f"config {key} {value}" for key, value in job.config]
    lines.append("run" if job.runs is None else f"time {job.warmup} {job.runs}")
    lines += [f"input {name}" for name in job.inputs]
    lines += [f"output {index} {name}" for index, name in job.outputs]
    with (folder / INPUTS).open("wb") as stream:
        for arrays in cases:
            lines.append("case")
            for array in arrays:
                lines.append(" ".join(["tensor", array.dtype.name, *map(str, array.shape)]))
                content = np.ascontiguousarray(array).tobytes()
                stream.write(content + bytes(-len(content) % ALIGNMENT))
    (folder / JOB).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_answer(line: str) -> Answer:
    """The line that a runner answered with.

    Raises:
        DmedgeError: the runner refused the job or failed, or the line is no answer.
    """
    try:
        table: dict[str, Any] = json.loads(line)
        if "error" in table:
            raise DmedgeError(f"{table['error']}; expected a program and inputs that fit; run dmedge export")
        table["samples_ns"] = tuple(tuple(samples) for samples in table["samples_ns"])
        table["outputs"] = tuple(
            tuple((output["dtype"], tuple(output["shape"])) for output in case) for case in table["outputs"]
        )
        return Answer(**table)
    except (ValueError, KeyError, TypeError) as error:
        raise DmedgeError(f"the runner answered {line[:80]!r} ({error!r}); expected one line of JSON") from error


def read_outputs(path: Path, answer: Answer) -> list[list[Array]]:
    """The arrays of `outputs.bin`, case by case.

    Raises:
        DmedgeError: the file has another size than the answer says.
    """
    content = path.read_bytes()
    announced = sum(prod(shape) * np.dtype(dtype).itemsize for case in answer.outputs for dtype, shape in case)
    if announced != len(content):
        raise DmedgeError(f"{path.name}: {len(content)} bytes; the runner announced {announced}; run it again")
    start, cases = 0, []
    for outputs in answer.outputs:
        arrays: list[Array] = []
        for dtype, shape in outputs:
            end = start + prod(shape) * np.dtype(dtype).itemsize
            arrays.append(np.frombuffer(bytearray(content[start:end]), dtype).reshape(shape))
            start = end
        cases.append(arrays)
    return cases
