"""Latency of two sessions side by side, measured so that noise hits both alike.

Rules: warm up until stable, not for a fixed count; take turns A B B A, so that drift cancels;
compare the two within a round and bootstrap the rounds, because runs of one round share their
luck; drop no outlier; give a percentile only where ten samples lie beyond it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.evidence.config import CONFIDENCE, RESAMPLES, ROUNDS
from dmedge.runtime.session import Session
from dmedge.runtime.wire import Array

Nanoseconds = NDArray[np.int64]

TURN_MS = 5.0  # aimed at; a turn is one run at least
MAX_RUNS = 50  # in one turn
STABLE = 0.05  # relative change of the median from one warm-up block to the next
DRIFT = 1.1  # median of the last quarter over that of the first, from which a run counts as throttled
_BLOCK_RUNS = 10
_BLOCKS = 30
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, eq=False)
class Case:
    """One program on real inputs, given to each side in its own form (vocabularies and widths may differ)."""

    name: str
    program: str
    artifact_inputs: Sequence[Sequence[Array]]  # one entry per sample; rounds go through them in turn
    baseline_inputs: Sequence[Sequence[Array]]


@dataclass(frozen=True, eq=False)
class Paired:
    """Raw samples of one case."""

    case: Case
    artifact_ns: Nanoseconds  # [rounds, samples]
    baseline_ns: Nanoseconds  # [rounds, samples]
    is_warm: bool  # both sides had become stable before the first round


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over rounds of artifact over baseline, with its interval."""

    value: float
    low: float
    high: float
    rounds: int


def measure(artifact: Session, baseline: Session, case: Case, *, rounds: int = ROUNDS) -> Paired:
    """Time one case on both sides, A B B A in every round.

    The first run of every turn follows the other process and pays for its cold caches, which no
    device does; it is not counted.
    """
    median_a, is_warm_a = warm_up(artifact, case.program, case.artifact_inputs[0])
    median_b, is_warm_b = warm_up(baseline, case.program, case.baseline_inputs[0])
    runs = int(np.clip(TURN_MS * 1e6 / max(median_a, median_b), 1, MAX_RUNS))

    def turn(session: Session, inputs: Sequence[Sequence[Array]], index: int) -> Nanoseconds:
        return session.time(case.program, inputs[index % len(inputs)], runs + 1)[1:]

    rows_a, rows_b = [], []
    for index in range(rounds):
        first_a = turn(artifact, case.artifact_inputs, index)
        both_b = [turn(baseline, case.baseline_inputs, index) for _ in range(2)]
        rows_a.append(np.concatenate([first_a, turn(artifact, case.artifact_inputs, index)]))
        rows_b.append(np.concatenate(both_b))
    return Paired(case, np.stack(rows_a), np.stack(rows_b), is_warm_a and is_warm_b)


def warm_up(session: Session, program: str, inputs: Sequence[Array]) -> tuple[float, bool]:
    """Run until the median of a block no longer changes.

    Returns:
        Median of the last block in ns; False if it still changed when patience ended.
    """
    last = float("inf")
    for _ in range(_BLOCKS):
        median = float(np.median(session.time(program, inputs, _BLOCK_RUNS)))
        if abs(median - last) <= STABLE * median:
            return median, True
        last = median
    return last, False


def percentiles_ms(samples: Nanoseconds) -> dict[str, float]:
    """Those of p50, p90 and p99 that at least ten samples lie beyond, and n, in ms."""
    n = samples.size
    wanted = [p for p in _PERCENTILES if n * (100 - p) >= 1000]
    return {"n": n} | {f"p{p}_ms": float(np.percentile(samples, p)) / 1e6 for p in wanted}


def paired_ratio(paired: Paired, *, seed: int = 0) -> Ratio:
    """Median over rounds of the ratio of the medians within a round; the interval resamples rounds."""
    ratios = round_ratios(paired)
    draws = np.random.default_rng(seed).integers(0, len(ratios), size=(RESAMPLES, len(ratios)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(ratios[draws], axis=1), [tail, 1 - tail])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


def median_interval(paired: Paired, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Ends of the exact interval of the median ratio, from the order of the rounds; None where they are too few.

    As many rounds lie below the median as heads fall: of fewer than six, all lie on one side of it too often
    for 95 %. So it asks nothing of the noise but that rounds are independent.

    Source: the sign test, Conover 1999, Practical Nonparametric Statistics, section 3.2.
    """
    ratios = np.sort(round_ratios(paired))
    n, tail, outside = len(ratios), 0.0, 0
    while outside < n // 2 and (tail := tail + math.comb(n, outside) / 2**n) <= (1 - confidence) / 2:
        outside += 1
    return (float(ratios[outside - 1]), float(ratios[n - outside])) if outside else None


def round_ratios(paired: Paired) -> NDArray[np.float64]:
    """[rounds] median of the artifact over that of the baseline."""
    ratios: NDArray[np.float64] = np.median(paired.artifact_ns, axis=1) / np.median(paired.baseline_ns, axis=1)
    return ratios


def has_drifted(samples: Nanoseconds) -> bool:
    """Whether the last quarter of [rounds, samples] was slower than the first by `DRIFT`: heat, or a busy host."""
    quarter = max(1, len(samples) // 4)
    return bool(np.median(samples[-quarter:]) > DRIFT * np.median(samples[:quarter]))


def case_json(paired: Paired) -> dict[str, Any]:
    """Figures of one case; raw samples are kept elsewhere."""
    ratio = paired_ratio(paired)
    return {
        "program": paired.case.program,
        "artifact": percentiles_ms(paired.artifact_ns),
        "fp32": percentiles_ms(paired.baseline_ns),
        "ratio": {"value": ratio.value, "low": ratio.low, "high": ratio.high, "rounds": ratio.rounds},
        "warmed_up": paired.is_warm,
        "drifted": has_drifted(paired.artifact_ns) or has_drifted(paired.baseline_ns),
    }
