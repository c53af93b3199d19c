"""How near every program comes to what the runtime can reach on the same machine, measured in the same run.

Source: the roofline model, Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, Program, load_artifact
from dmedge.evidence.coverage import parent_checkpoint
from dmedge.evidence.latency import percentiles_ms, warm_up
from dmedge.evidence.workload import Workload, program_inputs
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.session import Session
from dmedge.runtime.wire import Array

PEAKS = {"product_float32": "float32", "product_int8": "int8"}  # program of the probe -> the peak that it measures
PEAK_RUNS = 20
COPY_BYTES = 1 << 27  # far more than a cache holds
COPY_RUNS = 8
RUNS_S = 0.3  # aimed at, for each program
RUNS = (20, 500)  # at least and at most


@dataclass(frozen=True, slots=True)
class Peaks:
    """The best of several runs: a ceiling is what was reached at all."""

    float32_macs_per_s: float
    int8_macs_per_s: float
    bytes_per_s: float | None  # read and written by a copy; None for another machine
    size: int  # rows and columns of the products

    def of(self, macs: int, macs_int8: int) -> float:
        """The peak of a program that does some of its work in int8, in multiply-accumulates per second."""
        seconds = (macs - macs_int8) / self.float32_macs_per_s + macs_int8 / self.int8_macs_per_s
        return macs / seconds


def measure_peaks(probe: Session, threads: int, *, is_here: bool) -> Peaks:
    """Run both products of the probe, and copy memory if they run on this machine."""
    found = {}
    for program in probe.programs:
        rows, inner = (int(size) for size in program.inputs[0].shape)
        x = np.random.default_rng(0).integers(0, 100, (rows, inner)).astype(program.inputs[0].dtype)
        best_ns = probe.time(program.name, [x], PEAK_RUNS).min()
        found[PEAKS[program.name]] = rows * inner * int(program.outputs[0].shape[1]) / (best_ns / 1e9)
    copied = copy_bytes_per_s(threads) if is_here else None
    return Peaks(found["float32"], found["int8"], copied, inner)


def copy_bytes_per_s(threads: int) -> float:
    """Bytes that a copy of a large array reads and writes in a second, each thread a part of it."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.zeros(COPY_BYTES, np.uint8)
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(COPY_RUNS):
            start = time.perf_counter()
            list(pool.map(lambda part: np.copyto(part[1], part[0]), parts))
            seconds.append(time.perf_counter() - start)
    return 2 * COPY_BYTES / min(seconds)


def counted_inputs(program: Program, inputs: Sequence[Array], length: int) -> list[Array]:
    """Inputs whose texts have the `length` that work was counted for: the first tokens, over and over."""
    found = []
    for spec, array in zip(program.inputs, inputs, strict=True):
        for axis in [axis for axis, size in enumerate(spec.shape) if size == "length"]:
            array = array.take(np.arange(length) % array.shape[axis], axis)
        found.append(np.ascontiguousarray(array))
    return found


def place_program(
    session: Session, bundle: Artifact, program: Program, inputs: Sequence[Array], checkpoint: Artifact | None
) -> dict[str, Any]:
    """Work of one program, and its time on inputs of the length that it was counted for.

    Multiply-accumulates are what export counted in the lowered program, parameters those of the model that it runs;
    bytes are those of `dmedge.model.traffic`, and None where the checkpoint of the bundle is not found, or lacks the
    program.
    """
    from dmedge.model.costs import TEXT_LENGTH  # torch, which a bundle runs without

    work = counted_work(bundle, program)
    has_text = any("length" in spec.shape for spec in program.inputs)
    length = min(TEXT_LENGTH, int(str(bundle.manifest.summary["context_length"]))) if has_text else 0
    inputs = counted_inputs(program, inputs, length)
    median_ns, _ = warm_up(session, program.name, inputs)
    samples = session.time(program.name, inputs, int(np.clip(RUNS_S * 1e9 / median_ns, *RUNS)))
    return {"tokens": length or None, **work, **_traffic(checkpoint, program, length), **percentiles_ms(samples)}


