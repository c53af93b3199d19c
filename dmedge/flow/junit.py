"""The JUnit file of a verification or a benchmark: whole, or the one before."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmedge.evidence.junit import junit_xml
from dmedge.flow.atomic import write_atomically


def write_junit(path: Path, reports: Sequence[tuple[str, Mapping[str, Any]]], *, stage: str) -> Path:
    """Write the budgets of some bundles to `path`; what stood there is replaced, as every run makes it anew.

    Args:
        path: of the XML file.
        reports: name of the bundle, and what verify.json or bench.json holds.
        stage: "verify" or "bench".

    Raises:
        OSError: the file cannot be written.
    """
    content = junit_xml(reports, stage=stage)
    write_atomically(path, lambda stream: stream.write(content))
    return path
