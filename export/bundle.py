"""The `export` stage: from a checkpoint to a bundle that has been run in its own runtime."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from dmedge.artifact import Artifact, Program, new_artifact
from dmedge.data.emoji import PACK
from dmedge.data.hf_tokenizer import tokenizer_file_names
from dmedge.data.tokenizer import Tokenizer
from dmedge.errors import ExportError, require
from dmedge.evidence.parity import ParityReport, check_parity
from dmedge.evidence.verdict import Budget, changed_limits
from dmedge.export.bundled import write_bundled
from dmedge.export.column_pairs import pair_columns
from dmedge.export.config import ExportConfig
from dmedge.export.conformance import write_conformance
from dmedge.export.coreml import export_coreml
from dmedge.export.costs import Meter
from dmedge.export.engines import ENGINES, EngineName, tolerances
from dmedge.export.executorch import export_executorch
from dmedge.export.facts import minimum_versions, preprocessing_facts, tower_facts
from dmedge.export.gates import check_finite, check_shares, check_size, check_token_table
from dmedge.export.onnx import export_onnx, export_onnx_for_web
from dmedge.export.plan import planned_tensors
from dmedge.export.programs import Lowering, bundle_programs
from dmedge.export.prompts import PROMPTS, languages_of
from dmedge.export.quiet import quiet
from dmedge.export.readme import About, bundle_readme
from dmedge.export.support import check_support
from dmedge.export.targets import chosen_engines, find_target
from dmedge.export.texts import golden_texts
from dmedge.export.thrift import thrifty
from dmedge.export.tokenizer_json import TOKENIZER_JSON, write_tokenizer_json
from dmedge.export.variants import cut_down, takes
from dmedge.export.web_tokenizer import CHARACTERS, characters_json, check_web_tokenizer, loader_modules
from dmedge.files import digest_file, list_files
from dmedge.lineage import inherited
from dmedge.logs import progress
from dmedge.manifest import Manifest, Runtime
from dmedge.model.checkpoint import ANSWERS, LABELS, PREPROCESS, TOKENIZER, Checkpoint, load_checkpoint, write_json
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.runtime.session import open_session
from dmedge.signature import Seal

__all__ = ["ExportConfig", "export_bundle"]

WEB = Path(__file__).parent / "web"  # the loader of a bundle for browsers

Exporter = Callable[[DualEncoder, tuple[Program, ...], Path], Lowering]

EXPORTERS: Mapping[EngineName, Exporter] = {
    "xnnpack": export_executorch,
    "onnxruntime": export_onnx,
    "coreml": export_coreml,
    "onnxruntime-web": export_onnx_for_web,
}


def export_bundle(
    parent: Artifact, config: ExportConfig, out: Path, *, seal: Seal | None = None, budget: Budget | None = None
) -> Artifact:
    """Write the bundle of `parent` for one target, after comparing it with torch in its own runtimes.

    Precision is that of the checkpoint: float32 stays float32, int8 keeps its integers. What it took is written
    beside the bundle, see `dmedge.export.costs`.

    Args:
        seal: signs it, see `dmedge.signature.seal_with`.
        budget: what it may cost, which it is judged by later unless something else is asked for.

    Raises:
        ArtifactError: `out` exists, or `parent` is no checkpoint.
        ExportError: weights are not finite, an engine refuses a scheme, what was written computes something
            else, or it does not keep its plan or the shares of `config`.
        DmedgeError: a package is not installed; the message names the command that installs it.
    """
    engines, meter = chosen_engines(config.target, config.runtimes), Meter()
    with new_artifact(out) as draft, progress(f"export {config.target}", total=2 * len(engines) + 1) as advance:
        whole = _ready(load_checkpoint(parent), engines)
        checkpoint, ours = cut_down(whole, config.variant, config.prompts)
        _check_loader(parent, ours, engines)
        plan, planned = checkpoint.quantization or {}, planned_tensors(checkpoint.model, ours)
        support = {_runtime(name): check_support(checkpoint.model, plan, name) for name in engines}
        programs = {name: bundle_programs(ours, ENGINES[name]) for name in engines}
        lowerings: dict[Runtime, Lowering] = {}
        sizes: dict[Runtime, Mapping[str, int]] = {}
        for name in engines:
            advance(note=f"lowering for {name}")
            model = _suited(checkpoint.model, config.target, name)
            lowerings[_runtime(name)] = _lower(model, name, programs[name], draft.path, config, meter)
            stored = planned if model is checkpoint.model else planned_tensors(model, ours)
            sizes[_runtime(name)] = check_size(draft.path, programs[name], stored, ENGINES[name])
        agreement = _write_beside(draft.path, parent, checkpoint, ours, config, engines)
        facts = _reading_facts(checkpoint, ours)
        parity: dict[Runtime, ParityReport] = {}
        for name in engines:
            advance(note=f"comparing {name} with torch")
            with meter.measured(_runtime(name), "comparing_s"):
                parity[_runtime(name)] = _prove(draft.path, programs[name], facts)
            if config.bundled and _runtime(name) == "executorch":
                write_bundled(_so_far(draft.path, programs[name], facts), programs[name])
        artifact = draft.finish(
            kind="bundle",
            stage="export",
            config=asdict(config),
            parents={"parent": parent.digest},
            programs=tuple(program for name in engines for program in programs[name]),
            precision=plan or {"*": "float32"},
            languages=languages_of(config.prompts) or parent.manifest.languages,
            target=config.target,
            summary=facts
            | _summary(checkpoint, ours, lowerings, parity)
            | {"variant": config.variant, "support": support, "size": sizes, **agreement}
            | {"towers": tower_facts(checkpoint, planned, {r: found.counts for r, found in lowerings.items()})}
            | {"minimum_versions": minimum_versions(lowerings), **inherited(parent.manifest), **_promised(budget)},
            seal=seal,
        )
        meter.write(artifact)
        advance(note="done")
        return artifact


def _suited(model: DualEncoder, target: str, name: EngineName) -> DualEncoder:
    """The model as an engine computes it fastest at the target."""
    return pair_columns(model, find_target(target).column_pairs.get(name))


def _lower(
    model: DualEncoder, name: EngineName, programs: tuple[Program, ...], root: Path, config: ExportConfig, meter: Meter
) -> Lowering:
    """Write the programs of one engine, which must keep the shares that `config` asks for."""
    with meter.measured(_runtime(name), "lowering_s"), thrifty():
        lowering = EXPORTERS[name](model, programs, root)
    check_shares(lowering.counts, _runtime(name), config.min_delegated, config.min_int8)
    return lowering


def _reading_facts(checkpoint: Checkpoint, programs: Sequence[Program]) -> dict[str, object]:
    """What it takes to feed the programs and to read what they give."""
    shape = checkpoint.model.config
    facts: dict[str, object] = {}
    if takes(programs, "ids"):
        facts["context_length"] = shape.context_length
    if takes(programs, "pixels"):
        facts["preprocessing"] = preprocessing_facts(checkpoint.preprocess, shape)
    if any(spec.name == "embedding" for program in programs for spec in program.outputs):
        facts["embed_dim"] = shape.embed_dim
    return facts


def _check_loader(parent: Artifact, programs: Sequence[Program], engines: Sequence[EngineName]) -> None:
    """Refuse an imported tokenizer that the loader for browsers does not read; a bundle that it cannot load is none."""
    files = tokenizer_file_names(parent)
    if "onnxruntime-web" in engines and takes(programs, "ids") and files != (TOKENIZER,):
        check_web_tokenizer({name: parent.file(name).read_bytes() for name in files}, parent.root)


def _runtime(engine: EngineName) -> Runtime:
    return ENGINES[engine].runtime


def _ready(checkpoint: Checkpoint, engines: Sequence[EngineName]) -> Checkpoint:
    """Fold what exists only for training, after a look whether all that the engines need is installed."""
    with quiet():
        for name in engines:
            for module, extra in ENGINES[name].needs:
                require(module, extra)
    check_finite(checkpoint.model)
    check_token_table(checkpoint)
    fold_batch_norm_(checkpoint.model)
    checkpoint.model.requires_grad_(False)
    return checkpoint


def _write_beside(
    root: Path,
    parent: Artifact,
    checkpoint: Checkpoint,
    programs: Sequence[Program],
    config: ExportConfig,
    engines: Sequence[EngineName],
) -> dict[str, object]:
    """Write everything but the programs.

    Returns:
        What the manifest says of tokenizer.json; nothing where none was to be written.
    """
    tokenizer, agreement = _write_tokenizer(root, parent, checkpoint, engines) if takes(programs, "ids") else ((), {})
    if takes(programs, "pixels"):
        shutil.copyfile(parent.file(PREPROCESS), root / PREPROCESS)
    if config.variant in ("full", "fused", "prompts"):
        write_json(root / LABELS, list(checkpoint.labels))
    if checkpoint.answers:
        write_json(root / ANSWERS, list(checkpoint.answers))
    if config.prompts:
        write_json(root / PROMPTS, [asdict(prompt) for prompt in config.prompts])
    about = About(config.target, config.variant, engines, _precision(checkpoint), checkpoint, programs, tokenizer)
    (root / "README.md").write_text(bundle_readme(about), encoding="utf-8")
    if "onnxruntime-web" in engines:
        for module in loader_modules(tokenizer):
            shutil.copyfile(WEB / module, root / module)
    licenses = root / "LICENSES"  # Apache-2.0, which is dmedge's own, is among those of the data
    shutil.copytree(PACK / "licenses", licenses / "licenses")
    shutil.copyfile(PACK / "ATTRIBUTION.md", licenses / "ATTRIBUTION.md")
    is_float = checkpoint.quantization is None
    limits = {_runtime(name): tolerances(name, is_float=is_float) for name in engines}
    write_conformance(root, checkpoint, programs, limits)
    return agreement


def _write_tokenizer(
    root: Path, parent: Artifact, checkpoint: Checkpoint, engines: Sequence[EngineName]
) -> tuple[tuple[str, ...], dict[str, object]]:
    """Copy the files of the tokenizer, and write what other readers need: a tokenizer.json, or classes of characters.

    Returns:
        The files, and what the manifest says of tokenizer.json.
    """
    names = tokenizer_file_names(parent)
    for name in names:
        shutil.copyfile(parent.file(name), root / name)
    if isinstance(checkpoint.tokenizer, Tokenizer):
        found = write_tokenizer_json(root, checkpoint.tokenizer, golden_texts(checkpoint.tokenizer))
        return (*names, *([] if found["differing"] else [TOKENIZER_JSON])), {"tokenizer_json": found}
    classes = characters_json(checkpoint.tokenizer.files) if "onnxruntime-web" in engines else None
    if classes is None:
        return names, {}
    (root / CHARACTERS).write_bytes(classes)
    return (*names, CHARACTERS), {}


def _precision(checkpoint: Checkpoint) -> str:
    if checkpoint.quantization is None:
        return "float32"
    return "int8, and linear layers in int4" if "int4_groups" in checkpoint.quantization.values() else "int8"


def _promised(budget: Budget | None) -> dict[str, object]:
    """Limits that are not the defaults, if there are any."""
    limits = changed_limits(budget) if budget else {}
    return {"budget": limits} if limits else {}


def _summary(
    checkpoint: Checkpoint,
    programs: Sequence[Program],
    lowerings: Mapping[Runtime, Lowering],
    parity: Mapping[Runtime, ParityReport],
) -> dict[str, object]:
    costs = count_costs(checkpoint.model, programs)
    return {
        "precision": _precision(checkpoint),
        "parameters": costs.parameters,
        "parameter_share_int8": round(costs.parameter_share_int8, 4),
        "parameter_share_int4": round(costs.parameter_share_int4, 4),
        "mac_share_int8": round(costs.mac_share_int8, 4),
        "lowering": {
            runtime: {"delegated": lowering.delegated, **lowering.facts} for runtime, lowering in lowerings.items()
        },
        "parity": {
            runtime: {name: _brief(row.max_error) for name, row in report.programs.items()}
            for runtime, report in parity.items()
        },
    }


def _prove(root: Path, programs: tuple[Program, ...], facts: Mapping[str, object]) -> ParityReport:
    """Load what was written in its own runtime and compare it with the conformance pack."""
    written = _so_far(root, programs, facts)
    with open_session(written) as session:
        report = check_parity(session, written)
    if report.images_differing or report.texts_differing:
        differing = ", ".join((*report.images_differing, *map(repr, report.texts_differing)))
        raise ExportError(
            f"golden inputs do not repeat: {differing}; expected the same pixels and token ids; report this"
        )
    for name, row in report.rows.items():
        if not row.is_within:
            raise ExportError(
                f"{name}: differs from torch by {row.max_error:.3g} of its largest value in its own runtime; "
                f"expected at most {row.tolerance:g}; nothing was written: report this"
            )
    return report


def _so_far(root: Path, programs: tuple[Program, ...], facts: Mapping[str, object]) -> Artifact:
    """A bundle that is not finished, as far as it takes to run it."""
    files = {name: digest_file(root / name) for name in list_files(root)}
    return Artifact(
        root, Manifest(kind="bundle", stage="export", config={}, files=files, programs=programs, summary=facts)
    )


def _brief(number: float) -> float:
    """Two significant digits: the rest depends on the processor."""
    return float(f"{number:.1e}")