def counted_work(bundle: Artifact, program: Program) -> dict[str, int]:
    """What export counted of a program; nothing in a bundle of a version that did not."""
    towers: Any = bundle.manifest.summary.get("towers", {})
    for tower in towers.values():
        if tower["program"] == program.name and program.runtime in tower["coverage"]:
            counted = {key: tower["coverage"][program.runtime][key] for key in ("macs", "macs_int8")}
            return counted | {"parameters": sum(tower["precision"].values())}
    return {}


def exported_from(bundle: Artifact, baseline: Artifact) -> Artifact | None:
    """The checkpoint of a bundle: `baseline` if that is it, else one that stands near; None if there is none."""
    if baseline.digest in bundle.manifest.parents.values():
        return baseline
    parent = parent_checkpoint(bundle)
    return None if parent is None or parent.root is None else load_artifact(parent.root, kind="checkpoint")


def _traffic(checkpoint: Artifact | None, program: Program, length: int) -> dict[str, int | None]:
    from dmedge.model.checkpoint import checkpoint_programs, load_checkpoint
    from dmedge.model.costs import blank_inputs
    from dmedge.model.traffic import count_traffic

    if checkpoint is None or program.name == "classify":  # whose labels no checkpoint holds
        return {"weight_bytes": None, "activation_bytes": None}
    model = load_checkpoint(checkpoint).model.eval()
    known = {spec.name: spec for one in checkpoint_programs(model.config) for spec in one.inputs}
    takes = [known[spec.name] for spec in program.inputs]
    found = count_traffic(model, program.name, blank_inputs(Program("", "", "torch", tuple(takes), ()), length=length))
    return {"weight_bytes": found.weight_bytes, "activation_bytes": found.activation_bytes}


def roofline_row(measured: Mapping[str, Any], peaks: Peaks) -> dict[str, Any]:
    """A program beside the peaks: shares, and the roof above it; None for what was not counted or not measured."""
    row: dict[str, Any] = {
        key: measured.get(key) for key in ("macs", "macs_int8", "parameters", "weight_bytes", "activation_bytes")
    }
    row |= {key: measured[key] for key in measured if key not in row}
    rates = ("macs_per_byte", "macs_per_s", "of_float32_peak", "of_int8_peak", "of_roof", "roof_macs_per_s", "bound")
    row |= dict.fromkeys(rates)
    if not row["macs"] or "p50_ms" not in row:
        return row
    rate, roof = row["macs"] / (row["p50_ms"] / 1e3), peaks.of(row["macs"], row["macs_int8"])
    row |= {"macs_per_s": rate, "of_float32_peak": rate / peaks.float32_macs_per_s}
    row |= {"of_int8_peak": rate / peaks.int8_macs_per_s, "bound": "compute"}
    if row["weight_bytes"] is not None:
        row["macs_per_byte"] = row["macs"] / (row["weight_bytes"] + row["activation_bytes"])
        if peaks.bytes_per_s is not None and row["macs_per_byte"] * peaks.bytes_per_s < roof:
            roof, row["bound"] = row["macs_per_byte"] * peaks.bytes_per_s, "memory"
    return row | {"roof_macs_per_s": roof, "of_roof": rate / roof}


def measure_roofline(
    probe: Session,
    sides: Mapping[str, Artifact],
    open_side: Callable[[str], Encoder],
    workload: Workload,
    baseline: Artifact,
    *,
    here: bool,
) -> dict[str, Any]:
    """What bench.json says of peaks and of every program of both sides; one process is open at a time.

    Args:
        probe: closed when its peaks are known.
        sides: name -> bundle.
        open_side: loads one of them as it was timed.
        baseline: that one of them was exported from.
        here: whether they run on this machine.
    """
    with probe:
        peaks = measure_peaks(probe, probe.facts()["threads"], is_here=here)
    rows: dict[str, dict[str, Any]] = {}
    for side, bundle in sides.items():
        checkpoint = exported_from(bundle, baseline)
        with open_side(side) as encoder:
            session = encoder.session
            given = {
                program: inputs[0] for program, inputs in reversed(list(program_inputs(workload, encoder).values()))
            }
            rows[side] = {
                program.name: roofline_row(
                    place_program(session, bundle, program, given[program.name], checkpoint), peaks
                )
                for program in session.programs
            }
    return {"peaks": asdict(peaks), "programs": rows}
