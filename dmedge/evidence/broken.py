"""Evidence of a bundle that cannot be judged for what its own programs do: a finding, which fails like a broken budget.

Its runtime died, hung or refused a program, or what a program returned is no embedding and no score. The same of the
baseline is an error: nothing can be judged by it.
"""

from collections.abc import Mapping
from typing import Any

from dmedge.artifact import Artifact, download_bytes, program_bytes
from dmedge.data.evalset import EvalSet
from dmedge.environment import host_facts, package_version
from dmedge.errors import ProgramError, RuntimeFailure
from dmedge.evidence.config import VerifyConfig
from dmedge.evidence.measured import SCHEMA_VERSION, data_json
from dmedge.evidence.verdict import BudgetLine
from dmedge.runtime.session import runtime_of
from dmedge.variants import variant_of

PROGRAMS_WORK = "programs_work"
PACKAGES = {"coreml": "coremltools"}  # of runtimes that are called otherwise


def is_finding(error: RuntimeFailure | ProgramError, bundle: Artifact) -> bool:
    """Whether an error says something of `bundle`; a baseline runs in this process, where no runtime can fail."""
    return isinstance(error, RuntimeFailure) or error.artifact == bundle.digest


def broken_json(
    bundle: Artifact, parents: Mapping[str, str], data: EvalSet, config: VerifyConfig, failure: str
) -> dict[str, Any]:
    """The content of verify.json: no figures, and one line, which fails.

    Args:
        parents: role -> digest of what was looked at.
        failure: what its programs did.
    """
    runtime = runtime_of(bundle, config.runtime)
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": "fail",
        "budgets": [BudgetLine(PROGRAMS_WORK, 1.0, 0.0, 0.0, 0.0, "fail").to_json()],
        "failure": failure,
        **{f"{role}_sha256": parents.get(role) for role in ("artifact", "baseline", "fp32_bundle")},
        "variant": variant_of(bundle.manifest),
        "data": data_json(data),
        "heads": {},
        "parity": None,
        "coverage": None,
        "size": {"program_bytes": program_bytes(bundle, runtime), "download_bytes": download_bytes(bundle)},
        "runtime": {
            "runtime": runtime,
            "version": package_version(PACKAGES.get(runtime, runtime)) or "unknown",
            "threads": config.threads,
        },
        "host": host_facts(),
    }


def broken_summary(report: Mapping[str, Any]) -> dict[str, object]:
    """The few facts of it that the manifest repeats."""
    return {"verdict": report["verdict"], "failed": [PROGRAMS_WORK], "failure": report["failure"]}
