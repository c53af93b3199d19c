"""The content of bench.json and of samples.npz, from what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, download_bytes, program_bytes
from dmedge.evidence.config import CONFIDENCE, BenchConfig
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.latency import Nanoseconds, Paired, case_json, median_interval, paired_ratio, percentiles_ms
from dmedge.evidence.sustained import hottest_case, sustained_json
from dmedge.evidence.timings import Timings
from dmedge.evidence.verdict import Budget, BudgetLine, judge, overall

SCHEMA = 3  # docs/artifacts.md says what each brought
FRONT = {"encode_image": "decode_resize", "encode_text": "tokenise", "encode_text_longest": "tokenise"}
FRONT |= {"classify": "decode_resize"}


def bench_json(timings: Timings, baseline: Artifact, budget: Budget, config: BenchConfig) -> dict[str, Any]:
    """All figures, and the verdict."""
    sides, cases = timings.sides, timings.cases(config.threads)
    lines = judge_latency(cases, budget)
    runtime = timings.runtime["runtime"]
    coverage = measure_coverage(sides["artifact"], runtime)
    return {
        "schema_version": SCHEMA,
        "verdict": overall(lines) if lines else None,
        "budgets": [line.to_json() for line in lines],
        "artifact_sha256": sides["artifact"].digest,
        "baseline_sha256": baseline.digest,
        "fp32_bundle_sha256": sides["fp32"].digest,
        "target": sides["artifact"].manifest.target,
        **measured_json(timings, config),
        "size": {
            side: {"program_bytes": program_bytes(artifact, runtime), "download_bytes": download_bytes(artifact)}
            for side, artifact in sides.items()
        },
        "coverage": coverage.to_json() if coverage else None,
        "profile": timings.profile,
        "roofline": timings.roofline,
        "sustained": sustained_json(hottest_case(cases), config.minutes, timings.windows) if config.minutes else None,
        "host": timings.host,
    }


def measured_json(timings: Timings, config: BenchConfig) -> dict[str, Any]:
    """What was measured of the programs, all of it or as far as it came."""
    more = {threads: timings.cases(threads) for threads in config.more_threads}
    return {
        "programs": {
            case.case.name: case_json(case) | _end_to_end(case, timings.front) for case in timings.cases(config.threads)
        },
        "more_threads": {
            threads: {case.case.name: case_json(case) for case in cases} for threads, cases in more.items()
        },
        "front_end": {name: percentiles_ms(samples) for name, samples in timings.front.items()},
        "start": {side: _start_json(starts) for side, starts in timings.starts.items() if starts},
        "parity": {side: parity.to_json() for side, parity in timings.parity.items()},
        "cooling": timings.gate.to_json() if timings.gate else None,
        "runtime": timings.runtime,
    }


def judge_latency(cases: Sequence[Paired], budget: Budget) -> list[BudgetLine]:
    """One line for the program that gained least, if the budget names a limit.

    One of several programs is slow by chance more often than one alone, so the intervals are widened for their
    number. Where there are too few rounds for an interval, nothing is decided.
    """
    if budget.latency_ratio is None:
        return []
    value = max(paired_ratio(case).value for case in cases)
    confidence = 1 - (1 - CONFIDENCE) / len(cases)
    intervals = [median_interval(case, confidence=confidence) for case in cases]
    known = [interval for interval in intervals if interval is not None]
    low, high = (max((interval[end] for interval in known), default=None) for end in (0, 1))
    return [judge("latency_ratio", budget.latency_ratio, value, low, high if len(known) == len(cases) else None)]


def _end_to_end(case: Paired, front: Mapping[str, Nanoseconds]) -> dict[str, Any]:
    """Front end plus program, sample by sample; nothing where there is no front end, or none was timed."""
    if FRONT.get(case.case.name) not in front:
        return {}
    before = front[FRONT[case.case.name]]
    sides = {"artifact": case.artifact_ns.ravel(), "fp32": case.baseline_ns.ravel()}
    return {"end_to_end": {name: percentiles_ms(np.resize(before, ns.size) + ns) for name, ns in sides.items()}}


def _start_json(starts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over the repeats, and every repeat."""
    programs = starts[0]["first_ms"]
    medians = {key: float(np.median([start[key] for start in starts])) for key in starts[0] if key != "first_ms"}
    first = {program: float(np.median([start["first_ms"][program] for start in starts])) for program in programs}
    return medians | {"first_ms": first, "repeats": list(starts)}


def samples_of(timings: Timings, config: BenchConfig) -> dict[str, Any]:
    """Every sample in ns, int64: [rounds, samples] per case and side, [runs] of the front end."""
    raw: dict[str, Any] = dict(timings.front)
    for threads in timings.turns:
        ending = "ns" if threads == config.threads else f"{threads}_threads_ns"
        for case in timings.cases(threads):
            raw[f"{case.case.name}_artifact_{ending}"] = case.artifact_ns
            raw[f"{case.case.name}_fp32_{ending}"] = case.baseline_ns
    return raw
