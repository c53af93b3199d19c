"""What a benchmark had measured when a device vanished or a runtime died: kept beside the evidence there would be."""

import json
import tempfile
from itertools import count
from pathlib import Path

import numpy as np

from dmedge.evidence.bench_json import SCHEMA, measured_json, samples_of
from dmedge.evidence.config import BenchConfig
from dmedge.evidence.timings import Timings

REPORT, SAMPLES = "unfinished.json", "samples.npz"


def keep_unfinished(out: Path, timings: Timings, config: BenchConfig, error: str) -> Path | None:
    """Write what was finished into a new folder beside `out`, whole or not at all; nothing if nothing was.

    It is no evidence: it has no manifest and no verdict.

    Args:
        out: where the evidence would be.
        error: what ended the benchmark.

    Returns:
        The folder.

    Raises:
        OSError: it cannot be written.
    """
    if not any(repeat for repeats in timings.turns.values() for repeat in repeats):
        return None
    report = {
        "schema_version": SCHEMA,
        "error": error,
        **{f"{side}_sha256": artifact.digest for side, artifact in timings.sides.items()},
        **measured_json(timings, config),
        "sustained": [window.to_json() for window in timings.windows],
        "host": timings.host,
    }
    names = (f"{out.name}-unfinished{'' if number == 1 else f'-{number}'}" for number in count(1))
    place = next(place for place in map(out.with_name, names) if not place.exists())
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / "whole"
        folder.mkdir()
        text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / REPORT).write_text(text, encoding="utf-8")
        np.savez_compressed(folder / SAMPLES, **samples_of(timings, config))
        folder.rename(place)
    return place
