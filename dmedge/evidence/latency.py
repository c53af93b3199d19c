"""Latency of two sessions side by side, measured so that noise hits both alike.

Rules: warm up until stable, not for a fixed count; take turns A B B A, so that drift cancels;
compare the two within a round and bootstrap the rounds, because runs of one round share their
luck; repeat all of it in new processes, because rounds of one process share theirs; drop no outlier;
give a percentile only where ten samples lie beyond it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
    is_warm: bool  # both sides had become stable before the first round of every repeat
    repeats: int = 1  # of equally many rounds, one after the other, each in processes of its own

    @property
    def runs(self) -> int:
        """Counted in one turn; a round has two turns of each side."""
        return int(self.artifact_ns.shape[1]) // 2


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median over rounds of artifact over baseline, with its interval."""

    value: float
    low: float
    high: float
    rounds: int
    repeats: tuple[float, ...]  # median of each


def measure(
    artifact: Session, baseline: Session, case: Case, *, rounds: int = ROUNDS, runs: int | None = None
) -> Paired:
    """Time one case on both sides, A B B A in every round.

    The first run of every turn follows the other process and pays for its cold caches, which no
    device does; it is not counted.

    Args:
        runs: counted in one turn [default: as many as last `TURN_MS`].
    """
    median_a, is_warm_a = warm_up(artifact, case.program, case.artifact_inputs[0])
    median_b, is_warm_b = warm_up(baseline, case.program, case.baseline_inputs[0])
    runs = runs or int(np.clip(TURN_MS * 1e6 / max(median_a, median_b), 1, MAX_RUNS))

    def turn(session: Session, inputs: Sequence[Sequence[Array]], index: int) -> Nanoseconds:
        return session.time(case.program, inputs[index % len(inputs)], runs + 1)[1:]

    rows_a, rows_b = [], []
    for index in range(rounds):
        first_a = turn(artifact, case.artifact_inputs, index)
        both_b = [turn(baseline, case.baseline_inputs, index) for _ in range(2)]
        rows_a.append(np.concatenate([first_a, turn(artifact, case.artifact_inputs, index)]))
        rows_b.append(np.concatenate(both_b))
    return Paired(case, np.stack(rows_a), np.stack(rows_b), is_warm_a and is_warm_b)


def join(repeats: Sequence[Paired]) -> Paired:
    """Repeats of one case, of equally many rounds and runs, as one."""
    artifact_ns = np.concatenate([part.artifact_ns for part in repeats])
    baseline_ns = np.concatenate([part.baseline_ns for part in repeats])
    return Paired(
        repeats[0].case, artifact_ns, baseline_ns, all(part.is_warm for part in repeats), repeats=len(repeats)
    )


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
    """Median over rounds of the ratio of the medians within a round; the interval resamples rounds.

    It reaches to the median of every repeat: processes that differ by their luck say more of what is not known
    than the rounds of any one of them.
    """
    ratios, repeats = round_ratios(paired), repeat_ratios(paired)
    draws = np.random.default_rng(seed).integers(0, len(ratios), size=(RESAMPLES, len(ratios)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.median(ratios[draws], axis=1), [tail, 1 - tail])
    ends = min(float(low), *repeats), max(float(high), *repeats)
    return Ratio(float(np.median(ratios)), *ends, len(ratios), repeats)


def median_interval(paired: Paired, *, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """Ends of the exact interval of the median ratio, from the order of the rounds; None where they are too few.

    As many rounds lie below the median as heads fall: of fewer than six, all lie on one side of it too often
    for 95 %. So it asks nothing of the noise but that rounds are independent. As that of `paired_ratio`, it reaches
    to the median of every repeat.

    Source: the sign test, Conover 1999, Practical Nonparametric Statistics, section 3.2.
    """
    ratios = np.sort(round_ratios(paired))
    n, tail, outside = len(ratios), 0.0, 0
    while outside < n // 2 and (tail := tail + math.comb(n, outside) / 2**n) <= (1 - confidence) / 2:
        outside += 1
    if not outside:
        return None
    repeats = repeat_ratios(paired)
    return min(float(ratios[outside - 1]), *repeats), max(float(ratios[n - outside]), *repeats)


def round_ratios(paired: Paired) -> NDArray[np.float64]:
    """[rounds] median of the artifact over that of the baseline."""
    ratios: NDArray[np.float64] = np.median(paired.artifact_ns, axis=1) / np.median(paired.baseline_ns, axis=1)
    return ratios


def repeat_ratios(paired: Paired) -> tuple[float, ...]:
    """[repeats] median over the rounds of each."""
    return tuple(np.median(round_ratios(paired).reshape(paired.repeats, -1), axis=1).tolist())


def has_drifted(samples: Nanoseconds, repeats: int = 1) -> bool:
    """Whether [rounds, samples] became slower by `DRIFT`: heat, or a busy host.

    The last quarter of the rounds is held against the first, and the same of every repeat, all repeats together.
    """
    parts = samples.reshape(repeats, -1, samples.shape[1])
    return any(_has_slowed(rows) for rows in (samples, parts.swapaxes(0, 1)))


def _has_slowed(rows: Nanoseconds) -> bool:
    quarter = max(1, len(rows) // 4)
    return bool(np.median(rows[-quarter:]) > DRIFT * np.median(rows[:quarter]))


def case_json(paired: Paired) -> dict[str, Any]:
    """Figures of one case; raw samples are kept elsewhere."""
    return {
        "program": paired.case.program,
        "artifact": percentiles_ms(paired.artifact_ns),
        "fp32": percentiles_ms(paired.baseline_ns),
        "ratio": asdict(paired_ratio(paired)),
        "warmed_up": paired.is_warm,
        "drifted": any(has_drifted(side, paired.repeats) for side in (paired.artifact_ns, paired.baseline_ns)),
    }
