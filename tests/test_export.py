"""A bundle computes what its checkpoint computes, with the same integers, or it does not come into being."""

import errno
import json
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file

from dmedge.artifact import Artifact, load_artifact, new_artifact, program_bytes
from dmedge.cli.main import cli
from dmedge.compress.importance import tower_units
from dmedge.compress.prune import prune
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.config import load_config
from dmedge.data.languages import LANGUAGES
from dmedge.errors import ArtifactError, ConfigError, DmedgeError, ExportError
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.parity import check_parity, golden_key, output_error
from dmedge.export import bundle as bundle_module
from dmedge.export import engines as engines_module
from dmedge.export import executorch as executorch_module
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.export.engines import ENGINES, EngineName
from dmedge.export.executorch import check_integers as check_pte
from dmedge.export.onnx import check_integers as check_onnx
from dmedge.export.onnx_ops import onnx_model
from dmedge.export.programs import Lowering
from dmedge.export.readme import SNIPPETS
from dmedge.export.support import OPERATIONS, SUPPORT, check_support
from dmedge.export.targets import TARGETS
from dmedge.files import list_files
from dmedge.model.checkpoint import checkpoint_programs, load_checkpoint, save_checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.model.quantized import DynamicLinear, QuantConv2d
from dmedge.runtime.session import Session, open_session
from tests.conftest import MakeArtifact, OpenOnce
from tests.tiny_bundles import (
    CONFIG,
    int8_checkpoint,
    onnx_bundle,
    onnx_int8_bundle,
    pte_bundle,
    pte_int8_bundle,
    quick_export,
    tiny_checkpoint,
)

__all__ = [
    "int8_checkpoint",
    "onnx_bundle",
    "onnx_int8_bundle",
    "pte_bundle",
    "pte_int8_bundle",
    "tiny_checkpoint",
]  # fixtures

PROGRAMS = ("encode_image", "encode_text", "fuse")
KINDS = ["float-onnx", "int8-onnx", pytest.param("float-pte", marks=pytest.mark.slow)]
KINDS += [pytest.param("int8-pte", marks=pytest.mark.slow)]
FIXTURES = {"float-onnx": "onnx_bundle", "float-pte": "pte_bundle"}
FIXTURES |= {"int8-onnx": "onnx_int8_bundle", "int8-pte": "pte_int8_bundle"}
FLOAT_ERROR = 1e-5  # relative to the largest value
INT8_ERROR = {"executorch": 0.05, "onnxruntime": 0.15}  # roundings near a tie; one range per call instead of per row
STATIC_ERROR = 0.03  # of the image tower, whose integers are the same in every runtime


@pytest.fixture(params=KINDS)
def bundle(request: pytest.FixtureRequest) -> Artifact:
    found = request.getfixturevalue(FIXTURES[request.param])
    assert isinstance(found, Artifact)
    return found


@pytest.fixture
def checkpoint(bundle: Artifact, tiny_checkpoint: Artifact, int8_checkpoint: Artifact) -> Artifact:
    is_int8 = bundle.manifest.summary["precision"] == "int8"
    return int8_checkpoint if is_int8 else tiny_checkpoint


@pytest.fixture
def session(bundle: Artifact, sessions: OpenOnce) -> Session:
    return sessions(bundle)


