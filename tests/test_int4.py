"""4-bit weights: packed without loss, fitted no worse than rounded, and the same integers in every runtime."""

import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from torch import Tensor, nn

from dmedge.artifact import Artifact
from dmedge.cli.main import cli
from dmedge.compress.calibration import CalibrationSet, draw_calibration
from dmedge.compress.config import CompressConfig, artifact_name
from dmedge.compress.gptq import fit_groups, run_unpadded
from dmedge.compress.int8 import fit_int4, quantize_checkpoint
from dmedge.compress.plan import plan_precision
from dmedge.compress.quantize import quantize_, sqnr_db
from dmedge.compress.recipe import compress_artifact
from dmedge.environment import child_environment
from dmedge.errors import ConfigError, DmedgeError, ExportError
from dmedge.evidence.coverage import measure_coverage
from dmedge.evidence.parity import output_error
from dmedge.export import onnx_ops
from dmedge.export.bundle import export_bundle
from dmedge.export.engines import ENGINES, EngineName
from dmedge.export.executorch import check_integers as check_pte
from dmedge.export.onnx import check_integers as check_onnx
from dmedge.export.support import check_support
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.model.nibbles import (
    CODE_MAX,
    CODE_MIN,
    GROUP,
    codes_on_grid,
    pack_nibbles,
    round_groups,
    short_scale,
    unpack_nibbles,
)
from dmedge.model.quantized import Int4Linear, quantized_shape
from dmedge.runtime.session import Session, open_session
from tests.tiny_bundles import CONFIG, INT4, example_inputs, int4_checkpoint, quick_export, tiny_checkpoint

__all__ = ["int4_checkpoint", "tiny_checkpoint"]  # fixtures

# Of the greatest value. Runtimes round activations near a tie the other way; onnxruntime has a range per 32 inputs.
ERROR = {"android": 0.05, "linux-x86_64": 0.15}
BUNDLES = ["linux-x86_64", pytest.param("android", marks=pytest.mark.slow)]
LEAST_SQNR_DB = 17.0  # of normal weights; 15 steps over about 2 x 2.2 standard deviations: 20 log(4.4 / 15 / sqrt(12))


@pytest.fixture(scope="module", params=BUNDLES)
def bundle(request: pytest.FixtureRequest, int4_checkpoint: Artifact) -> Artifact:
    return export_bundle(int4_checkpoint, quick_export(request.param), int4_checkpoint.sibling(request.param))


@pytest.fixture(scope="module")
def session(bundle: Artifact) -> Iterator[Session]:
    with open_session(bundle) as opened:
        yield opened


@pytest.fixture(scope="module")
def float_checkpoint(tiny_checkpoint: Artifact) -> Checkpoint:
    loaded = load_checkpoint(tiny_checkpoint)
    fold_batch_norm_(loaded.model)
    return loaded


@pytest.fixture(scope="module")
def calibration(float_checkpoint: Checkpoint) -> CalibrationSet:
    return draw_calibration(INT4, float_checkpoint.preprocess)


def _linears(model: nn.Module) -> dict[str, Int4Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Int4Linear)}


def test_every_code_survives_packing() -> None:
    codes = torch.cartesian_prod(*[torch.arange(CODE_MIN, CODE_MAX + 1, dtype=torch.int8)] * 2)
    packed = pack_nibbles(codes)
    assert packed.dtype == torch.uint8 and packed.shape == (256, 1)
    assert len(set(packed.flatten().tolist())) == 256
    assert torch.equal(unpack_nibbles(packed), codes)


def test_even_columns_stand_in_the_lower_half() -> None:
    assert pack_nibbles(torch.tensor([[-8, 7, 1, -1]], dtype=torch.int8)).tolist() == [[0xF0, 0x79]]


