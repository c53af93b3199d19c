"""Rules of latency measurement, on sessions that pretend; no assertion depends on the clock."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dmedge.devices.names import check_device
from dmedge.errors import ConfigError
from dmedge.evidence.bench_json import judge_latency
from dmedge.evidence.config import REPEATS
from dmedge.evidence.latency import (
    Case,
    Nanoseconds,
    Paired,
    case_json,
    has_drifted,
    join,
    measure,
    median_interval,
    paired_ratio,
    percentiles_ms,
    warm_up,
)
from dmedge.evidence.verdict import Budget
from dmedge.runtime.session import Session
from dmedge.runtime.wire import Array

CASE = Case("encode_text", "encode_text", [[np.zeros(1)], [np.ones(1)]], [[np.zeros(1)], [np.ones(1)]])


class Pretender:
    """Answers `time` from a function of the number of runs so far, and notes who was called."""

    def __init__(self, name: str, ns: float, diary: list[str], *, slowdown: float = 0.0, first: float = 1.0) -> None:
        self.name, self.ns, self.diary = name, ns, diary
        self.slowdown, self.first, self.runs = slowdown, first, 0
        self.growth = 1.0

    def time(self, program: str, inputs: Sequence[Array], runs: int) -> Nanoseconds:
        self.diary.append(self.name)
        count = np.arange(self.runs, self.runs + runs)
        self.runs += runs
        taken = self.ns * (1 + self.slowdown * count)
        taken[0] *= self.first
        self.ns *= self.growth
        return taken.astype(np.int64)


def pretend(name: str, ns: float, diary: list[str], *, slowdown: float = 0.0, first: float = 1.0) -> Session:
    return Pretender(name, ns, diary, slowdown=slowdown, first=first)  # type: ignore[return-value]


def test_turns_are_taken_a_b_b_a() -> None:
    diary: list[str] = []
    measure(pretend("a", 1e6, diary), pretend("b", 2e6, diary), CASE, rounds=4)
    assert diary[-16:] == ["a", "b", "b", "a"] * 4


def test_ratio_of_a_twice_as_fast_program_is_a_half() -> None:
    paired = measure(pretend("a", 1e6, []), pretend("b", 2e6, []), CASE, rounds=10)
    ratio = paired_ratio(paired)
    assert (ratio.value, ratio.low, ratio.high, ratio.rounds) == (0.5, 0.5, 0.5, 10)


def test_drift_of_the_machine_cancels_in_the_ratio_and_is_reported() -> None:
    """Both sides slow down twofold while being measured; each round compares like with like."""
    paired = measure(pretend("a", 1e6, [], slowdown=2e-3), pretend("b", 2e6, [], slowdown=2e-3), CASE, rounds=50)
    assert paired_ratio(paired).value == pytest.approx(0.5, rel=0.02)
    assert has_drifted(paired.artifact_ns)
    assert case_json(paired)["drifted"]


def test_the_handover_between_processes_is_not_counted() -> None:
    paired = measure(pretend("a", 1e6, [], first=50), pretend("b", 1e6, []), CASE, rounds=5)
    assert paired.artifact_ns.max() == 1e6


def test_slow_programs_still_give_enough_samples_for_p90() -> None:
    repeats = [measure(pretend("a", 9e8, []), pretend("b", 9e8, []), CASE) for _ in range(REPEATS)]
    assert set(percentiles_ms(join(repeats).artifact_ns)) == {"n", "p50_ms", "p90_ms"}


def test_repeats_that_differ_widen_the_interval_to_all_of_them() -> None:
    """Rounds agree within each process, and processes do not."""
    parts = [measure(pretend("a", ns, []), pretend("b", 1e6, []), CASE, rounds=30, runs=3) for ns in (8e5, 9e5, 12e5)]
    whole = join(parts)
    ratio = paired_ratio(whole)
    assert (ratio.value, ratio.low, ratio.high) == (0.9, 0.8, 1.2)
    assert (ratio.rounds, ratio.repeats, whole.runs) == (90, (0.8, 0.9, 1.2), 3)
    assert median_interval(whole) == (0.8, 1.2)
    assert judge_latency([whole], Budget(latency_ratio=1.0))[0].verdict == "not enough data"


def test_one_repeat_that_never_warmed_up_is_told() -> None:
    steady = measure(pretend("a", 1e6, []), pretend("b", 1e6, []), CASE, rounds=2)
    assert join([steady, steady]).is_warm
    assert not join([steady, replace(steady, is_warm=False)]).is_warm


def test_heat_within_repeats_is_told_though_each_begins_cool() -> None:
    """Every repeat slows down by a fifth and begins anew, so that the whole has no trend."""
    rows = np.tile(np.linspace(1e6, 1.2e6, 20)[:, None], (3, 4)).astype(np.int64)
    steady = np.full_like(rows, 10**6)
    assert has_drifted(rows, repeats=3) and not has_drifted(rows)
    assert case_json(Paired(CASE, rows, steady, is_warm=True, repeats=3))["drifted"]
    assert not case_json(Paired(CASE, steady, steady, is_warm=True, repeats=3))["drifted"]


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (19, set()),
        (20, {"p50_ms"}),
        (99, {"p50_ms"}),
        (100, {"p50_ms", "p90_ms"}),
        (1000, {"p50_ms", "p90_ms", "p99_ms"}),
    ],
)
def test_a_percentile_needs_ten_samples_beyond_it(n: int, expected: set[str]) -> None:
    assert set(percentiles_ms(np.full(n, 10**6))) == {"n"} | expected


def test_outliers_stay_in() -> None:
    samples = np.array([10**6] * 85 + [10**9] * 15)
    assert percentiles_ms(samples)["p90_ms"] == 1000


def test_warm_up_ends_when_stable_and_says_when_it_never_is() -> None:
    diary: list[str] = []
    assert warm_up(pretend("steady", 1e6, diary), "encode_text", [])[1]
    assert len(diary) == 2
    restless = Pretender("restless", 1e6, [])
    restless.growth = 1.1
    assert not warm_up(restless, "encode_text", [])[1]  # type: ignore[arg-type]


def test_ratio_interval_covers_a_noisy_truth() -> None:
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        load = rng.lognormal(0, 0.5, size=(50, 1))  # shared by both sides of a round
        artifact, baseline = (load * rng.lognormal(np.log(ns), 0.1, size=(50, 8)) for ns in (6e5, 1e6))
        ratio = paired_ratio(Paired(CASE, artifact.astype(np.int64), baseline.astype(np.int64), True), seed=seed)
        inside += ratio.low <= 0.6 <= ratio.high
    assert inside >= 51  # 95 % of 60 is 57; at true coverage 0.95 fewer than 51 has probability 0.2 %


def test_a_latency_budget_holds_for_the_program_that_gained_least() -> None:
    fast, slow = (
        Paired(CASE, np.full((20, 10), ns), np.full((20, 10), 10**6), is_warm=True) for ns in (3 * 10**5, 9 * 10**5)
    )
    assert judge_latency([fast, slow], Budget()) == []
    (line,) = judge_latency([fast, slow], Budget(latency_ratio=0.8))
    assert (line.value, line.verdict) == (0.9, "fail")
    assert judge_latency([fast], Budget(latency_ratio=0.8))[0].verdict == "pass"


def test_unknown_devices_are_refused_with_those_that_exist() -> None:
    assert check_device("local") == "local"
    with pytest.raises(ConfigError, match=r"no device 'phone'.*local \(this machine\), .*adb:SERIAL"):
        check_device("phone")
