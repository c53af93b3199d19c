"""What ExecuTorch's event tracer wrote: an ETDump, read by the flatbuffers compiler and the schema of its wheel.

ExecuTorch's own Inspector reads the same, after ten seconds of imports.
"""

import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from dmedge.errors import DmedgeError
from dmedge.runtime.profile import Profile, gathered

PROFILER = "ExecuTorch's event tracer (ETDump)"
_COMPILER, _SCHEMA = "data/bin/flatc", "devtools/etdump/etdump_schema_flatcc.fbs"
_WHOLE = "Method::execute"
_KERNEL = "native_call_"  # begins the name of an operator outside of delegates
_NONE = -1  # id of what is no part of a delegate

Event = Mapping[str, Any]


def read_profile(path: Path, runs: int) -> Profile:
    """The last `runs` runs of an ETDump.

    Raises:
        DmedgeError: it cannot be read, or holds fewer.
    """
    blocks = [[event["profile_event"] for event in block.get("events", ())] for block in _decode(path)["run_data"]]
    executed = [block for block in blocks if any(event.get("name") == _WHOLE for event in block)][-runs:]
    if len(executed) < runs:
        raise DmedgeError(
            f"ExecuTorch's event tracer wrote {len(executed)} runs; expected {runs}; "
            "install the version in constraints.txt"
        )
    whole = [_ns(event) for block in executed for event in block if event.get("name") == _WHOLE]
    return Profile(PROFILER, runs, median(whole), gathered([_operators(block) for block in executed]))


def _decode(path: Path) -> dict[str, Any]:
    """An ETDump as plain tables; ticks are nanoseconds."""
    spec = find_spec("executorch")
    assert spec is not None and spec.submodule_search_locations  # it has just run
    package = Path(spec.submodule_search_locations[0])
    with tempfile.TemporaryDirectory() as folder:
        command = [str(package / _COMPILER), "--json", "--strict-json", "--defaults-json", "--size-prefixed"]
        command += ["-o", folder, str(package / _SCHEMA), "--", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            table: dict[str, Any] = json.loads((Path(folder) / f"{path.stem}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DmedgeError(
                f"cannot read what ExecuTorch's event tracer wrote ({error}); expected the schema and the flatc "
                "of its wheel; install the version in constraints.txt"
            ) from error
        assert done.returncode == 0, done.stdout
    return table


def _operators(block: Sequence[Event]) -> Iterator[tuple[str, str, float]]:
    """Name, kind and time of every event with no others within, named apart: each delegate counts its own from 1."""
    seen = Counter[str]()
    for event in block:
        part, outer = event["delegate_debug_id_int"], event.get("name") or ""
        inner = event.get("delegate_debug_id_str") or ("" if part == _NONE else str(part))
        if inner or outer.startswith(_KERNEL):
            name = inner or outer.removeprefix(_KERNEL)
            seen[name] += 1
            apart = name if seen[name] == 1 else f"{name} ({seen[name]})"
            yield apart, "delegate" if inner else "portable kernel", _ns(event)


def _ns(event: Event) -> float:
    return float(event["end_time"] - event["start_time"])
