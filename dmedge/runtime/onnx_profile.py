"""What onnxruntime's own profiler wrote: a list of events in JSON, in whole microseconds."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmedge.errors import DmedgeError
from dmedge.runtime.profile import Profile, summed

PROFILER = "onnxruntime's profiler"
_SUFFIX = "_kernel_time"


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
    start = min(event["ts"] for event in whole)
    nodes = [event for event in _named(events, "Node", _SUFFIX) if event["ts"] >= start]
    operators = summed(((_name(event), event["args"]["op_name"], event["dur"] * 1e3) for event in nodes), runs)
    return Profile(PROFILER, runs, sum(event["dur"] for event in whole) * 1e3 / runs, operators)


def _named(events: Sequence[Mapping[str, Any]], category: str, ending: str) -> list[Mapping[str, Any]]:
    return [event for event in events if event.get("cat") == category and event["name"].endswith(ending)]


def _name(event: Mapping[str, Any]) -> str:
    return str(event["name"]).removesuffix(_SUFFIX)
