"""Core ML packages hold the checkpoint's own numbers and compute, operation by operation, what torch computes."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dmedge.artifact import Artifact, Program, load_artifact, new_artifact, program_bytes
from dmedge.errors import DmedgeError, ExportError
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.parity import check_parity, output_error
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.export.coreml import export_coreml
from dmedge.export.coreml_check import check_arithmetic
from dmedge.export.coreml_weights import check_integers, stored_model
from dmedge.export.engines import ENGINES
from dmedge.export.programs import bundle_programs
from dmedge.files import list_files
from dmedge.model.checkpoint import checkpoint_programs, load_checkpoint, save_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.model.nibbles import pack_nibbles, round_groups
from dmedge.model.quantized import Int4Linear, replace_module_
from dmedge.runtime import mil_ops
from dmedge.runtime.mil_program import MilProgram, operations_of, read_package
from dmedge.runtime.session import Session, open_session
from dmedge.runtime.wire import Array
from tests.tiny_bundles import CONFIG, example_inputs, int8_checkpoint, tiny_checkpoint, tiny_model

__all__ = ["int8_checkpoint", "tiny_checkpoint"]  # fixtures

PROGRAMS = ("encode_image", "encode_text", "fuse")
ERROR = 0.01  # relative to the largest value: float16 has 11 bits, and an error grows from layer to layer
LEAST_COSINE = 0.9999
slow = pytest.mark.slow


@pytest.fixture(scope="module", params=["float", "int8"])
def checkpoint(request: pytest.FixtureRequest) -> Artifact:
    name = "tiny_checkpoint" if request.param == "float" else "int8_checkpoint"
    found = request.getfixturevalue(name)
    assert isinstance(found, Artifact)
    return found


@pytest.fixture(scope="module")
def bundle(checkpoint: Artifact) -> Artifact:
    return export_bundle(checkpoint, ExportConfig(target="ios", runtimes=("coreml",)), checkpoint.sibling("ios"))


@pytest.fixture(scope="module")
def session(bundle: Artifact) -> Iterator[Session]:
    with open_session(bundle) as opened:
        yield opened


def programs_of(config: ModelConfig) -> tuple[Program, ...]:
    engine = ENGINES["coreml"]
    return bundle_programs(checkpoint_programs(config), engine)


def assert_near(wanted: tuple[torch.Tensor, ...], found: list[Array]) -> None:
    for want, got in zip(wanted, found, strict=True):
        error, cosine = output_error(want.numpy(), got)
        if want.dim() > 1:  # a lone logit may be near zero
            assert error < ERROR and cosine > LEAST_COSINE


def random_model(config: ModelConfig) -> DualEncoder:
    """As `tiny_model`, of any shape, and ready for export."""
    torch.manual_seed(0)
    model = DualEncoder(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    fold_batch_norm_(model)
    return model


def assert_computes(model: DualEncoder, root: Path, names: tuple[str, ...] = PROGRAMS) -> None:
    """Write packages of a float or integer model, and compare them with torch and float32 weights."""
    programs = tuple(program for program in programs_of(model.config) if program.name in names)
    reference = stored_model(model)
    export_coreml(model, programs, root)
    for program in programs:
        package = MilProgram(root / program.file)
        for length in (1, 5, model.config.context_length):
            inputs = [torch.from_numpy(array) for array in inputs_of(program, length)]
            with torch.inference_mode():
                wanted = getattr(reference, program.name)(*inputs)
                found = package.run(dict(zip(package.inputs, inputs, strict=True)))
            assert_near(wanted, [array.numpy() for array in found])


def inputs_of(program: Program, length: int) -> list[Array]:
    """Random inputs of any shape of model, pixels as uint8."""
    rng, arrays = np.random.default_rng(length), []
    for spec in program.inputs:
        shape = [length if isinstance(size, str) else size for size in spec.shape]
        low, high = spec.bounds or (-1, 1)
        if spec.name == "mask":
            arrays.append(np.ones(shape, np.int32))
        elif spec.bounds is None:
            arrays.append(rng.standard_normal(shape).astype(np.float32))
        else:
            kind = np.uint8 if spec.name == "pixels" else np.int32
            arrays.append(rng.integers(int(low), int(high), shape, endpoint=True).astype(kind))
    return arrays


@slow
@pytest.mark.parametrize("length", [1, 2, 7, CONFIG.context_length])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_equal_torch(name: str, length: int, checkpoint: Artifact, session: Session) -> None:
    """In all but activations that a quantized checkpoint rounds, which Core ML keeps in float16."""
    inputs = example_inputs(name, length)
    with torch.inference_mode():
        model = stored_model(load_checkpoint(checkpoint).model)
        wanted = getattr(model, name)(*(torch.from_numpy(array) for array in inputs))
    assert_near(wanted, session.run(name, inputs))


@slow
def test_the_pack_passes(bundle: Artifact, session: Session) -> None:
    report = check_parity(session, bundle)
    assert report.error_ratio <= 1
    if bundle.manifest.summary["precision"] == "float32":
        assert min(row.min_cosine for row in report.programs.values()) > LEAST_COSINE


@slow
def test_pixels_are_float32_and_may_come_as_uint8(bundle: Artifact, session: Session) -> None:
    [image] = (program for program in bundle.manifest.programs if program.name == "encode_image")
    assert (image.inputs[0].dtype, image.inputs[0].bounds) == ("float32", (0, 255))
    [pixels] = example_inputs("encode_image")
    for a, b in zip(
        session.run("encode_image", [pixels]), session.run("encode_image", [pixels.astype(np.float32)]), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@slow
def test_an_interpreter_is_not_timed(session: Session) -> None:
    assert session.facts()["version"].startswith("MIL interpreter")
    with pytest.raises(DmedgeError, match="not a device: Core ML is not timed here"):
        session.time("encode_text", example_inputs("encode_text"), 3)


@slow
def test_the_integers_arrive(int8_checkpoint: Artifact, checkpoint: Artifact, bundle: Artifact) -> None:
    packages = {program.name: bundle.root / program.file for program in bundle.manifest.programs}
    model = load_checkpoint(int8_checkpoint).model
    if checkpoint is not int8_checkpoint:
        with pytest.raises(ExportError, match="its integers are not in the Core ML packages"):
            check_integers(model, packages)
        return
    coverage = measure_coverage(bundle, "coreml")
    assert coverage is not None and coverage.share_carried_out == 1 and coverage.modules_planned > 20
    check_integers(model, packages)
    model.get_buffer("text_projection.scale")[3] *= 1.01
    with pytest.raises(ExportError, match="text_projection: its integers are not in the Core ML packages"):
        check_integers(model, packages)


@slow
def test_a_program_is_all_that_its_package_holds(bundle: Artifact) -> None:
    manifest = bundle.manifest
    sizes = {name: manifest.files[name].size_bytes for name in manifest.files if name.startswith("programs/")}
    assert program_bytes(bundle) == program_bytes(bundle, "coreml") == sum(sizes.values())
    for program in manifest.programs:
        names = {Path(name).name for name in manifest.program_files(program)}
        assert names == {"Manifest.json", "model.mlmodel", "weight.bin"}
    assert load_artifact(bundle.root).digest == bundle.digest
    readme = (bundle.root / "README.md").read_text(encoding="utf-8")
    assert "import CoreML" in readme and "programs/\\(name).mlpackage" in readme and "ExecuTorch" not in readme


@slow
def test_the_command_gives_the_same_bytes_and_no_foreign_words(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    """In another process than this one, where names that coremltools counts have been used up."""
    model = random_model(replace(CONFIG, text="bag", fusion="none"))
    with new_artifact(tmp_path / "small") as draft:
        save_checkpoint(draft.path, replace(load_checkpoint(tiny_checkpoint), model=DualEncoder(model.config).eval()))
        programs = checkpoint_programs(model.config)
        parent = draft.finish(kind="checkpoint", stage="test", config={}, programs=programs)
    options = ["--target", "ios", "--runtime", "coreml", "--out", str(tmp_path / "bundle")]
    command = [sys.executable, "-m", "dmedge", "export", str(parent.root), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    here = load_checkpoint(parent).model
    fold_batch_norm_(here)
    export_coreml(here, programs_of(model.config), tmp_path / "here")
    names = list_files(tmp_path / "here")
    assert len(names) == 6
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "bundle" / name).read_bytes(), name
    for word in ("coremltools", "scikit", "Torch", "Warning", "MIL ", "libcoremlpython"):
        assert word not in done.stderr + done.stdout


@slow
def test_concept_shares_stay_float32_and_the_rest_is_float16(bundle: Artifact) -> None:
    """Shares and their squares are too small for float16 where hardware takes such numbers for zero."""
    for program in bundle.manifest.programs:
        operations = list(operations_of(read_package(bundle.root / program.file)))
        types = {kind: [o for o in operations if o.op_type == kind] for kind in ("softmax", "reduce_l2_norm", "linear")}
        shares = [o for o in types["softmax"] if o.x.shape[-1] == CONFIG.concepts]
        assert shares and types["reduce_l2_norm"]
        for operation in (*shares, *types["reduce_l2_norm"]):
            assert operation.outputs[0].dtype.__name__ == "fp32"
        votes = [o for o in types["linear"] if o.weight.shape[-1] == CONFIG.concepts]
        for operation in types["linear"]:
            assert operation.outputs[0].dtype.__name__ == ("fp32" if operation in votes else "fp16")


_VIT = replace(CONFIG, image="vit", image_width=16, image_layers=1, positions="rotary")
SHAPES = {
    "vit, rotary, concatenation, answers": (replace(_VIT, fusion="concatenation", answers=3), PROGRAMS),
    "bag, product": (replace(CONFIG, text="bag", concepts=0, fusion="product"), PROGRAMS),
}


@slow
@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_of_model_compute_what_torch_computes(name: str, tmp_path: Path) -> None:
    config, programs = SHAPES[name]
    assert_computes(random_model(config), tmp_path, programs)


@slow
def test_int4_weights_arrive_in_groups(tmp_path: Path) -> None:
    model = tiny_model()
    fold_batch_norm_(model)
    linears = {n: m for n, m in model.text.named_modules(prefix="text") if isinstance(m, nn.Linear)}
    for name, linear in linears.items():
        stored = Int4Linear(linear.in_features, linear.out_features, has_bias=linear.bias is not None)
        stored.codes, stored.scale = round_groups(linear.weight)
        stored.weight, stored.bias = pack_nibbles(stored.codes), linear.bias
        replace_module_(model, name, stored)
    assert len(linears) == 6  # four of attention, two of feed-forward
    assert_computes(model, tmp_path, ("encode_text",))
    content = (tmp_path / "programs/encode_text.mlpackage/Data/com.apple.CoreML/weights/weight.bin").read_bytes()
    signed = model.get_buffer("text.blocks.0.feed_forward.up.weight") ^ 0x88  # without the offset of 8
    assert signed.numpy().tobytes() in content


@slow
def test_a_package_that_computes_something_else_is_noticed(checkpoint: Artifact, bundle: Artifact) -> None:
    packages = {program.name: bundle.root / program.file for program in bundle.manifest.programs}
    model = stored_model(load_checkpoint(checkpoint).model)
    assert check_arithmetic(model, bundle.manifest.programs, packages) < ERROR
    model.text_projection.bias[0] += 1  # type: ignore[index, operator]
    with pytest.raises(ExportError, match="differs by .* from torch with the same weights"):
        check_arithmetic(model, bundle.manifest.programs, packages)


@slow
@pytest.mark.parametrize("damage", ["model.mlmodel", "weight.bin", "Manifest.json"])
def test_a_damaged_package_is_an_error_that_names_it(damage: str, bundle: Artifact, tmp_path: Path) -> None:
    package = tmp_path / "encode_text.mlpackage"
    shutil.copytree(bundle.root / "programs/encode_text.mlpackage", package)
    [path] = package.rglob(damage)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(DmedgeError, match=r"(?s)encode_text\.mlpackage.*run dmedge export"):
        MilProgram(package)


@slow
def test_an_unknown_operation_is_named(bundle: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: function for name, function in mil_ops.OPERATIONS.items() if name != "gelu"}
    monkeypatch.setattr("dmedge.runtime.mil_program.OPERATIONS", known)
    with pytest.raises(DmedgeError, match="holds the MIL operation 'gelu'; expected one of add, "):
        MilProgram(bundle.root / "programs/encode_text.mlpackage")


def test_missing_coremltools_names_its_command(
    tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(DmedgeError, match=r"pip install 'dmedge\[coreml\]'"):
        export_bundle(tiny_checkpoint, ExportConfig(target="ios", runtimes=("coreml",)), tmp_path / "out")
    assert not list(tmp_path.iterdir())
