"""The `export` stage: from a checkpoint to a bundle that has been run in its own runtime."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from dmedge.artifact import Artifact, Program, new_artifact
from dmedge.data.emoji import PACK
from dmedge.errors import ExportError, require
from dmedge.evidence.parity import ParityReport, check_parity
from dmedge.export.config import ExportConfig
from dmedge.export.conformance import write_conformance
from dmedge.export.executorch import export_executorch
from dmedge.export.onnx import export_onnx
from dmedge.export.programs import Lowering, bundle_programs
from dmedge.export.quiet import quiet
from dmedge.export.readme import bundle_readme
from dmedge.export.support import check_support
from dmedge.export.targets import Target, find_target
from dmedge.files import digest_file, list_files
from dmedge.logs import progress
from dmedge.manifest import Manifest, Runtime
from dmedge.model.checkpoint import ANSWERS, LABELS, PREPROCESS, TOKENIZER, Checkpoint, load_checkpoint
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.runtime.session import open_session

__all__ = ["ExportConfig", "export_bundle"]

Exporter = Callable[[DualEncoder, tuple[Program, ...], Path], Lowering]

EXPORTERS: Mapping[Runtime, Exporter] = {"executorch": export_executorch, "onnxruntime": export_onnx}
NEEDS: Mapping[Runtime, tuple[tuple[str, str], ...]] = {  # module, extra of this package
    "executorch": (("executorch.exir", "executorch"),),
    "onnxruntime": (("onnx", "onnx"), ("onnxscript", "onnx"), ("onnxruntime", "onnx")),
}

# Greatest error on the conformance pack, relative to the largest golden value. Dynamic ranges follow
# float32 activations, so some value near a tie falls the other way, and the difference grows from
# layer to layer, more so where a runtime takes one range per call. Static ranges leave ties alone,
# which a picture of one colour can have everywhere at once.
PROGRAMS = ("encode_image", "encode_text", "fuse")
FLOAT_TOLERANCE = 1e-4
INT8_TOLERANCES: Mapping[Runtime, Mapping[str, float]] = {
    "executorch": {"encode_image": 0.1, "encode_text": 0.1, "fuse": 0.1},
    "onnxruntime": {"encode_image": 0.1, "encode_text": 0.25, "fuse": 0.25},
}


def export_bundle(parent: Artifact, config: ExportConfig, out: Path) -> Artifact:
    """Write the bundle of `parent` for one target, after comparing it with torch in its own runtime.

    Precision is that of the checkpoint: float32 stays float32, int8 keeps its integers.

    Raises:
        ArtifactError: `out` exists, or `parent` is no checkpoint.
        ExportError: the target refuses a scheme, or what was written computes something else.
        DmedgeError: a package is not installed; the message names the command that installs it.
    """
    target = find_target(config.target)
    with new_artifact(out) as draft, progress(f"export {config.target}", total=3) as advance:
        checkpoint = _ready(load_checkpoint(parent), target)
        plan = checkpoint.quantization or {}
        support = check_support(checkpoint.model, plan, config.target)
        programs = bundle_programs(checkpoint.model.config, target.runtime, target.file, target.fixed)
        advance(note="lowering")
        lowering = EXPORTERS[target.runtime](checkpoint.model, programs, draft.path)
        _write_beside(draft.path, parent, checkpoint, config)
        advance(note="comparing with torch")
        facts: dict[str, object] = {"context_length": checkpoint.model.config.context_length}
        parity = _prove(draft.path, programs, facts)
        artifact = draft.finish(
            kind="bundle",
            stage="export",
            config=asdict(config),
            parents={"parent": parent.digest},
            programs=programs,
            precision=plan or {"*": "float32"},
            languages=parent.manifest.languages,
            target=config.target,
            summary=facts | _summary(checkpoint, lowering, parity) | {"support": support},
        )
        advance(note="done")
        return artifact


def _ready(checkpoint: Checkpoint, target: Target) -> Checkpoint:
    """Fold what exists only for training, after a look whether all that the target needs is installed."""
    config = checkpoint.model.config
    if "hf" in (config.image, config.text):
        raise ExportError(
            f"image tower {config.image!r}, text tower {config.text!r}: imported towers cannot be exported yet; "
            "expected towers of dmedge's own; train with image = 'vit' or 'convnet' and text = 'transformer' or 'bag'"
        )
    with quiet():
        for module, extra in NEEDS[target.runtime]:
            require(module, extra)
    fold_batch_norm_(checkpoint.model)
    checkpoint.model.requires_grad_(False)
    return checkpoint


def _write_beside(root: Path, parent: Artifact, checkpoint: Checkpoint, config: ExportConfig) -> None:
    """Write everything but the programs."""
    answers = (ANSWERS,) if ANSWERS in parent.manifest.files else ()
    for file in (TOKENIZER, PREPROCESS, LABELS, *answers):
        shutil.copyfile(parent.file(file), root / file)
    target = find_target(config.target)
    readme = bundle_readme(config.target, _precision(checkpoint), target.description, checkpoint.model.config)
    (root / "README.md").write_text(readme, encoding="utf-8")
    licenses = root / "LICENSES"  # Apache-2.0, which is dmedge's own, is among those of the data
    shutil.copytree(PACK / "licenses", licenses / "licenses")
    shutil.copyfile(PACK / "ATTRIBUTION.md", licenses / "ATTRIBUTION.md")
    is_float = checkpoint.quantization is None
    tolerances = dict.fromkeys(PROGRAMS, FLOAT_TOLERANCE) if is_float else INT8_TOLERANCES[target.runtime]
    write_conformance(root / "conformance", checkpoint, tolerances)


def _precision(checkpoint: Checkpoint) -> str:
    if checkpoint.quantization is None:
        return "float32"
    return "int8, and linear layers in int4" if "int4_groups" in checkpoint.quantization.values() else "int8"


def _summary(checkpoint: Checkpoint, lowering: Lowering, parity: ParityReport) -> dict[str, object]:
    costs = count_costs(checkpoint.model)
    return {
        "precision": _precision(checkpoint),
        "parameters": costs.parameters,
        "parameter_share_int8": round(costs.parameter_share_int8, 4),
        "parameter_share_int4": round(costs.parameter_share_int4, 4),
        "mac_share_int8": round(costs.mac_share_int8, 4),
        "lowering": {"delegated": lowering.delegated, **lowering.facts},
        "parity": {name: _brief(row.max_error) for name, row in parity.programs.items()},
    }


def _prove(root: Path, programs: tuple[Program, ...], facts: Mapping[str, object]) -> ParityReport:
    """Load what was written in its own runtime and compare it with the conformance pack."""
    files = {name: digest_file(root / name) for name in list_files(root)}
    manifest = Manifest(kind="bundle", stage="export", config={}, files=files, programs=programs, summary=facts)
    written = Artifact(root, manifest)
    with open_session(written) as session:
        report = check_parity(session, written)
    if report.images_differing or report.texts_differing:
        differing = ", ".join((*report.images_differing, *map(repr, report.texts_differing)))
        raise ExportError(
            f"golden inputs do not repeat: {differing}; expected the same pixels and token ids; report this"
        )
    for name, row in report.programs.items():
        if not row.is_within:
            raise ExportError(
                f"{name}: differs from torch by {row.max_error:.3g} of its largest value in its own runtime; "
                f"expected at most {row.tolerance:g}; nothing was written: report this"
            )
    return report


def _brief(number: float) -> float:
    """Two significant digits: the rest depends on the processor."""
    return float(f"{number:.1e}")
