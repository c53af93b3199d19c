"""Cells: small runs whose results are kept, so that a study that was stopped repeats none of them."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dmedge.artifact import Artifact, load_artifact, new_artifact
from dmedge.environment import tool_versions
from dmedge.manifest import canonical_json

logger = logging.getLogger(__name__)

RESULT = "result.json"
CELLS_VERSION = 1  # counted up when a cell measures something else under the same settings

Result = dict[str, Any]  # plain JSON


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a study: its name, the settings that it depends on, and what it does."""

    name: str
    settings: Mapping[str, object]
    run: Callable[[Path], Result]  # may put files of its own into the folder that it is given


@dataclass(frozen=True, slots=True)
class Done:
    """A cell that was run, now or before."""

    artifact: Artifact
    result: Result

    @property
    def name(self) -> str:
        """Name of the cell."""
        return str(self.artifact.manifest.config["cell"])


def run_cell(cell: Cell, folder: Path, parents: Mapping[str, str]) -> Done:
    """Run `cell`, or take what it found before with the same settings, parents and tools.

    Args:
        folder: where cells are kept.
        parents: role -> digest of the artifacts that the study reads.

    Raises:
        ArtifactError: what was kept is damaged.
        DmedgeError: the cell failed; nothing of it is kept.
    """
    config = {"cell": cell.name, "version": CELLS_VERSION, "settings": dict(cell.settings)}
    key = sha256(canonical_json({"config": config, "parents": dict(parents), "tools": dict(tool_versions())}))
    place = folder / f"{cell.name}-{key.hexdigest()[:12]}"
    if place.exists():
        logger.info("%s: done before, kept", cell.name)
        return _read(place)
    logger.info("%s", cell.name)
    began = time.monotonic()
    with new_artifact(place) as draft:
        can_tell = _forget_peak()
        result = cell.run(draft.path)
        result["cell_seconds"] = round(time.monotonic() - began, 2)
        result["peak_memory_mb"] = _peak_mb() if can_tell else None
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True)
        (draft.path / RESULT).write_text(text + "\n", encoding="utf-8")
        draft.finish(kind="evidence", stage="study-cell", config=config, parents=parents)
    return _read(place)


def folders(runs: Sequence[Done]) -> tuple[str, ...]:
    """Names of the folders of some cells."""
    return tuple(run.artifact.name for run in runs)


def _read(place: Path) -> Done:
    artifact = load_artifact(place, kind="evidence")
    return Done(artifact, json.loads(artifact.file(RESULT).read_text(encoding="utf-8")))


def _forget_peak() -> bool:
    """Have Linux count the peak of this process's memory anew; False where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _peak_mb() -> float:
    """Most memory that this process held since `_forget_peak`, in MB; what it held before counts too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return round(int(line.split()[1]) / 1024, 1)
