"""Whether a quantization plan was carried out, and how much of the work a delegate took.

Export counts what it wrote and records it in the manifest of the bundle, under `coverage` in the
summary; verification reads that and weighs the files themselves, which no record can talk smaller.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dmedge.artifact import Artifact, program_bytes
from dmedge.config import load_config
from dmedge.errors import ArtifactError, ConfigError

KEY = "coverage"  # in Manifest.summary
FLOAT_BYTES, INT8_BYTES = 4, 1
HEAVY = 0.9  # share of the bytes that int8 weights must save in the files, from which the record is believed


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What export counted in the programs that it wrote."""

    modules_planned: int  # modules whose scheme is not float32
    modules_carried_out: int  # of them found as integers, equal to those of the checkpoint, in the written files
    parameters: int
    parameters_int8: int
    macs: int  # one image, one text of 16 tokens and their fusion
    macs_int8: int
    delegated: Mapping[str, float]  # program -> share of its operations that a delegate or provider runs, 0..1

    def to_json(self) -> dict[str, Any]:
        """For the summary of a manifest; `read_coverage` is the inverse."""
        return asdict(self)

    @property
    def parameter_share_int8(self) -> float:
        """Share of the parameters that lie there in int8."""
        return self.parameters_int8 / self.parameters

    @property
    def mac_share_int8(self) -> float:
        """Share of the multiply-accumulates that int8 takes part in."""
        return self.macs_int8 / self.macs

    @property
    def share_carried_out(self) -> float:
        """Share of the planned modules; 1 for a plan that asks for nothing."""
        return self.modules_carried_out / self.modules_planned if self.modules_planned else 1.0


def read_coverage(bundle: Artifact) -> Coverage | None:
    """What export recorded; None if it recorded nothing.

    Raises:
        ArtifactError: the record cannot be read.
    """
    table = bundle.manifest.summary.get(KEY)
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise ArtifactError(f"{bundle.root}: coverage is {table!r}; expected a table; run dmedge export again")
    try:
        return load_config(Coverage, table, where=f"{bundle.root}: {KEY}")
    except ConfigError as error:
        raise ArtifactError(f"{error}; run dmedge export again") from error


def saved_share(bundle: Artifact, fp32_bundle: Artifact, coverage: Coverage) -> float:
    """Share of the bytes that int8 weights should save which the program files really save; 1 if none should.

    May exceed 1, where a weight stands in several files.
    """
    expected = coverage.parameters_int8 * (FLOAT_BYTES - INT8_BYTES)
    saved = program_bytes(fp32_bundle) - program_bytes(bundle)
    return saved / expected if expected else 1.0


def judge_coverage(bundle: Artifact, fp32_bundle: Artifact | None, coverage: Coverage) -> float:
    """Share of the plan that was carried out: the recorded one, or what the files save if that is clearly less."""
    if fp32_bundle is None:
        return coverage.share_carried_out
    saved = saved_share(bundle, fp32_bundle, coverage)
    return coverage.share_carried_out if saved >= HEAVY else min(coverage.share_carried_out, max(saved, 0.0))
