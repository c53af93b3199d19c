"""What ExecuTorch's event tracer wrote: an ETDump, read by the Inspector that comes with ExecuTorch."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmedge.errors import DmedgeError, require
from dmedge.runtime.profile import WARM_UP, Profile, summed

PROFILER = "ExecuTorch's event tracer (ETDump)"
_WHOLE = "Method::execute"
_KERNEL = "native_call_"  # begins the name of an operator outside of delegates


def read_profile(path: Path, runs: int) -> Profile:
    """All runs of an ETDump but the first `WARM_UP`.

    Raises:
        DmedgeError: it holds no such runs.
    """
    devtools = require("executorch.devtools", "executorch")
    blocks = devtools.Inspector(etdump_path=str(path)).event_blocks
    events = [event for block in blocks for event in block.events if event.perf_data is not None]
    whole = [ms for event in events if event.name == _WHOLE for ms in event.perf_data.raw]
    if len(whole) != WARM_UP + runs:
        raise DmedgeError(
            f"ExecuTorch's event tracer wrote {len(whole)} runs; expected {WARM_UP + runs}; "
            "install the version in constraints.txt"
        )
    operators = [event for event in events if _is_operator(event)]
    found = [
        (name, _kind(event), ms * 1e6)
        for name, event in zip(_names(operators), operators, strict=True)
        for ms in event.perf_data.raw[WARM_UP:]
    ]
    return Profile(PROFILER, runs, sum(whole[WARM_UP:]) * 1e6 / runs, summed(found, runs))


def _is_operator(event: Any) -> bool:
    """Whether an event has no others within."""
    return event.is_delegated_op or event.name.startswith(_KERNEL)


def _names(events: Sequence[Any]) -> list[str]:
    """Names by which the events can be told apart: every delegate counts its operators from 1."""
    names, seen = [], Counter[str]()
    for event in events:
        name = str(event.name).removeprefix(_KERNEL)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names


def _kind(event: Any) -> str:
    return str(event.delegate_backend_name or "delegate") if event.is_delegated_op else "portable kernel"
