"""Training with everything rounded: it computes what the integers compute, and lets gradients through."""

from copy import deepcopy
from pathlib import Path
from unittest import mock

import pytest
import torch

from dmedge.artifact import Artifact
from dmedge.compress.calibration import draw_calibration
from dmedge.compress.config import CompressConfig, LearnConfig
from dmedge.compress.int8 import quantize_checkpoint
from dmedge.compress.observe import observe_ranges
from dmedge.compress.plan import plan_precision
from dmedge.compress.qat import RoundedPoint, RoundedRows, insert_rounding_, remove_rounding_
from dmedge.compress.quantize import quantize_
from dmedge.compress.recipe import compress_artifact
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.model.nibbles import GROUP, unpack_nibbles
from dmedge.model.quantized import Int4Linear, Range, Scheme, quantize_rows
from tests.tiny_bundles import tiny_checkpoint as tiny_checkpoint
from tests.tiny_bundles import two_layer_model
from tests.tiny_training import tiny_train, tiny_world


def pixels(count: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def planned(*, int4: bool = False) -> tuple[DualEncoder, dict[str, Scheme], dict[str, Range]]:
    model = two_layer_model()
    fold_batch_norm_(model)
    plan = plan_precision(model, int4=int4)
    points = [name for name in plan if name.endswith("_point")]
    return model, plan, dict(observe_ranges(model, points, [pixels()]))


def test_rounded_weights_are_the_integers_read_back_and_pass_gradients() -> None:
    weight = torch.randn(5, 7, requires_grad=True)
    rounded = RoundedRows()(weight)
    codes, scale = quantize_rows(weight.detach())
    torch.testing.assert_close(rounded, codes * scale[:, None])
    (gradient,) = torch.autograd.grad(rounded.sum(), weight)
    assert torch.equal(gradient, torch.ones_like(weight))


def test_a_point_rounds_within_its_range_and_stops_gradients_beyond_it() -> None:
    x = torch.tensor([-9.0, -0.26, 0.0, 0.24, 9.0], requires_grad=True)
    out = RoundedPoint(Range(0.5, 0))(x * 1)
    assert out.tolist() == [-9.0, -0.5, 0.0, 0.0, 9.0]
    far = torch.tensor([-1000.0, 1000.0], requires_grad=True)
    clamped = RoundedPoint(Range(0.5, 0))(far)
    assert clamped.tolist() == [-64.0, 63.5]
    assert torch.autograd.grad(clamped.sum(), far)[0].tolist() == [0.0, 0.0]


def test_the_rounded_tower_computes_what_the_integer_tower_computes() -> None:
    model, plan, ranges = planned()
    integer, rounded = deepcopy(model), deepcopy(model)
    quantize_(integer, plan, ranges)
    insert_rounding_(rounded, plan, ranges)
    whole, given = model.encode_image(pixels())[0], pixels()
    torch.testing.assert_close(rounded.encode_image(given)[0], integer.encode_image(given)[0], atol=2e-2, rtol=0)
    gap = (rounded.encode_image(given)[1] - integer.encode_image(given)[1]).norm()
    assert gap < 0.2 * (model.encode_image(given)[1] - integer.encode_image(given)[1]).norm()
    assert whole.shape == (8, 12)


def test_weights_in_groups_are_the_codes_read_back() -> None:
    model, plan, ranges = planned(int4=True)
    rounded, integer = deepcopy(model), deepcopy(model)
    insert_rounding_(rounded, plan, ranges)
    quantize_(integer, plan, ranges)
    names = [name for name, scheme in plan.items() if scheme == "int4_groups"]
    assert names
    for name in names:
        linear, read = rounded.get_submodule(name), integer.get_submodule(name)
        assert isinstance(read, Int4Linear)
        codes = unpack_nibbles(read.weight) * read.scale.repeat_interleave(GROUP, 1)
        assert torch.equal(
            linear.get_parameter("parametrizations.weight.original"), model.get_parameter(f"{name}.weight")
        )
        torch.testing.assert_close(linear.weight, codes)


@pytest.mark.parametrize("int4", [False, True])
def test_removing_gives_back_the_very_weights(int4: bool) -> None:
    model, plan, ranges = planned(int4=int4)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    insert_rounding_(model, plan, ranges)
    assert model.state_dict().keys() != state.keys()
    remove_rounding_(model, plan, ranges)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_stage_trains_and_then_rounds(tmp_path: Path) -> None:
    parent = tiny_train(tmp_path / "run")
    learn = LearnConfig(steps=4, fusion_steps=2, batch_size=6, texts_per_image=2)
    config = CompressConfig(int8=True, qat=True, learn=learn, ledger_texts=0, calibration_items=8)
    with tiny_world():
        made = compress_artifact(parent, config, tmp_path / "qat")
    checkpoint = load_checkpoint(made)
    assert checkpoint.quantization == plan_of(parent)
    assert [line["step"] for line in made.manifest.summary["ledger"]] == ["start", "int8, trained"]  # type: ignore[attr-defined]


def test_int4_that_was_trained_for_is_rounded_to_nearest(tmp_path: Path) -> None:
    """The student has learnt with the nearest codes, so those of GPTQ would be others than it knows."""
    parent = tiny_train(tmp_path / "run")
    learn = LearnConfig(steps=4, fusion_steps=2, batch_size=6, texts_per_image=2)
    config = CompressConfig(int4=True, qat=True, learn=learn, ledger_texts=0, calibration_items=8)
    with tiny_world(), mock.patch("dmedge.compress.int8.fit_groups") as fit:
        made = compress_artifact(parent, config, tmp_path / "qat")
    fit.assert_not_called()
    assert "int4_groups" in set(load_checkpoint(made).quantization.values())  # type: ignore[union-attr]
    assert [line["step"] for line in made.manifest.summary["ledger"]] == ["start", "int4, trained"]  # type: ignore[attr-defined]


def plan_of(parent: Artifact) -> dict[str, Scheme]:
    config = CompressConfig(int8=True, calibration_items=8, ledger_texts=0)
    checkpoint = load_checkpoint(parent)
    return dict(quantize_checkpoint(checkpoint, config, draw_calibration(config, checkpoint.preprocess)).plan)


def test_without_int8_there_is_nothing_to_train_for() -> None:
    with pytest.raises(ValueError, match="qat without int8; expected both"):
        CompressConfig(qat=True, prune=0.5)
