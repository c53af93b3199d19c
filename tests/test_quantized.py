"""Integer modules round as they say, repeat exactly from disk, and never mix rows."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from dmedge.compress.observe import RangeObserver, affine_range, observe_ranges
from dmedge.compress.plan import conv_sites, plan_precision
from dmedge.compress.quantize import quantize_, sqnr_db
from dmedge.errors import ArtifactError
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_
from dmedge.model.quantized import (
    ActivationPoint,
    DynamicLinear,
    QuantConv2d,
    QuantEmbedding,
    Range,
    Scheme,
    quantize_rows,
    quantized_shape,
    rebuild_quantized_,
)
from tests.tiny_bundles import CONFIG, tiny_model


@pytest.fixture(scope="module")
def folded() -> DualEncoder:
    model = tiny_model()
    fold_batch_norm_(model)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def plan(folded: DualEncoder) -> dict[str, Scheme]:
    return plan_precision(folded)


@pytest.fixture(scope="module")
def quantized(folded: DualEncoder, plan: dict[str, Scheme]) -> DualEncoder:
    torch.manual_seed(1)
    model = deepcopy(folded)
    batches = [_pixels(16), _pixels(16)]
    quantize_(model, plan, observe_ranges(model, [name for name in plan if name.endswith("_point")], batches))
    return model.eval()


def _pixels(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, CONFIG.image_size, CONFIG.image_size, 3), dtype=torch.uint8)


def _ids(count: int, length: int = 7) -> torch.Tensor:
    return torch.randint(1, CONFIG.vocab_size, (count, length), dtype=torch.int32)


def test_rows_round_to_the_nearest_code() -> None:
    weight = torch.randn(6, 5)
    codes, scale = quantize_rows(weight)
    assert codes.dtype == torch.int8 and codes.abs().max() == 127
    assert ((codes * scale[:, None] - weight).abs() <= scale[:, None] / 2 + 1e-7).all()


def test_a_row_of_zeros_stays_zero() -> None:
    codes, scale = quantize_rows(torch.zeros(2, 3))
    assert not codes.any() and (scale > 0).all()


def test_embedding_is_its_rows() -> None:
    module = quantized_shape(nn.Embedding(5, 4), "int8_rows")
    assert isinstance(module, QuantEmbedding)
    codes, scale = quantize_rows(torch.randn(5, 4))
    module.weight, module.scale = codes, scale[:, None]
    torch.testing.assert_close(module(torch.tensor([[3, 0]]))[0], codes[[3, 0]] * scale[[3, 0], None])


def test_a_row_does_not_depend_on_its_neighbours(quantized: DualEncoder) -> None:
    linear: nn.Module = quantized.get_submodule("text_projection")
    assert isinstance(linear, DynamicLinear)
    x = torch.randn(4, CONFIG.text_width) * torch.tensor([1.0, 100.0, 0.01, 1.0])[:, None]
    together = linear(x)
    torch.testing.assert_close(together, torch.cat([linear(row[None]) for row in x]), rtol=1e-5, atol=1e-6)


def test_padding_changes_no_embedding(quantized: DualEncoder) -> None:
    ids = _ids(1)
    padded = torch.cat([ids, torch.zeros(1, 5, dtype=torch.int32)], dim=1)
    short = quantized.encode_text(ids, torch.ones_like(ids))[0]
    long = quantized.encode_text(padded, (padded != 0).to(torch.int32))[0]
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5)


def test_dynamic_linear_keeps_35_db() -> None:
    linear = nn.Linear(64, 48)
    module = quantized_shape(linear, "int8_dynamic")
    assert isinstance(module, DynamicLinear)
    module.weight, module.scale = quantize_rows(linear.weight.detach())
    module.bias = linear.bias.detach()
    x = torch.randn(32, 64)
    assert sqnr_db(linear(x).detach(), module(x)) > 35


@pytest.mark.parametrize("low, high", [(-1.0, 1.0), (0.0, 6.0), (-0.3, 2.0), (0.0, 0.0)])
def test_a_range_holds_zero_and_both_ends(low: float, high: float) -> None:
    point = ActivationPoint(*affine_range(low, high))
    x = torch.tensor([0.0, low, high])
    found = point(x)
    assert found[0] == 0
    assert (found - x).abs().max() <= point.scale / 2 + 1e-6
    torch.testing.assert_close(point(found), found, rtol=0, atol=0)


def test_the_best_range_clips_an_outlier() -> None:
    observer = RangeObserver()
    values = torch.rand(40, 16_384)
    values[0, 0] = 1.2
    for batch in values:
        observer(batch)
    best = observer.best_range()
    full = affine_range(observer.low, observer.high)
    assert best.scale < full.scale

    def error(range_: Range) -> float:
        return float((ActivationPoint(*range_)(values) - values).square().sum())

    assert error(best) <= error(full)


def test_the_bias_of_a_convolution_is_an_integer(quantized: DualEncoder) -> None:
    convolutions = [module for module in quantized.modules() if isinstance(module, QuantConv2d)]
    assert convolutions
    for module in convolutions:
        step = module.input_scale * module.scale
        torch.testing.assert_close(module.integer_bias() * step, module.bias, rtol=1e-6, atol=0)


def test_a_convolution_adds_integers(quantized: DualEncoder) -> None:
    module = quantized.get_submodule("image.blocks.0.second.conv")
    assert isinstance(module, QuantConv2d)
    codes = torch.randint(-128, 128, (2, module.weight.shape[1], 6, 6)).double()
    sums = nn.functional.conv2d(codes, module.weight.double(), module.integer_bias().double(), padding=1)
    found = module((codes * module.input_scale).float())
    step = (module.scale * module.input_scale)[:, None, None]
    assert torch.equal(torch.round(found / step), sums.float())


def test_a_convolution_knows_the_range_of_its_input(quantized: DualEncoder) -> None:
    for name, site in conv_sites(quantized).items():
        point = quantized.get_submodule(site.input_point)
        assert isinstance(point, ActivationPoint)
        assert quantized.get_buffer(f"{name}.input_scale") == point.scale


def test_a_state_dict_rebuilds_the_same_model(quantized: DualEncoder, plan: dict[str, Scheme]) -> None:
    again = DualEncoder(CONFIG)
    rebuild_quantized_(again, plan)
    again.load_state_dict(quantized.state_dict())
    again.eval()
    pixels, ids = _pixels(3), _ids(3)
    for found, want in zip(again.encode_image(pixels), quantized.encode_image(pixels), strict=True):
        assert torch.equal(found, want)
    mask = torch.ones_like(ids)
    for found, want in zip(again.encode_text(ids, mask), quantized.encode_text(ids, mask), strict=True):
        assert torch.equal(found, want)


def test_quantized_towers_keep_20_db(folded: DualEncoder, quantized: DualEncoder) -> None:
    pixels, ids = _pixels(16), _ids(16)
    assert sqnr_db(folded.image_features(pixels)[0], quantized.image_features(pixels)[0]) > 20
    mask = torch.ones_like(ids)
    assert sqnr_db(folded.text_features(ids, mask)[0], quantized.text_features(ids, mask)[0]) > 20


@pytest.mark.parametrize(
    "plan, message",
    [
        ({"text.tokens": "int8_rows"}, "no module 'text.tokens'; did you mean 'text.token'"),
        ({"text.token": "int8_dynamic"}, "'int8_dynamic' does not apply to Embedding"),
        ({"text.token": "int4"}, "'int4' does not apply"),
    ],
    ids=["module", "type", "scheme"],
)
def test_a_plan_that_does_not_fit_is_refused(plan: dict[str, str], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        rebuild_quantized_(tiny_model(), plan)


def test_costs_count_every_weight_once(folded: DualEncoder, quantized: DualEncoder) -> None:
    before, after = count_costs(folded), count_costs(quantized)
    assert before.parameters == after.parameters == sum(parameter.numel() for parameter in folded.parameters())
    assert before.macs == after.macs
    assert before.parameters_int8 == before.macs_int8 == 0
    assert after.mac_share_int8 > 0.9
    assert after.parameter_share_int8 > 0.9