@pytest.mark.parametrize(
    "codes, message",
    [
        ([[1, 2, 3]], r"got codes \[1, 3\]; expected \[rows, even width\]"),
        ([[8, 0]], "run from 0 to 8; expected -8..7"),
    ],
    ids=["odd", "large"],
)
def test_what_does_not_fit_is_refused(codes: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack_nibbles(torch.tensor(codes, dtype=torch.int8))


def test_groups_round_to_the_nearest_code_of_a_scale_that_bfloat16_holds() -> None:
    torch.manual_seed(0)
    weight = torch.randn(24, 3 * GROUP)
    weight[0, :GROUP] = 0
    codes, scale = round_groups(weight)
    assert torch.equal(short_scale(scale), scale) and scale.min() > 0
    inside = (codes > CODE_MIN) & (codes < CODE_MAX)
    wide = scale.repeat_interleave(GROUP, 1)
    assert ((codes * wide - weight).abs() <= wide / 2 + 1e-6)[inside].all()
    assert sqnr_db(weight, codes * wide) > LEAST_SQNR_DB


def test_a_linear_computes_what_its_codes_say() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(2 * GROUP, 5)
    model = nn.ModuleDict({"only": linear})
    quantized = quantized_shape(linear, "int4_groups")
    assert isinstance(quantized, Int4Linear)
    codes, scale = round_groups(linear.weight.detach())
    quantized.load_state_dict({"weight": pack_nibbles(codes), "scale": scale, "bias": linear.bias.detach()})
    x = torch.arange(-128, 128.0).repeat(4)[: 2 * GROUP * 4].reshape(4, -1)  # whole numbers, in a range of 255 steps
    x[:, :2] = torch.tensor([-128.0, 127.0])
    want = x @ (codes * scale.repeat_interleave(GROUP, 1)).T + linear.bias
    torch.testing.assert_close(quantized(x), want.detach())
    assert torch.equal(quantized.codes, codes) and "only" in model


def test_the_plan_gives_int4_to_linears_whose_inputs_divide() -> None:
    model = DualEncoder(replace(CONFIG, text_width=48))
    fold_batch_norm_(model)
    eight, four = plan_precision(model), plan_precision(model, ("head",), int4=True)
    assert set(four.values()) == {"int8_rows", "int8_static", "int8_dynamic", "int4_groups", "float32"}
    for name, scheme in four.items():
        module = model.get_submodule(name)
        if name.startswith("head"):
            assert scheme == "float32"
        elif isinstance(module, nn.Linear):
            assert scheme == ("int8_dynamic" if module.in_features % GROUP else "int4_groups")
        else:
            assert scheme == eight[name]


def test_what_is_kept_in_int8_is_int8_and_float32_goes_before() -> None:
    model = DualEncoder(CONFIG)
    fold_batch_norm_(model)
    plan = plan_precision(model, ("text.blocks.0.attention",), int4=True, keep_int8=("text", "fusion"))
    whole = plan_precision(model, int4=True)
    for name, scheme in plan.items():
        if name.startswith("text.blocks.0.attention."):
            assert scheme == "float32"
        elif name.startswith(("text.", "fusion.")) and whole[name] == "int4_groups":
            assert scheme == "int8_dynamic"
        else:
            assert scheme == whole[name]
    with pytest.raises(ConfigError, match="keep_int8: no module 'txt' with weights; did you mean 'text'"):
        plan_precision(model, int4=True, keep_int8=("txt",))


def test_a_linear_that_does_not_divide_falls_back_and_runs() -> None:
    model = DualEncoder(replace(CONFIG, text_width=48)).eval()
    fold_batch_norm_(model)
    plan = plan_precision(model, ("image",), int4=True)
    quantize_(model, plan, {})
    assert _linears(model).keys() == {name for name, scheme in plan.items() if scheme == "int4_groups"}
    ids = torch.ones(1, 4, dtype=torch.int32)
    assert model.encode_text(ids, torch.ones_like(ids))[0].isfinite().all()


def test_gptq_changes_outputs_less_than_rounding_to_the_same_grid(
    float_checkpoint: Checkpoint, calibration: CalibrationSet
) -> None:
    model, tokenizer = float_checkpoint.model, float_checkpoint.tokenizer
    names = [name for name, scheme in plan_precision(model, int4=True).items() if scheme == "int4_groups"]
    seen = _inputs_of(model, names, float_checkpoint, calibration)
    fitted = fit_groups(model, names, tokenizer, calibration)
    better = 0
    for name, (codes, scale) in fitted.items():
        weight, wide = model.get_submodule(name).get_parameter("weight"), scale.repeat_interleave(GROUP, 1)
        assert codes.dtype == torch.int8 and torch.equal(short_scale(scale), scale)
        rounded = codes_on_grid(weight, scale)
        ours, nearest = (((seen[name] @ (c * wide - weight).T) ** 2).sum() for c in (codes, rounded))
        assert ours <= nearest * 1.02, name  # the damping of the Hessian may cost a little
        better += int(ours < nearest)
        assert sqnr_db(weight, codes * wide) > 8, name
    assert better > 0.9 * len(names)


def _inputs_of(
    model: DualEncoder, names: Sequence[str], checkpoint: Checkpoint, calibration: CalibrationSet
) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen[name].append(inputs[0].flatten(0, -2))
        )
        for name in names
    ]
    run_unpadded(model, checkpoint.tokenizer, calibration)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in seen.items()}


