"""The checkpoint that ships, in int8, on the targets that most will take it to."""

import pytest

from dmedge.artifact import Artifact, load_artifact, program_bytes
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.evidence.coverage import measure_coverage
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.flow.conform import conform_on
from tests.made_once import made_once

# Lowering to XNNPACK takes longest, and the fusion a third of it: the web has all programs, android both encoders.
CONFIGS = (ExportConfig(target="android", variant="dual"), ExportConfig(target="web"))
PLACES = {"android": "qemu:cortex-a76", "web": "web"}
MOST_BYTES = 6_000_000  # of the programs
INT8 = CompressConfig(int8=True, ledger_texts=0, calibration_items=32)


@pytest.fixture(scope="session")
def shipped_int8(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    shipped = load_artifact("emoji")
    return made_once(tmp_path_factory, "shipped-int8", lambda out: compress_artifact(shipped, INT8, out))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.target)
def test_what_ships_reaches_its_devices(
    config: ExportConfig, shipped_int8: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Export compares it with torch in its own runtime here; then its golden inputs are replayed where it is to run."""
    name = f"shipped-{config.target}"
    bundle = made_once(tmp_path_factory, name, lambda out: export_bundle(shipped_int8, config, out))
    assert program_bytes(bundle) < MOST_BYTES
    (runtime,) = {program.runtime for program in bundle.manifest.programs}
    coverage = measure_coverage(bundle, runtime)
    assert coverage is not None and coverage.modules_planned and coverage.share_carried_out == 1
    assert conform_on(bundle, PLACES[config.target]).failures == ()
