"""Whether a quantization plan was carried out: its integers are looked for in the program files.

No record is trusted here. The integers that a quantized checkpoint holds must stand in the files of
the bundle byte for byte, row-major or transposed, which is how runtimes keep them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dmedge.artifact import Artifact, load_artifact
from dmedge.evidence.baseline import FLOAT, RUNS
from dmedge.lineage import Ancestor, trace_lineage
from dmedge.variants import variant_of

WEIGHTS = "model.safetensors"
POINT = "_point"  # ends the names of modules that only mark an activation, and hold no weight
SIGNED = np.uint8(0x88)  # what turns a pair of int4 with an offset of 8 into the signed pair that Core ML keeps
LEAST_BYTES = 64  # a shorter weight might stand somewhere by chance, so its layer is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How much of a plan arrived in the programs."""

    modules_planned: int  # with weights, and a scheme other than float
    modules_carried_out: int  # of them found as integers in the program files
    missing: tuple[str, ...]  # modules that were not found
    parameter_share_int8: float | None  # of the model, as export counted
    mac_share_int8: float | None  # of one image, one text and their fusion, as export counted
    lowering: Mapping[str, Any] | None  # what export recorded of delegates and of operations outside of them

    @property
    def share_carried_out(self) -> float:
        """Share of the planned modules; 1 for a plan that asks for nothing."""
        return self.modules_carried_out / self.modules_planned if self.modules_planned else 1.0

    def to_json(self) -> dict[str, Any]:
        """The figures by name."""
        return asdict(self) | {"share_carried_out": self.share_carried_out}


def measure_coverage(bundle: Artifact, runtime: str) -> Coverage | None:
    """Look for the integers of the checkpoint that `bundle` was exported from; None if it is not found.

    Args:
        runtime: whose program files to look into.

    Raises:
        ArtifactError: the checkpoint is damaged.
    """
    parent = parent_checkpoint(bundle)
    planned = {name for name, scheme in _plan(bundle, parent).items() if scheme not in FLOAT}
    planned = {name for name in planned if not name.endswith(POINT)}
    found: set[str] = set()
    if planned:
        if parent is None or parent.root is None:
            return None
        integers = _integers(load_artifact(parent.root, kind="checkpoint"))
        programs = [bundle.file(name).read_bytes() for name in sorted(_program_files(bundle, runtime))]
        planned -= {name for name in planned if name in integers and integers[name].nbytes < LEAST_BYTES}
        found = {name for name in planned if name in integers and _is_in(integers[name], programs)}
    summary = bundle.manifest.summary
    return Coverage(
        modules_planned=len(planned),
        modules_carried_out=len(found),
        missing=tuple(sorted(planned - found)),
        parameter_share_int8=_share(summary.get("parameter_share_int8")),
        mac_share_int8=_share(summary.get("mac_share_int8")),
        lowering=lowerings.get(runtime) if isinstance(lowerings := summary.get("lowering"), Mapping) else None,
    )


def parent_checkpoint(bundle: Artifact) -> Ancestor | None:
    """The checkpoint that the bundle was exported from, if it is found."""
    for ancestor in trace_lineage(bundle, (RUNS,)):
        if ancestor.depth == 1 and ancestor.manifest is not None and ancestor.manifest.kind == "checkpoint":
            return ancestor
    return None


def _plan(bundle: Artifact, parent: Ancestor | None) -> dict[str, str]:
    """Module -> scheme: what the bundle says, and of all programs what its checkpoint asks for, said or not."""
    asked = parent.manifest.precision if parent is not None and parent.manifest is not None else {}
    return {**bundle.manifest.precision, **(asked if variant_of(bundle.manifest) == "full" else {})}


def _integers(checkpoint: Artifact) -> dict[str, np.ndarray[Any, Any]]:
    """Module -> its weight, int8 or two int4 in a byte."""
    from safetensors.numpy import load_file

    tensors = load_file(checkpoint.file(WEIGHTS))
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in tensors.items()
        if name.endswith(".weight") and tensor.dtype in (np.int8, np.uint8)
    }


def _program_files(bundle: Artifact, runtime: str) -> set[str]:
    programs = [program for program in bundle.manifest.programs if program.runtime == runtime]
    return {name for program in programs for name in bundle.manifest.program_files(program)}


def _is_in(weight: np.ndarray[Any, Any], programs: list[bytes]) -> bool:
    layouts = [weight] if weight.ndim < 2 else [weight, np.moveaxis(weight, 0, -1), np.moveaxis(weight, 1, -1)]
    if weight.dtype == np.uint8:
        layouts.append(weight ^ SIGNED)
    wanted = [np.ascontiguousarray(layout).tobytes() for layout in layouts]
    return any(content in program for content in wanted for program in programs)


def _share(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