def test_a_fit_is_the_same_in_every_plan(float_checkpoint: Checkpoint) -> None:
    """So that a search fits once."""
    config = CompressConfig(int4=True, calibration_items=8, keep=("image", "head"))
    calibration = draw_calibration(config, float_checkpoint.preprocess)
    fits = fit_int4(float_checkpoint, config, calibration)
    anew, before = (
        quantize_checkpoint(float_checkpoint, config, calibration, fits=one).checkpoint.model.state_dict()
        for one in (None, fits)
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in anew.items())
    assert fit_int4(float_checkpoint, replace(config, smooth=True), calibration) is None


def test_an_input_that_calibration_never_moves_keeps_its_weights(
    float_checkpoint: Checkpoint, calibration: CalibrationSet
) -> None:
    model = deepcopy(float_checkpoint.model)
    model.get_submodule("text.blocks.0.attention_norm").get_parameter("weight")[3] = 0
    model.get_submodule("text.blocks.0.attention_norm").get_parameter("bias")[3] = 0
    name = "text.blocks.0.attention.query"
    (codes, scale) = fit_groups(model, [name], float_checkpoint.tokenizer, calibration)[name]
    assert torch.equal(codes[:, 3], codes_on_grid(model.get_submodule(name).get_parameter("weight"), scale)[:, 3])
    assert codes[:, 3].any()


def test_the_checkpoint_holds_two_codes_in_a_byte(int4_checkpoint: Artifact) -> None:
    stored = load_file(int4_checkpoint.file("model.safetensors"))
    loaded = load_checkpoint(int4_checkpoint)
    linears = _linears(loaded.model)
    assert linears and not [name for name in stored if name.endswith("codes")]
    for name, linear in linears.items():
        packed = stored[f"{name}.weight"]
        assert packed.dtype == np.uint8 and packed.nbytes * 2 == linear.codes.numel()
        assert torch.equal(pack_nibbles(linear.codes), torch.from_numpy(packed))


def test_the_same_settings_give_the_same_bytes(
    tiny_checkpoint: Artifact, int4_checkpoint: Artifact, tmp_path: Path
) -> None:
    again = compress_artifact(tiny_checkpoint, INT4, tmp_path / "again")
    assert again.digest == int4_checkpoint.digest


def test_costs_count_packed_weights_once(float_checkpoint: Checkpoint, int4_checkpoint: Artifact) -> None:
    before, after = count_costs(float_checkpoint.model), count_costs(load_checkpoint(int4_checkpoint).model)
    assert (after.parameters, after.macs) == (before.parameters, before.macs)
    assert 0 < after.parameters_int4 < after.parameters_int8 < after.parameters
    assert after.parameter_share_int8 > 0.9 and after.mac_share_int8 > 0.9


def test_int4_stands_for_int8_too() -> None:
    assert CompressConfig(int4=True) == CompressConfig(int8=True, int4=True)
    assert artifact_name({"int8": True, "int4": True}) == "int4"
    with pytest.raises(ValueError, match="keep_int8 without int4; expected both"):
        CompressConfig(int8=True, keep_int8=("text",))


def test_the_command_answers_on_stdout_only(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    options = ["--int4", "--calibration", "8", "--out", str(tmp_path / "out"), "--keep", "text"]
    result = CliRunner().invoke(cli, ["compress", str(tiny_checkpoint.root), *options])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path / "out")) and "in int4" in result.stdout
    assert "gptq.py" not in result.output and logging.root.manager.disable == 0


