"""What an export took, in seconds and memory: kept beside the bundle, whose digest is free of time and host."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from dmedge.artifact import Artifact
from dmedge.environment import host_facts
from dmedge.manifest import Runtime
from dmedge.runtime.session import peak_resident_bytes

LOG = "export.json"
Work = Literal["lowering_s", "comparing_s"]
_CLEAR_REFS = Path("/proc/self/clear_refs")
_PEAK = "5"  # what resets VmHWM, see proc(5)


class Meter:
    """Adds up what every engine takes."""

    def __init__(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.process_time()
        self.engines: dict[Runtime, dict[str, Any]] = {}

    @contextmanager
    def measured(self, runtime: Runtime, work: Work) -> Iterator[None]:
        """Count the block as work for one engine; its memory is that of this process, not of workers that it starts."""
        is_reset, start = _reset_peak(), time.perf_counter()
        yield
        row = self.engines.setdefault(runtime, {"peak_rss_bytes": None})
        row[work] = round(time.perf_counter() - start, 1)
        if is_reset:
            row["peak_rss_bytes"] = max(row["peak_rss_bytes"] or 0, peak_resident_bytes())

    def write(self, bundle: Artifact) -> None:
        """Write BUNDLE.log/export.json; an older one of that name is replaced."""
        table = {
            "bundle_sha256": bundle.digest,
            "seconds": round(time.perf_counter() - self._start, 1),
            "cpu_seconds": round(time.process_time() - self._cpu_start, 1),  # less on a busy machine; without workers
            "engines": self.engines,
            "host": host_facts(),
        }
        path = _place(bundle)
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f".{path.name}.tmp")
        draft.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)


def read_costs(bundle: Artifact) -> dict[str, Any] | None:
    """What the export of `bundle` took, as `Meter.write` wrote it; None where that is not known."""
    path = _place(bundle)
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return table if table.get("bundle_sha256") == bundle.digest else None


def _place(bundle: Artifact) -> Path:
    return bundle.root.with_name(f"{bundle.root.name}.log") / LOG


def _reset_peak() -> bool:
    """Have the system count the largest memory of this process anew; False where it does not."""
    try:
        _CLEAR_REFS.write_text(_PEAK)
    except OSError:
        return False
    return True
