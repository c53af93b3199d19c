"""The checkpoint that ships, in int8, on the targets that most will take it to."""

from functools import cache
from pathlib import Path

import pytest

from dmedge.artifact import Artifact, load_artifact, program_bytes
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.evidence.coverage import measure_coverage
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.export.costs import read_costs
from dmedge.flow.conform import conform_on

PLACES = {"android": "qemu:cortex-a76", "web": "web"}
MOST_BYTES = 6_000_000  # of the programs
MOST_SECONDS = 90  # of an export


@pytest.fixture(scope="session")
def shipped_int8(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return _int8(tmp_path_factory.getbasetemp() / "shipped")


@cache
def _int8(folder: Path) -> Artifact:
    config = CompressConfig(int8=True, ledger_texts=0, calibration_items=32)
    return compress_artifact(load_artifact("emoji"), config, folder / "int8")


@pytest.mark.slow
@pytest.mark.parametrize("target", PLACES)
def test_what_ships_reaches_its_devices(target: str, shipped_int8: Artifact) -> None:
    """Export compares it with torch in its own runtime here; then its golden inputs are replayed where it is to run."""
    bundle = export_bundle(shipped_int8, ExportConfig(target=target), shipped_int8.sibling(target))
    assert program_bytes(bundle) < MOST_BYTES
    (runtime,) = {program.runtime for program in bundle.manifest.programs}
    coverage = measure_coverage(bundle, runtime)
    assert coverage is not None and coverage.modules_planned and coverage.share_carried_out == 1
    assert conform_on(bundle, PLACES[target]).failures == ()
    costs = read_costs(bundle)
    assert costs is not None and costs["seconds"] < MOST_SECONDS
