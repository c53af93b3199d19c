"""What the manifest of a bundle says of its programs, and what export refuses to write."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from dmedge.artifact import Artifact, Program, load_artifact, new_artifact, program_bytes
from dmedge.cli.main import cli
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.errors import ConfigError, DmedgeError, ExportError
from dmedge.export import bundle as bundle_module
from dmedge.export import gates
from dmedge.export.bundle import ExportConfig, export_bundle
from dmedge.export.column_pairs import pair_columns
from dmedge.export.counts import Counts, count_onnx
from dmedge.export.engines import ENGINES
from dmedge.export.onnx import PREFIX, export_onnx
from dmedge.export.plan import planned_tensors
from dmedge.export.programs import Lowering, bundle_programs
from dmedge.export.targets import TARGETS
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, load_checkpoint, save_checkpoint
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.runtime.onnx_backend import OnnxBackend
from tests.tiny_bundles import (
    CONFIG,
    example_inputs,
    int8_checkpoint,
    onnx_bundle,
    onnx_int8_bundle,
    pte_bundle,
    tiny_checkpoint,
    tiny_model,
)

__all__ = ["int8_checkpoint", "onnx_bundle", "onnx_int8_bundle", "pte_bundle", "tiny_checkpoint"]  # fixtures


def test_the_manifest_tells_a_port_all_it_needs(onnx_int8_bundle: Artifact) -> None:
    summary: Any = onnx_int8_bundle.manifest.summary
    assert summary["embed_dim"] == CONFIG.embed_dim and summary["context_length"] == CONFIG.context_length
    steps = summary["preprocessing"]
    assert (steps["size"], steps["filter"], steps["antialias"], steps["colour_order"]) == (16, "bilinear", True, "RGB")
    inside = steps["inside_the_program"]
    pixel = (255 * inside["rescale"] - inside["mean"][0]) / inside["std"][0]
    assert pixel == pytest.approx(1.0)  # as `as_floats` does
    assert summary["minimum_versions"].keys() == {"onnxruntime"}
    assert summary["size"]["onnxruntime"]["program_bytes"] == program_bytes(onnx_int8_bundle)


def test_what_was_lowered_counts_as_much_as_the_model(
    onnx_int8_bundle: Artifact, int8_checkpoint: Artifact, onnx_bundle: Artifact, tiny_checkpoint: Artifact
) -> None:
    """Torch counts by running the model as it is exported, export by reading the programs."""
    for bundle, checkpoint in ((onnx_int8_bundle, int8_checkpoint), (onnx_bundle, tiny_checkpoint)):
        model = load_checkpoint(checkpoint).model
        fold_batch_norm_(model)
        costs = count_costs(pair_columns(model, TARGETS["linux-x86_64"].column_pairs["onnxruntime"]))
        towers: Any = bundle.manifest.summary["towers"]
        rows = [tower["coverage"]["onnxruntime"] for tower in towers.values()]
        assert sum(row["macs"] for row in rows) == costs.macs
        assert sum(row["macs_int8"] for row in rows) == costs.macs_int8
        assert all(row["macs_delegated"] == row["macs"] for row in rows)


def read_by(model: DualEncoder, program: str) -> list[Tensor]:
    """The parameters that a gradient of the outputs reaches."""
    model.requires_grad_(True).zero_grad(set_to_none=True)
    outputs = getattr(model, program)(*map(torch.from_numpy, example_inputs(program)))
    sum(output.sum() for output in outputs).backward()
    return [parameter for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.slow
def test_a_float_program_in_onnx_counts_every_parameter_that_it_holds(tmp_path: Path) -> None:
    """The exporter turns weights around, and of equal tensors keeps one: no two are equal here."""
    model = tiny_model()
    for parameter in (parameter for parameter in model.parameters() if parameter.dim() == 1):
        torch.nn.init.normal_(parameter, mean=1, std=0.1)
    fold_batch_norm_(model)
    programs = bundle_programs(checkpoint_programs(CONFIG), ENGINES["onnxruntime"])[::2]
    assert [program.name for program in programs] == ["encode_image", "fuse"]
    counts = export_onnx(model, programs, tmp_path).counts
    for program in programs:
        held = [parameter.numel() for parameter in read_by(model, program.name) if parameter.dim()]
        assert counts[program.name].parameters == sum(held)  # the logit scale has become a constant
        assert counts[program.name].parameters_delegated == sum(held)


@pytest.mark.slow
def test_a_float_program_in_executorch_counts_every_parameter_that_it_holds(
    pte_bundle: Artifact, tiny_checkpoint: Artifact
) -> None:
    model = load_checkpoint(tiny_checkpoint).model
    fold_batch_norm_(model)
    towers: Any = pte_bundle.manifest.summary["towers"]
    for tower in towers.values():
        held = sum(parameter.numel() for parameter in read_by(model, tower["program"]))
        assert tower["coverage"]["executorch"]["parameters"] == held


def test_towers_name_the_precision_of_their_weights(onnx_int8_bundle: Artifact, onnx_bundle: Artifact) -> None:
    towers: Any = onnx_int8_bundle.manifest.summary["towers"]
    assert towers["text"]["precision"]["int8_rows"] == CONFIG.vocab_size * CONFIG.text_width
    assert {"int8_static", "int8_dynamic", "float32"} == towers["image"]["precision"].keys()
    floats: Any = onnx_bundle.manifest.summary["towers"]
    assert all(tower["precision"].keys() == {"float32"} for tower in floats.values())
    assert all(tower["coverage"]["onnxruntime"]["macs_int8"] == 0 for tower in floats.values())


def quick(**settings: Any) -> ExportConfig:
    return ExportConfig(target="linux-x86_64", runtimes=("onnxruntime",), **settings)


def test_too_little_int8_is_no_bundle(
    tiny_checkpoint: Artifact, onnx_bundle: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_programs(model: object, programs: tuple[Program, ...], root: Path) -> Lowering:
        shutil.copytree(onnx_bundle.root / "programs", root / "programs")
        counts = {p.name: count_onnx(root / p.file, p, PREFIX, CONFIG.context_length) for p in programs}
        return Lowering(delegated={}, facts={}, counts=counts)

    monkeypatch.setitem(bundle_module.EXPORTERS, "onnxruntime", copy_programs)
    command = ["export", str(tiny_checkpoint.root), "--target", "linux-x86_64", "--runtime", "onnxruntime"]
    done = CliRunner().invoke(cli, [*command, "--min-int8", "0.9", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "encode_image for onnxruntime: 0.0% of its multiply-accumulates are int8; expected 90.0%" in done.stderr
    assert not list(tmp_path.iterdir())


def test_shares_are_judged_program_by_program(onnx_int8_bundle: Artifact) -> None:
    counts = {"encode_image": Counts(100, 95, 100, 10, 9, 10), "encode_text": Counts(100, 80, 70, 10, 9, 3)}
    gates.check_shares(counts, "executorch", 0.7, 0.8)
    with pytest.raises(ExportError, match="encode_text for executorch: 70.0% .* are delegated; expected 71.0%"):
        gates.check_shares(counts, "executorch", 0.71, None)
    with pytest.raises(ExportError, match="encode_text for executorch: 80.0% .* are int8"):
        gates.check_shares(counts, "executorch", None, 0.81)
    with pytest.raises(ExportError, match="nobody counted what is delegated"):
        gates.check_shares({}, "executorch", 0.1, None)
    with pytest.raises(ConfigError, match="min_int8 = 1.5; expected a share"):
        quick(min_int8=1.5)


def test_a_size_off_the_plan_is_an_error(onnx_int8_bundle: Artifact, int8_checkpoint: Artifact, tmp_path: Path) -> None:
    model = load_checkpoint(int8_checkpoint).model
    planned, programs = planned_tensors(model), onnx_int8_bundle.manifest.programs
    assert gates.check_size(onnx_int8_bundle.root, programs, planned, ENGINES["onnxruntime"])["planned_bytes"] > 0
    doubled = {
        name: {key: replace(tensor, stored_bytes=2 * tensor.stored_bytes) for key, tensor in tensors.items()}
        for name, tensors in planned.items()
    }
    wanted = sum(tensor.size_bytes() for tensors in doubled.values() for tensor in tensors.values())
    root = tmp_path / "bundle"
    (root / "programs").mkdir(parents=True)
    for bytes_each, is_fine in ((wanted / 3, True), (wanted / 3 * 0.85, False), (wanted * 0.8, False)):
        for program in programs:
            (root / program.file).write_bytes(bytes(int(bytes_each)))
        if is_fine:
            gates.check_size(root, programs, doubled, ENGINES["onnxruntime"])
        else:
            with pytest.raises(ExportError, match=rf"expected {wanted:,} of tensors by the plan, within 10%"):
                gates.check_size(root, programs, doubled, ENGINES["onnxruntime"])


def test_the_plan_of_the_shipped_checkpoint_sees_a_float_token_table() -> None:
    """The margin is narrower than what a forgotten table costs, in a model of the size that ships."""
    model = load_checkpoint(load_artifact("emoji")).model
    planned = planned_tensors(model)
    modules = sum(len({tensor.module for tensor in tensors.values()}) for tensors in planned.values())
    table = planned["encode_text"]["text.token.weight"].numbers
    int8_bytes = sum(t.numbers for tensors in planned.values() for t in tensors.values())
    assert 3 * table > gates.SIZE_MARGIN * int8_bytes + gates.GRAPH_BYTES_PER_MODULE * modules


def rewritten(parent: Artifact, out: Path, change: Callable[[Checkpoint], Checkpoint | None]) -> Artifact:
    checkpoint = load_checkpoint(parent)
    checkpoint = change(checkpoint) or checkpoint
    with new_artifact(out) as draft:
        save_checkpoint(draft.path, checkpoint)
        return draft.finish(kind="checkpoint", stage="test", config={})


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_weights_that_are_no_numbers_are_named(value: float, tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    def spoil(checkpoint: Checkpoint) -> None:
        with torch.no_grad():
            checkpoint.model.get_parameter("text.blocks.0.feed_forward.up.weight")[3, 4] = value

    parent = rewritten(tiny_checkpoint, tmp_path / "spoiled", spoil)
    with pytest.raises(ExportError, match=r"text.blocks.0.feed_forward.up.weight: 1 of 4096 weights are NaN or inf"):
        export_bundle(parent, quick(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["spoiled"]


def test_a_float_token_table_in_a_quantized_model_is_an_error(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    config = CompressConfig(int8=True, ledger_texts=0, calibration_items=8, keep=("text.token",))
    parent = compress_artifact(tiny_checkpoint, config, tmp_path / "kept")
    with pytest.raises(ExportError, match=r"text.token: the token table .* is float32 .*; expected int8_rows"):
        export_bundle(parent, quick(), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_slower_provider_is_an_error(onnx_bundle: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmedge.runtime.onnx_backend.PROVIDERS", ["XnnpackExecutionProvider", "CPUExecutionProvider"])
    backend = OnnxBackend(threads=1)
    with (
        pytest.warns(UserWarning, match="XnnpackExecutionProvider"),
        pytest.raises(DmedgeError, match=r"onnxruntime chose \['CPUExecutionProvider'\]; expected \['Xnnpack"),
    ):
        backend.load(onnx_bundle.root, onnx_bundle.manifest.programs)


def test_bundled_needs_executorch() -> None:
    with pytest.raises(ConfigError, match="bundled, but no program for executorch"):
        quick(bundled=True)
