"""Minutes without a pause: whether a device keeps the speed that a short benchmark shows.

One program of the bundle, the one that takes longest, runs back to back in turns of a second or so. The state of the
machine is read between windows of a minute, and during them where it tells a power. Heat shows as a slope from the
first window to the last.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmedge.devices.energy import energies, is_metered, told_by
from dmedge.errors import DmedgeError
from dmedge.evidence.config import CONFIDENCE, RESAMPLES
from dmedge.evidence.latency import DRIFT, Case, Nanoseconds, Paired, percentiles_ms, warm_up
from dmedge.logs import progress
from dmedge.runtime.session import Session

WINDOW_S = 60.0
LEAST_WINDOWS = 6  # a run of a few minutes or seconds is cut into so many
TURNS = 12  # in a window at least, which intervals are drawn from
LONGEST_TURN_S = 5.0
MOST_RUNS = 100_000  # in one turn
FALL = 0.9  # of the first frequency, below which it has fallen
STATE = ("temperature_c", "frequency_mhz")

Facts = Mapping[str, object]


@dataclass(frozen=True, eq=False)
class Window:
    """A minute, or a part of a shorter run; samples are not kept, for hours of them would not fit."""

    start_s: float
    elapsed_s: float
    turn_medians_ns: NDArray[np.float64]
    figures: Mapping[str, float]  # n, percentiles and median of all samples, in ms
    busy: float  # share of the time that the program itself ran
    state: Facts = field(default_factory=dict)  # at its end; None for what the machine does not tell
    energies_j: Mapping[str, float] = field(default_factory=dict)  # by the way that they are known, see `WAYS`

    def to_json(self) -> dict[str, Any]:
        """Everything but the single turns."""
        times = {"start_s": self.start_s, "elapsed_s": self.elapsed_s, "busy": self.busy}
        return times | {
            "energies_j": dict(self.energies_j),
            "turns": self.turn_medians_ns.size,
            **self.figures,
            **self.state,
        }


def hottest_case(cases: Sequence[Paired]) -> Case:
    """The case whose program takes longest in the bundle itself."""
    return max(cases, key=lambda paired: float(np.median(paired.artifact_ns))).case


def run_sustained(
    session: Session,
    case: Case,
    minutes: float,
    facts_of: Callable[[], Facts],
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Window]:
    """Run the program of `case` for `minutes`, without a pause but for reading the state of the machine.

    Args:
        facts_of: of the machine that runs it.
        clock: seconds, ascending.

    Yields:
        Every window when it has ended.
    """
    count = max(LEAST_WINDOWS, round(minutes * 60 / WINDOW_S))
    window_s = minutes * 60 / count
    turn_s = min(window_s / TURNS, LONGEST_TURN_S)
    median_ns, _ = warm_up(session, case.program, case.artifact_inputs[0])
    done = 0
    before, began = facts_of(), clock()
    with progress(f"running {case.name}", total=count) as advance:
        while not done or clock() - began < window_s * count - turn_s / 2:
            with _sampled(facts_of, turn_s, is_wanted=is_metered(before)) as during:
                window = _run_window(session, case, (window_s, turn_s, median_ns), clock)
            after = facts_of()
            yield _dated(window, began, [before, *during, after])
            done, before = done + 1, after
            median_ns = 1e6 * window.figures["median_ms"]
            advance(1, f"{median_ns / 1e6:.3g} ms")


def _run_window(
    session: Session, case: Case, lengths: tuple[float, float, float], clock: Callable[[], float]
) -> Window:
    window_s, turn_s, median_ns = lengths
    runs, start = int(np.clip(turn_s * 1e9 / median_ns, 1, MOST_RUNS)), clock()
    turns: list[Nanoseconds] = []
    while clock() - start < window_s:
        inputs = case.artifact_inputs[len(turns) % len(case.artifact_inputs)]
        turns.append(session.time(case.program, inputs, runs))
    elapsed_s, samples = clock() - start, np.concatenate(turns)
    figures = percentiles_ms(samples) | {"median_ms": float(np.median(samples)) / 1e6}
    medians = np.array([np.median(turn) for turn in turns])
    return Window(start, elapsed_s, medians, figures, float(samples.sum()) / 1e9 / elapsed_s)


@contextmanager
def _sampled(facts_of: Callable[[], Facts], pause_s: float, *, is_wanted: bool) -> Iterator[list[Facts]]:
    """States of the machine, read in a thread beside what runs; an error of it is raised here."""
    states: list[Facts] = []
    errors: list[DmedgeError] = []
    end = threading.Event()

    def read() -> None:
        try:
            while not end.is_set():
                states.append(facts_of())
                end.wait(pause_s)
        except DmedgeError as error:
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    if is_wanted:
        thread.start()
    try:
        yield states
    finally:
        end.set()
        if is_wanted:
            thread.join()
    if errors:
        raise errors[0]


def _dated(window: Window, began: float, states: Sequence[Facts]) -> Window:
    """The window with what the machine told before, during and after it."""
    state = {key: states[-1].get(key) for key in STATE}
    found = energies(states, window.elapsed_s)
    return replace(window, start_s=window.start_s - began, state=state, energies_j=found)


def energy_json(windows: Sequence[Window]) -> dict[str, Any] | None:
    """What one run took, and by the second, whose energy that is and how it is known; None where nothing tells."""
    runs, seconds = sum(window.figures["n"] for window in windows), sum(window.elapsed_s for window in windows)
    told = told_by([window.energies_j for window in windows], seconds)
    if told is None:
        return None
    way, joules = told
    return {"of": way.of, "by": way.by, "joules_per_run": joules / runs, "watts": joules / seconds}


def slowdown(windows: Sequence[Window], *, seed: int = 0) -> dict[str, Any]:
    """Median of the last window over that of the first, its interval over turns, and what it says.

    "throttled" if the whole interval lies above `DRIFT`, "steady" if all of it lies below, else "not enough data". A
    frequency that ends below `FALL` of what it was is told as well.
    """
    first, last = windows[0], windows[-1]
    rng = np.random.default_rng(seed)
    draws = [
        np.median(rng.choice(window.turn_medians_ns, (RESAMPLES, window.turn_medians_ns.size)), axis=1)
        for window in (last, first)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(end) for end in np.quantile(draws[0] / draws[1], [tail, 1 - tail]))
    is_known = len(windows) > 1 and min(window.turn_medians_ns.size for window in (first, last)) >= LEAST_WINDOWS
    verdict = "throttled" if low > DRIFT else "steady" if high < DRIFT else "not enough data"
    return {
        "value": float(np.median(last.turn_medians_ns) / np.median(first.turn_medians_ns)),
        "low": low if is_known else None,
        "high": high if is_known else None,
        "limit": DRIFT,
        "verdict": verdict if is_known else "not enough data",
        "frequency_fell": _has_fallen(first.state.get("frequency_mhz"), last.state.get("frequency_mhz")),
    }


def _has_fallen(first: object, last: object) -> bool | None:
    """None where the machine does not tell."""
    if not isinstance(first, (int, float)) or not isinstance(last, (int, float)):
        return None
    return last < FALL * first


def sustained_json(case: Case, minutes: float, windows: Sequence[Window]) -> dict[str, Any]:
    """What bench.json says of a sustained run."""
    rows = [window.to_json() for window in windows]
    found = {"slowdown": slowdown(windows), "energy": energy_json(windows)}
    return {"case": case.name, "minutes": minutes, **found, "windows": rows}