def _inputs(name: str, length: int, batch: int = 1) -> list[np.ndarray[Any, Any]]:
    size, rng = CONFIG.image_size, np.random.default_rng(length)
    mask = np.ones((batch, length), np.int32)
    return {
        "encode_image": [rng.integers(0, 256, (batch, size, size, 3), np.uint8)],
        "encode_text": [rng.integers(1, CONFIG.vocab_size, (batch, length), np.int32), mask],
        "fuse": [
            rng.standard_normal((batch, (size // 8) ** 2, 4 * CONFIG.image_width)).astype(np.float32),
            rng.standard_normal((batch, length, CONFIG.text_width)).astype(np.float32),
            mask,
        ],
    }[name]


def _error(
    checkpoint: Artifact, name: str, inputs: list[np.ndarray[Any, Any]], found: list[np.ndarray[Any, Any]]
) -> float:
    """Greatest error of the vectors, relative to their largest value; a lone logit may be near zero."""
    with torch.inference_mode():
        wanted = getattr(load_checkpoint(checkpoint).model, name)(*(torch.from_numpy(array) for array in inputs))
    pairs = zip(wanted, found, strict=True)
    return max(output_error(want.numpy(), got)[0] for want, got in pairs if want.dim() > 1)


@pytest.mark.parametrize("length", [1, 2, 7, CONFIG.context_length])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_equal_torch(name: str, length: int, bundle: Artifact, checkpoint: Artifact, session: Session) -> None:
    inputs = _inputs(name, length)
    error = _error(checkpoint, name, inputs, session.run(name, inputs))
    if bundle.manifest.summary["precision"] == "float32":
        assert error < FLOAT_ERROR
    else:
        assert error < (STATIC_ERROR if name == "encode_image" else INT8_ERROR[bundle.manifest.programs[0].runtime])


@pytest.mark.parametrize("name", PROGRAMS)
def test_onnx_programs_take_any_batch(
    name: str, tiny_checkpoint: Artifact, onnx_bundle: Artifact, sessions: OpenOnce
) -> None:
    inputs = _inputs(name, 5, batch=3)
    assert _error(tiny_checkpoint, name, inputs, sessions(onnx_bundle).run(name, inputs)) < FLOAT_ERROR


def test_onnx_files_hold_the_integers_of_the_checkpoint(int8_checkpoint: Artifact, onnx_int8_bundle: Artifact) -> None:
    onnx = pytest.importorskip("onnx")
    found = {
        tensor.name.removeprefix("model."): onnx.numpy_helper.to_array(tensor)
        for program in onnx_int8_bundle.manifest.programs
        for tensor in onnx.load(onnx_int8_bundle.file(program.file)).graph.initializer
    }
    integers = {
        name: tensor
        for name, tensor in load_file(int8_checkpoint.file("model.safetensors")).items()
        if tensor.dtype == np.int8
    }
    assert len(integers) == sum(not name.endswith("_point") for name in int8_checkpoint.manifest.precision)
    modules = dict(load_checkpoint(int8_checkpoint).model.named_modules())
    for name, want in integers.items():
        is_linear = isinstance(modules[name.removesuffix(".weight")], DynamicLinear)
        assert np.array_equal(found[name], want.T if is_linear else want)


def test_free_dimensions_keep_their_names_in_onnx(onnx_bundle: Artifact) -> None:
    onnx = pytest.importorskip("onnx")
    for program in onnx_bundle.manifest.programs:
        for value, spec in zip(onnx.load(onnx_bundle.file(program.file)).graph.input, program.inputs, strict=True):
            found = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            assert found == list(spec.shape)


def test_onnxruntime_fuses_the_integer_operations(onnx_int8_bundle: Artifact, tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(onnx_int8_bundle.file("programs/encode_image.onnx")), options)
    operations = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    precision = onnx_int8_bundle.manifest.precision
    convolutions = [name for name in precision if name.endswith(".conv")]
    assert operations.count("QLinearConv") == len(convolutions)
    assert operations.count("QLinearAdd") == sum(name.endswith(".second.conv") for name in convolutions)
    assert not {"Conv", "MatMul", "Gemm"} & set(operations)


def test_a_changed_integer_is_noticed_in_onnx(int8_checkpoint: Artifact, onnx_int8_bundle: Artifact) -> None:
    model = load_checkpoint(int8_checkpoint).model
    paths = [onnx_int8_bundle.file(program.file) for program in onnx_int8_bundle.manifest.programs]
    check_onnx(onnx_model(model), paths)
    model.get_buffer("text_projection.weight")[3, 4] += 1
    with pytest.raises(ExportError, match="text_projection: its integers are not in the ONNX files"):
        check_onnx(onnx_model(model), paths)


@pytest.mark.slow
def test_the_pte_holds_the_integers_of_the_checkpoint_once(
    int8_checkpoint: Artifact, pte_int8_bundle: Artifact
) -> None:
    content = pte_int8_bundle.file("programs/model.pte").read_bytes()
    modules = dict(load_checkpoint(int8_checkpoint).model.named_modules())
    integers = {
        name: tensor
        for name, tensor in load_file(int8_checkpoint.file("model.safetensors")).items()
        if tensor.dtype == np.int8
    }
    assert integers
    for name, want in integers.items():
        is_convolution = isinstance(modules[name.removesuffix(".weight")], QuantConv2d)
        stored = np.ascontiguousarray(want.transpose(0, 2, 3, 1) if is_convolution else want).tobytes()
        assert content.count(stored) == 1, name


@pytest.mark.slow
def test_a_changed_integer_is_noticed_in_the_pte(int8_checkpoint: Artifact, pte_int8_bundle: Artifact) -> None:
    model, path = load_checkpoint(int8_checkpoint).model, pte_int8_bundle.file("programs/model.pte")
    check_pte(model, path)
    model.get_buffer("image.stem.conv.weight")[0, 0, 0, 0] += 1
    with pytest.raises(ExportError, match="image.stem.conv: its integers are not in the .pte"):
        check_pte(model, path)


@pytest.mark.slow
def test_xnnpack_takes_all_that_costs(pte_int8_bundle: Artifact) -> None:
    lowering: Any = pte_int8_bundle.manifest.summary["lowering"]
    outside = lowering["executorch"]["outside"]
    assert outside.keys() == set(PROGRAMS)
    for operations in outside.values():
        assert operations.get("aten.view_copy.default", 0) <= 1  # of ids; any other cuts what XNNPACK takes in two
        assert not [name for name in operations if any(word in name for word in executorch_module._MUST_DELEGATE)]


@pytest.mark.slow
def test_an_operation_left_to_slow_kernels_is_an_error(
    tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executorch_module, "_MUST_DELEGATE", ("native_layer_norm",))
    with pytest.raises(ExportError, match="encode_text: XNNPACK left aten.native_layer_norm"):
        export_bundle(tiny_checkpoint, ExportConfig(target="android", variant="text-only"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize(
    ("precision", "variant"), [("tiny_checkpoint", "image-only"), ("int8_checkpoint", "full")], ids=["float", "int8"]
)
def test_what_a_lowering_leaves_out_changes_no_byte(
    precision: str, variant: Any, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, config = request.getfixturevalue(precision), ExportConfig(target="android", variant=variant)
    short = export_bundle(checkpoint, config, tmp_path / "short")
    monkeypatch.setattr(executorch_module, "settled", nullcontext)
    whole = export_bundle(checkpoint, config, tmp_path / "whole")
    assert short.manifest.files["programs/model.pte"] == whole.manifest.files["programs/model.pte"]


@pytest.mark.slow
def test_int8_programs_are_small(pte_bundle: Artifact, pte_int8_bundle: Artifact) -> None:
    assert program_bytes(pte_int8_bundle) < 0.6 * program_bytes(pte_bundle)  # tiny: much is graph


def test_a_bundle_is_whole(bundle: Artifact, checkpoint: Artifact) -> None:
    loaded = load_artifact(bundle.root, kind="bundle")
    assert loaded.manifest.parents == {"parent": checkpoint.digest}
    assert loaded.manifest.target in TARGETS
    assert tuple(program.name for program in loaded.manifest.programs) == PROGRAMS
    assert loaded.manifest.summary["context_length"] == CONFIG.context_length
    files = set(list_files(bundle.root))
    assert {"README.md", "labels.json", "tokenizer.model", "preprocessor_config.json"} <= files
    assert {"LICENSES/ATTRIBUTION.md", "LICENSES/licenses/Unicode-3.0.txt", "conformance/golden.npz"} <= files


def test_a_bundle_names_no_place(bundle: Artifact) -> None:
    for name in list_files(bundle.root):
        content = (bundle.root / name).read_bytes()
        for place in (Path(bundle_module.__file__).parents[1], bundle.root.parent, Path(torch.__file__).parent):
            assert str(place).encode() not in content, f"{name} holds {place}"


def test_the_pack_covers_every_script_and_odd_picture(bundle: Artifact) -> None:
    folder = bundle.root / "conformance"
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    assert len(cases["texts"]) >= len({language.script for language in LANGUAGES.values()})
    assert "" in cases["texts"]
    modes = set()
    for name in cases["images"]:
        with Image.open(folder / name) as image:
            modes.add(image.mode)
    assert {"RGB", "L", "RGBA", "P", "I;16"} <= modes
    with np.load(folder / "golden.npz") as golden:
        lengths = {golden[golden_key("encode_text", case, "ids")].shape[1] for case in range(len(cases["texts"]))}
    assert {1, CONFIG.context_length} <= lengths


def test_the_pack_passes_and_fails_as_it_should(bundle: Artifact, session: Session) -> None:
    report = check_parity(session, bundle)
    assert report.error_ratio <= 1
    assert not report.images_differing and not report.texts_differing


def test_the_readme_speaks_of_its_target(bundle: Artifact) -> None:
    text = (bundle.root / "README.md").read_text(encoding="utf-8")
    assert bundle.manifest.target is not None and bundle.manifest.target in text
    assert ("```kotlin" in text) == (bundle.manifest.target == "android")
    assert ("```swift" in text) == (bundle.manifest.target == "ios")


def test_the_python_of_the_readme_runs(onnx_bundle: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(onnx_bundle.root)
    code = (onnx_bundle.root / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # the text is our own
    assert names["score"].shape == (1, 1)
    assert abs(names["score"].item()) <= 1 + 1e-6


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_programs(
    int8_checkpoint: Artifact, onnx_int8_bundle: Artifact, tmp_path: Path
) -> None:
    again = export_bundle(int8_checkpoint, quick_export("linux-x86_64"), tmp_path / "again")
    for program in again.manifest.programs:
        assert again.manifest.files[program.file] == onnx_int8_bundle.manifest.files[program.file]


def test_a_program_that_differs_is_no_bundle(
    tiny_checkpoint: Artifact, onnx_bundle: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_programs(model: object, programs: object, root: Path) -> Lowering:
        shutil.copytree(onnx_bundle.root / "programs", root / "programs")
        return Lowering(delegated={}, facts={})

    monkeypatch.setitem(bundle_module.EXPORTERS, "onnxruntime", copy_programs)
    monkeypatch.setattr(engines_module, "FLOAT_TOLERANCE", 1e-12)
    with pytest.raises(ExportError, match="differs from torch by .* expected at most 1e-12; nothing was written"):
        export_bundle(tiny_checkpoint, quick_export("linux-x86_64"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(bundle_module.EXPORTERS, "onnxruntime", fill)
    with pytest.raises(ArtifactError, match="the disk is full; nothing was written"):
        export_bundle(tiny_checkpoint, quick_export("linux-x86_64"), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "target, module, extra",
    [("android", "executorch.exir", "executorch"), ("linux-x86_64", "onnxscript", "onnx")],
    ids=["android", "linux"],
)
def test_a_missing_runtime_names_its_command(
    target: str, module: str, extra: str, tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DmedgeError, match=rf"pip install 'dmedge\[{extra}\]'"):
        export_bundle(tiny_checkpoint, ExportConfig(target=target), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_shape_of_model_runs_in_both_runtimes_of_a_bundle(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    config = replace(CONFIG, text="bag", concepts=0, fusion="none")
    checkpoint = replace(load_checkpoint(tiny_checkpoint), model=DualEncoder(config).eval())
    with new_artifact(tmp_path / "float") as draft:
        save_checkpoint(draft.path, checkpoint)
        parent = draft.finish(kind="checkpoint", stage="test", config={}, programs=checkpoint_programs(config))
    small = compress_artifact(parent, CompressConfig(int8=True, ledger_texts=0, calibration_items=8), tmp_path / "int8")
    bundle = export_bundle(small, ExportConfig(target="linux-x86_64"), tmp_path / "bundle")
    assert [program.name for program in bundle.manifest.programs] == ["encode_image", "encode_text"] * 2
    assert "fuse" not in (bundle.root / "README.md").read_text(encoding="utf-8")
    assert bundle.manifest.summary["lowering"].keys() == {"onnxruntime", "executorch"}  # type: ignore[attr-defined]
    assert program_bytes(bundle) == program_bytes(bundle, "onnxruntime") + program_bytes(bundle, "executorch")
    for runtime in ("onnxruntime", "executorch"):
        with open_session(bundle, runtime=runtime) as session:
            assert session.facts()["runtime"] == runtime
            assert check_parity(session, bundle).error_ratio <= 1
        coverage = measure_coverage(bundle, runtime)
        assert coverage is not None and coverage.share_carried_out == 1
    with open_session(bundle) as session:
        assert session.facts()["runtime"] == "onnxruntime"
    with pytest.raises(ArtifactError, match="has no programs for 'executorcc'; did you mean 'executorch'"):
        open_session(bundle, runtime="executorcc")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["android", pytest.param("linux-x86_64", marks=pytest.mark.thorough)])
def test_a_pruned_model_exports_and_computes_what_torch_computes(
    target: str, tiny_checkpoint: Artifact, tmp_path: Path
) -> None:
    """Blocks with fewer heads and channels than their settings say at first; export itself compares with torch."""
    plain = load_checkpoint(tiny_checkpoint)
    checkpoint = replace(plain, model=DualEncoder(replace(CONFIG, fusion="none")).eval())
    importance = {name: torch.rand(own.count) for name, own in tower_units(checkpoint.model).items()}
    pruned = prune(checkpoint, importance, 0.5, "layer")
    assert pruned.model.config.inner_widths["text.blocks.0.attention"] == 2
    programs = checkpoint_programs(pruned.model.config)
    with new_artifact(tmp_path / "float") as draft:
        save_checkpoint(draft.path, pruned)
        parent = draft.finish(kind="checkpoint", stage="test", config={}, programs=programs)
    bundle = export_bundle(parent, quick_export(target), tmp_path / "bundle")
    assert [program.name for program in bundle.manifest.programs] == ["encode_image", "encode_text"]


def test_a_runtime_that_the_target_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="target android has no runtime 'onnxruntime'"):
        ExportConfig(target="android", runtimes=("onnxruntime",))


def test_a_bundle_cannot_be_exported(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found a bundle; expected a checkpoint"):
        export_bundle(make_artifact("b", kind="bundle"), ExportConfig(target="android"), tmp_path / "out")


def test_an_existing_directory_is_left_alone(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ArtifactError, match="exists already"):
        export_bundle(tiny_checkpoint, ExportConfig(target="android"), tmp_path)
    assert list_files(tmp_path) == ["precious"]


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="no target 'andriod'; did you mean 'android'"):
        load_config(ExportConfig, {"target": "andriod"})


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_every_engine_says_what_it_makes_of_a_plan(engine: EngineName, int8_checkpoint: Artifact) -> None:
    loaded = load_checkpoint(int8_checkpoint)
    found = check_support(loaded.model, loaded.quantization or {}, engine)
    assert set(found) == {
        "int8_rows embedding",
        "int8_dynamic linear",
        "int8_static convolution",
        "int8_static activation",
    }
    assert all(text.startswith(("exact: ", "substituted: ")) for text in found.values())


def test_every_target_has_a_precision_for_each_tower_and_code_for_each_engine() -> None:
    for name, target in TARGETS.items():
        assert target.precision.keys() == {"image", "text", "fusion"}
        assert target.engines and all((name, engine) in SNIPPETS for engine in target.engines)


@pytest.mark.parametrize("scheme", ["int8_static", "int4"], ids=str)
@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_a_refused_scheme_names_the_module(engine: EngineName, scheme: str, int8_checkpoint: Artifact) -> None:
    loaded = load_checkpoint(int8_checkpoint)
    plan = {**(loaded.quantization or {}), "head.keys": scheme}
    with pytest.raises(ExportError, match=f"head.keys: {scheme} linear is refused by {engine} .*--keep head.keys"):
        check_support(loaded.model, plan, engine)


def test_the_support_table_speaks_of_known_things() -> None:
    schemes = {"float32", "int8_rows", "int8_dynamic", "int8_static", "int4_groups"}
    for scheme, operation, engine in SUPPORT:
        assert scheme in schemes and operation in OPERATIONS.values() and engine in ENGINES


def test_the_command_lists_targets() -> None:
    result = CliRunner().invoke(cli, ["export", "--list-targets"])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(TARGETS)


def test_the_command_needs_a_known_target() -> None:
    assert CliRunner().invoke(cli, ["export"]).exit_code == 2
    result = CliRunner().invoke(cli, ["export", "--target", "linux_x86"])
    assert result.exit_code == 1
    assert "did you mean 'linux-x86_64'" in result.stderr


@pytest.mark.parametrize("out", [None, "chosen"], ids=["default", "out"])
def test_the_command_names_a_bundle_for_each_target(
    out: str | None, tiny_checkpoint: Artifact, onnx_bundle: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []

    def pretend(parent: Artifact, config: ExportConfig, place: Path, **_: object) -> Artifact:
        asked.append((config.target, place))
        return onnx_bundle

    monkeypatch.setattr(bundle_module, "export_bundle", pretend)
    options = [part for target in TARGETS for part in ("--target", target)] + (
        ["--out", str(tmp_path / out)] if out else []
    )
    result = CliRunner().invoke(cli, ["export", str(tiny_checkpoint.root), *options, "--json"])
    assert result.exit_code == 0, result.output
    assert asked == [(name, tmp_path / out / name if out else tiny_checkpoint.sibling(name)) for name in TARGETS]
    found = json.loads(result.stdout)[0]
    assert found["program_bytes"] == program_bytes(onnx_bundle) and found["precision"] == "float32"
