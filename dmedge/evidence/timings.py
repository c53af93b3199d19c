"""All measurements of one benchmark: parity first, then turns, then starts and memory.

The full-precision twin, whose export takes long, is asked for when the bundle itself has run and shown parity.
The two processes that have shown parity take turns on the same pictures and texts; new ones repeat that. What an app
does around the programs (decoding, resizing, tokenising) is timed apart, in this process, and not at all
for another machine.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet
from dmedge.devices.browser import BrowserDevice
from dmedge.devices.local import local_facts
from dmedge.devices.protocol import Device
from dmedge.devices.webgpu import no_gpu_times
from dmedge.errors import DmedgeError, VerifyError
from dmedge.evidence.browser import check_in_browser
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.cooling import Gate
from dmedge.evidence.latency import Case, Nanoseconds, Paired, join, measure
from dmedge.evidence.parity import ParityReport, check_parity
from dmedge.evidence.profile import profile_cases
from dmedge.evidence.roofline import measure_roofline
from dmedge.evidence.sustained import Window, hottest_case, run_sustained
from dmedge.evidence.workload import (
    Workload,
    draw_workload,
    image_inputs,
    paired_cases,
    program_inputs,
    text_inputs,
    time_front_end,
)
from dmedge.logs import progress
from dmedge.runtime.anywhere import open_anywhere
from dmedge.runtime.browser_session import BrowserSession
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.session import runtime_of

Facts = Mapping[str, object]


@dataclass(eq=False)
class Timings:
    """What has been measured so far; a side is "artifact" or "fp32"."""

    sides: dict[str, Artifact] = field(default_factory=dict)
    parity: dict[str, ParityReport] = field(default_factory=dict)
    turns: dict[int, list[list[Paired]]] = field(default_factory=dict)  # threads -> repeats -> cases
    starts: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    windows: list[Window] = field(default_factory=list)  # of the sustained run
    front: Mapping[str, Nanoseconds] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    host: dict[str, Facts] = field(default_factory=dict)  # before and after
    gate: Gate | None = None
    profile: Mapping[str, Any] | None = None  # None where it was not asked for, as the roofline
    roofline: Mapping[str, Any] | None = None

    def cases(self, threads: int) -> list[Paired]:
        """Every case with the repeats that it has."""
        by_name: dict[str, list[Paired]] = {}
        for repeat in self.turns.get(threads, []):
            for paired in repeat:
                by_name.setdefault(paired.case.name, []).append(paired)
        return [join(repeats) for repeats in by_name.values()]


class _OpenSide(Protocol):
    def __call__(self, side: str, threads: int = ...) -> Encoder: ...


def take_timings(
    found: Timings,
    bundle: Artifact,
    find_twin: Callable[[], Artifact],
    data: EvalSet,
    config: BenchConfig,
    device: Device | BrowserDevice | None = None,
    find_probe: Callable[[], Artifact] | None = None,
    *,
    baseline: Artifact,
) -> None:
    """Measure `bundle` and its full-precision twin.

    Args:
        found: filled step by step; what was finished before an error stays in it.
        find_twin: finds or exports the bundle of the side "fp32".
        device: where they run, by native runners or in a browser [default: here, by the Python package of their
            runtime].
        find_probe: finds or exports what tells the peaks of the runtime; without it there is no roofline.
        baseline: the checkpoint of the side "fp32".

    Raises:
        DmedgeError: the device is not reached, cannot run the bundle, went away, or is software in place of a GPU.
        VerifyError: a bundle does not compute what it should; wrong answers have no latency.
    """
    facts_of = local_facts if device is None else device.facts
    start = facts_of()  # a device that is not reached is refused before anything is made for it
    gate = found.gate = Gate(start, facts_of, config.cooldown_s, config.cool_c)
    found.sides["artifact"] = bundle
    runtime = runtime_of(bundle, config.runtime)

    def open_side(side: str, threads: int = config.threads) -> Encoder:
        return Encoder(found.sides[side], threads=threads, runtime=runtime, device=device)

    with ExitStack() as stack:
        mine = stack.enter_context(open_side("artifact"))
        found.parity["artifact"] = _parity(bundle, mine)
        _check_times(bundle, mine, found.parity["artifact"])
        found.sides["fp32"] = find_twin()
        theirs = stack.enter_context(open_side("fp32"))
        found.parity["fp32"] = _parity(found.sides["fp32"], theirs)
        workload = draw_workload(data, mine)
        cases = paired_cases(workload, mine, theirs)
        facts = mine.facts()[0]
        found.runtime = {key: facts[key] for key in ("runtime", "version", "threads", "adapter") if key in facts}
        gate.wait("repeat 1")
        found.host["before"] = facts_of()
        found.front = time_front_end(workload, mine) if device is None else {}
        _take_turns(found, cases, mine, theirs, config, config.threads)
    _repeat_turns(found, cases, open_side, config, gate)
    gate.wait("loading")
    _time_starts(found, open_side, workload, config.repeats)
    paired = found.cases(config.threads)
    found.profile = profile_cases(bundle, paired, runtime, config.threads) if config.profile else None
    if find_probe is not None:
        loaded = open_anywhere(find_probe(), runtime, device, config.threads)
        found.roofline = measure_roofline(loaded, found.sides, open_side, workload, baseline, here=device is None)
    if config.minutes is not None:
        gate.wait("the sustained run")
        with open_side("artifact") as encoder:
            for window in run_sustained(encoder.session, hottest_case(paired), config.minutes, facts_of):
                found.windows.append(window)
    found.host["after"] = facts_of()


def _take_turns(
    found: Timings, cases: Sequence[Case], mine: Encoder, theirs: Encoder, config: BenchConfig, threads: int
) -> None:
    """One repeat; every other one goes through the cases from the last to the first."""
    repeats = found.turns.setdefault(threads, [])
    runs = {paired.case.name: paired.runs for paired in repeats[0]} if repeats else {}
    order = cases[::-1] if len(repeats) % 2 else cases
    repeats.append([])
    with progress(f"timing programs, {len(repeats)} of {config.repeats}", len(cases)) as advance:
        for case in order:
            counted = runs.get(case.name)
            repeats[-1].append(measure(mine.session, theirs.session, case, rounds=config.rounds, runs=counted))
            advance(1, case.name)


def _repeat_turns(found: Timings, cases: Sequence[Case], open_side: _OpenSide, config: BenchConfig, gate: Gate) -> None:
    """All repeats but the first, each in new processes."""
    counts = (config.threads, *config.more_threads)
    plan = [(threads, repeat) for threads in counts for repeat in range(config.repeats)]
    for threads, repeat in plan[1:]:
        gate.wait(f"repeat {repeat + 1}" if threads == config.threads else f"{threads} threads, repeat {repeat + 1}")
        with open_side("artifact", threads) as mine, open_side("fp32", threads) as theirs:
            _take_turns(found, cases, mine, theirs, config, threads)


def _parity(artifact: Artifact, encoder: Encoder) -> ParityReport:
    session = encoder.session
    if isinstance(session, BrowserSession):  # whose loader makes pixels and token ids too
        parity = check_in_browser(session, artifact)
    else:
        parity = check_parity(session, artifact)
    if parity.error_ratio > 1:
        raise VerifyError(
            f"{artifact.root}: its outputs are {parity.error_ratio:.3g} times the tolerance away from the golden "
            "ones; expected 1 at most; wrong answers have no latency: run dmedge verify, then export again"
        )
    return parity


def _check_times(artifact: Artifact, encoder: Encoder, parity: ParityReport) -> None:
    """Where software emulates a GPU, end with what can be told there: that the outputs agree."""
    session = encoder.session
    if isinstance(session, BrowserSession) and session.software is not None:
        raise DmedgeError(
            f"{artifact.root}: its outputs agree, at {parity.error_ratio:.2g} of the tolerance at most, and nothing "
            f"was timed: {no_gpu_times(session.software)}"
        )


def _time_starts(found: Timings, open_side: _OpenSide, workload: Workload, repeats: int) -> None:
    """Load, first run and memory of every side, in a new process each time, the sides in changing order."""
    found.starts = {side: [] for side in found.sides}
    for repeat in range(repeats):
        for side in sorted(found.sides, reverse=bool(repeat % 2)):
            with open_side(side) as encoder:
                found.starts[side].append(_start(encoder, workload))


def _start(encoder: Encoder, workload: Workload) -> dict[str, Any]:
    """One start; the memory is read after the whole workload, and nothing else is timed in that process."""
    pixels, texts = image_inputs(workload, encoder)[:1], text_inputs(workload, encoder)[:1]
    takes = {"encode_image": pixels, "encode_text": texts, "classify": pixels}
    takes["fuse_pair"] = [[*picture, *text] for picture, text in zip(pixels, texts, strict=False)]
    first = {name: inputs[0] for name, inputs in takes.items() if name in encoder.program_names}
    first_ms = {program: encoder.session.time(program, inputs, 1)[0] / 1e6 for program, inputs in first.items()}
    for program, inputs in program_inputs(workload, encoder).values():
        encoder.session.run_many(program, inputs, outputs=(0,))
    facts = encoder.facts()[0]
    return {
        "load_ms": facts["load_ms"],
        "first_ms": {program: float(ms) for program, ms in first_ms.items()},
        "base_rss_bytes": facts["base_rss_bytes"],
        "peak_rss_bytes": facts["peak_rss_bytes"],
    }
