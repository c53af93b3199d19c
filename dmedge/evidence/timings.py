"""All measurements of one benchmark: parity first, then turns, then starts and memory.

The full-precision twin, whose export takes long, is asked for when the bundle itself has run and shown parity.
The two processes that have shown parity take turns on the same pictures and texts. What an app does around
the programs (decoding, resizing, tokenising) is timed apart, in this process, and not at all
for another machine.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from dmedge.artifact import Artifact
from dmedge.data.evalset import EvalSet
from dmedge.devices.browser import BrowserDevice
from dmedge.devices.local import local_facts
from dmedge.devices.protocol import Device
from dmedge.devices.webgpu import no_gpu_times
from dmedge.errors import DmedgeError, VerifyError
from dmedge.evidence.browser import check_in_browser
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.latency import Nanoseconds, Paired, measure
from dmedge.evidence.parity import ParityReport, check_parity
from dmedge.evidence.profile import profile_cases
from dmedge.evidence.roofline import measure_roofline
from dmedge.evidence.sustained import measure_sustained
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


@dataclass(frozen=True, eq=False)
class Timings:
    """Everything that was measured; a side is "artifact" or "fp32"."""

    sides: Mapping[str, Artifact]
    parity: Mapping[str, ParityReport]
    starts: Mapping[str, Sequence[Mapping[str, Any]]]
    cases: Sequence[Paired]
    front: Mapping[str, Nanoseconds]
    runtime: Mapping[str, Any]
    host: Mapping[str, Any]
    profile: Mapping[str, Any] | None = None  # None where it was not asked for, as with what follows
    roofline: Mapping[str, Any] | None = None
    sustained: Mapping[str, Any] | None = None


def take_timings(
    bundle: Artifact,
    find_twin: Callable[[], Artifact],
    data: EvalSet,
    config: BenchConfig,
    device: Device | BrowserDevice | None = None,
    find_probe: Callable[[], Artifact] | None = None,
    *,
    baseline: Artifact,
) -> Timings:
    """Measure `bundle` and its full-precision twin.

    Args:
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
    facts_of()  # a device that is not reached is refused before anything is made for it
    sides = {"artifact": bundle}
    runtime = runtime_of(bundle, config.runtime)

    def open_side(side: str) -> Encoder:
        return Encoder(sides[side], threads=config.threads, runtime=runtime, device=device)

    parity: dict[str, ParityReport] = {}
    with ExitStack() as stack:
        mine = stack.enter_context(open_side("artifact"))
        parity["artifact"] = _parity(bundle, mine)
        _check_times(bundle, mine, parity["artifact"])
        sides["fp32"] = find_twin()
        before = facts_of()
        workload = draw_workload(data, mine)
        front = time_front_end(workload, mine) if device is None else {}
        theirs = stack.enter_context(open_side("fp32"))
        parity["fp32"] = _parity(sides["fp32"], theirs)
        cases = _take_turns(mine, theirs, workload, config.rounds)
        facts = mine.facts()[0]
    starts = _time_starts(open_side, list(sides), workload, config.repeats)
    profile = profile_cases(bundle, cases, runtime, config.threads) if config.profile else None
    roofline = None
    if find_probe is not None:
        loaded = open_anywhere(find_probe(), runtime, device, config.threads)
        roofline = measure_roofline(loaded, sides, open_side, workload, baseline, here=device is None)
    version: dict[str, Any] = {key: facts[key] for key in ("runtime", "version", "threads", "adapter") if key in facts}
    sustained = None
    if config.minutes is not None:
        with open_side("artifact") as encoder:
            sustained = measure_sustained(encoder.session, cases, config.minutes, facts_of)
    host = {"before": before, "after": facts_of()}
    return Timings(sides, parity, starts, cases, front, version, host, profile, roofline, sustained)


def _take_turns(mine: Encoder, theirs: Encoder, workload: Workload, rounds: int) -> list[Paired]:
    cases = paired_cases(workload, mine, theirs)
    found = []
    with progress("timing programs", len(cases)) as advance:
        for case in cases:
            found.append(measure(mine.session, theirs.session, case, rounds=rounds))
            advance(1, case.name)
    return found


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


def _time_starts(
    open_side: Callable[[str], Encoder], sides: Sequence[str], workload: Workload, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Load, first run and memory of every side, in a new process each time, the sides in changing order."""
    starts: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for repeat in range(repeats):
        for side in sorted(sides, reverse=bool(repeat % 2)):
            with open_side(side) as encoder:
                starts[side].append(_start(encoder, workload))
    return starts


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
