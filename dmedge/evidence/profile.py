"""The hottest operators of every program, by the profiler of its runtime: a pass of its own, in a process of its own.

A profiler slows what it watches. So its times say where a run spends itself, and none of them is a latency.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmedge.artifact import Artifact
from dmedge.evidence.latency import Paired
from dmedge.runtime.profile import Operator, Profile
from dmedge.runtime.session import open_session
from dmedge.runtime.worker_session import WorkerSession

HOTTEST = 10  # operators that are named, of each program
_RUNS_S = 1.0  # aimed at, for each program
_RUNS = (10, 200)  # at least and at most


def profile_cases(bundle: Artifact, cases: Sequence[Paired], runtime: str, threads: int) -> dict[str, Any]:
    """What bench.json says of the operators of `bundle`, on the first input of every case.

    Args:
        cases: as they were timed: how long one takes decides how often it is run.

    Raises:
        DmedgeError: the runtime cannot be profiled.
    """
    with open_session(bundle, runtime=runtime, threads=threads) as session:
        assert isinstance(session, WorkerSession)  # as that of every bundle on this machine
        found = {
            paired.case.name: session.profile(paired.case.program, paired.case.artifact_inputs[0], _runs(paired))
            for paired in cases
        }
    profiler = next((profile.profiler for profile in found.values()), None)
    return {"profiler": profiler, "programs": {name: profile_json(profile) for name, profile in found.items()}}


def _runs(paired: Paired) -> int:
    return int(np.clip(_RUNS_S * 1e9 / np.median(paired.artifact_ns), *_RUNS))


def profile_json(profile: Profile) -> dict[str, Any]:
    """The whole run, and its hottest operators; their shares are of all operators."""
    return {
        "runs": profile.runs,
        "whole_us": profile.whole_ns / 1e3,
        "operators_us": profile.operators_ns / 1e3,
        "n_operators": len(profile.operators),
        "hottest": [_operator_json(operator, profile) for operator in profile.operators[:HOTTEST]],
    }


def _operator_json(operator: Operator, profile: Profile) -> Mapping[str, Any]:
    return {
        "name": operator.name,
        "kind": operator.kind,
        "calls": operator.calls,
        "us": operator.ns / 1e3,
        "share": operator.ns / profile.operators_ns if profile.operators_ns else 0.0,
    }
