"""What onnxruntime's own profiler wrote: a list of events in JSON, in whole microseconds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dmedge.errors import DmedgeError
from dmedge.runtime.profile import Profile, gathered

PROFILER = "onnxruntime's profiler"
_SUFFIX = "_kernel_time"

Event = Mapping[str, Any]


def read_profile(path: Path, runs: int) -> Profile:
    """The last `runs` runs of a profile.

    Raises:
        DmedgeError: the file holds fewer.
    """
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    whole = _named(events, "Session", "model_run")[-runs:]
    if len(whole) < runs:
        raise DmedgeError(
            f"onnxruntime's profiler wrote {len(whole)} runs; expected {runs}; install the version in constraints.txt"
        )
    nodes = _named(events, "Node", _SUFFIX)
    operators = gathered([[_operator(node) for node in nodes if _is_within(node, run)] for run in whole])
    return Profile(PROFILER, runs, median(run["dur"] for run in whole) * 1e3, operators)


def _operator(node: Event) -> tuple[str, str, float]:
    return str(node["name"]).removesuffix(_SUFFIX), node["args"]["op_name"], node["dur"] * 1e3


def _is_within(event: Event, run: Event) -> bool:
    return bool(run["ts"] <= event["ts"] <= run["ts"] + run["dur"])


def _named(events: Sequence[Event], category: str, ending: str) -> list[Event]:
    return [event for event in events if event.get("cat") == category and event["name"].endswith(ending)]
