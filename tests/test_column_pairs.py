"""The image tower with its columns in pairs computes the same with fewer products."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dmedge.export.column_pairs import PairedConvNet, pair_columns
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_

CONFIG = ModelConfig(
    vocab_size=64, classes=2, image_size=32, image_width=12, text="bag", text_width=16, embed_dim=16, fusion="none"
)


def encoder(config: ModelConfig = CONFIG) -> DualEncoder:
    """A model whose normalisation is no identity."""
    model = DualEncoder(config).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.add_(torch.rand_like(tensor))
    fold_batch_norm_(model)
    return model


def pictures(size: int = CONFIG.image_size) -> Tensor:
    return torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)


@pytest.mark.parametrize("multiple", [1, 16], ids=["as they are", "filled up"])
def test_pairs_give_what_the_tower_gives(multiple: int) -> None:
    model, pixels = encoder(), pictures()
    paired = pair_columns(model, multiple)
    assert isinstance(paired.image, PairedConvNet)
    assert paired.text is model.text
    assert not isinstance(model.image, PairedConvNet)
    for got, want in zip(paired.image(pixels), model.image(pixels), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


def test_a_tower_that_was_pruned_is_paired_as_well() -> None:
    inner = {"image.blocks.0": 7, "image.blocks.3": 5}
    model, pixels = encoder(replace(CONFIG, inner_widths=inner)), pictures()
    for multiple in (1, 16):
        got, want = pair_columns(model, multiple).image(pixels)[0], model.image(pixels)[0]
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


def test_the_large_convolutions_take_two_thirds_of_the_products() -> None:
    model, pixels = encoder(), pictures()

    def products(tower: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter:
            tower(pixels)
        return int(counter.get_total_flops())

    sides = {block: CONFIG.image_size // (2 << (block + 1) // 2) for block in range(5)}
    widths = {block: CONFIG.image_width << (block + 1) // 2 for block in range(5)}
    whole = sum(
        len(pixels) * 2 * 9 * sides[block] ** 2 * widths[block] ** 2 * (2 if block in (0, 2, 4) else 1)
        for block in range(5)
    )
    saved = products(model.image) - products(pair_columns(model, 1).image)
    assert 0.6 * whole / 3 < saved < whole / 3  # less what the sums take


def test_what_does_not_fit_stays_as_it_is() -> None:
    odd = encoder(replace(CONFIG, image_size=24))  # three columns at the end
    transformer = encoder(replace(CONFIG, image="vit", image_heads=2))
    rounded = encoder()
    rounded.image.input_point = nn.Hardtanh()  # stands for a point that fixes a range
    textual = encoder()
    del textual.image
    for model, multiple in itertools.product((odd, transformer, rounded, textual), (1, 16)):
        assert pair_columns(model, multiple) is model
    assert pair_columns(model := encoder(), 5) is model  # patches have 48 channels