def test_without_neural_compressor_the_error_names_the_extra(
    tiny_checkpoint: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "neural_compressor.torch.algorithms.weight_only.gptq", None)
    with pytest.raises(DmedgeError, match=r"run pip install 'dmedge\[compress\]'"):
        compress_artifact(tiny_checkpoint, INT4, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_library_leaves_nothing_in_the_directory_of_the_user(tmp_path: Path) -> None:
    code = (
        "from dmedge.compress.neural_compressor import require_neural_compressor as need; "
        "need('torch.algorithms.weight_only.gptq'); need('torch.quantization')"
    )
    command = [sys.executable, "-P", "-c", code]
    subprocess.run(command, check=True, cwd=tmp_path, env=child_environment(), capture_output=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_says_what_it_makes_of_int4(engine: EngineName, int4_checkpoint: Artifact) -> None:
    loaded = load_checkpoint(int4_checkpoint)
    found = check_support(loaded.model, loaded.quantization or {}, engine)["int4_groups linear"]
    assert found.startswith(
        {
            "xnnpack": "exact: XNNPACK",
            "onnxruntime": "substituted: MatMulNBits",
            "onnxruntime-web": "substituted: MatMulNBits",
            "coreml": "substituted: the same int4 codes",
        }[engine]
    )


@pytest.mark.parametrize("length", [1, 7, CONFIG.context_length])
@pytest.mark.parametrize("name", ["encode_image", "encode_text", "fuse"])
def test_programs_equal_torch(
    name: str, length: int, bundle: Artifact, session: Session, int4_checkpoint: Artifact
) -> None:
    np.random.seed(length)
    inputs = example_inputs(name, length)
    with torch.inference_mode():
        wanted = getattr(load_checkpoint(int4_checkpoint).model, name)(*(torch.from_numpy(array) for array in inputs))
    for want, got in zip(wanted, session.run(name, inputs), strict=True):
        if want.dim() > 1:  # a lone logit may be near zero
            assert output_error(want.numpy(), got)[0] < ERROR[str(bundle.manifest.target)]


def test_the_integers_arrive_and_are_counted(bundle: Artifact, int4_checkpoint: Artifact) -> None:
    coverage = measure_coverage(bundle, bundle.manifest.programs[0].runtime)
    assert coverage is not None and coverage.share_carried_out == 1 and not coverage.missing
    content = b"".join(bundle.file(name).read_bytes() for name in {p.file for p in bundle.manifest.programs})
    for name, linear in _linears(load_checkpoint(int4_checkpoint).model).items():
        assert linear.weight.numpy().tobytes() in content, name
        scale = linear.scale
        if bundle.manifest.target == "android":
            scale = scale.to(torch.bfloat16).view(torch.int16)
        assert scale.numpy().tobytes() in content, name
    assert bundle.manifest.summary["precision"] == "int8, and linear layers in int4"
    assert 0 < bundle.manifest.summary["parameter_share_int4"] < 1  # type: ignore[operator]


def test_a_changed_integer_is_noticed(bundle: Artifact, int4_checkpoint: Artifact) -> None:
    model = load_checkpoint(int4_checkpoint).model
    paths = sorted({bundle.file(program.file) for program in bundle.manifest.programs})

    def check() -> None:
        if bundle.manifest.target == "android":
            check_pte(model, paths[0])
        else:
            check_onnx(onnx_ops.onnx_model(model), paths)

    check()
    model.get_buffer("text_projection.weight")[3, 4] ^= 1
    with pytest.raises(ExportError, match="text_projection: its integers are not in the"):
        check()


def test_onnx_has_one_operation_for_a_linear(bundle: Artifact, int4_checkpoint: Artifact) -> None:
    if bundle.manifest.target == "android":
        lowering: Any = bundle.manifest.summary["lowering"]
        assert not [
            name for counts in lowering["executorch"]["outside"].values() for name in counts if "linear" in name
        ]
        return
    onnx = pytest.importorskip("onnx")
    nodes = [node for program in bundle.manifest.programs for node in onnx.load(bundle.file(program.file)).graph.node]
    assert sum(node.op_type == "MatMulNBits" for node in nodes) >= len(_linears(load_checkpoint(int4_checkpoint).model))
    assert not [node for node in nodes if node.op_type == "MatMulInteger"]
