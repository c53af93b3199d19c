"""Smoothing of outlier channels: nothing changes in float32, and rounding hurts less where it is done."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dmedge.artifact import Artifact
from dmedge.compress.config import CompressConfig
from dmedge.compress.recipe import compress_artifact
from dmedge.compress.smooth import smooth_, smooth_sites, smoothing_scale
from dmedge.model.checkpoint import load_checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_import import import_checkpoint
from tests.tiny_bundles import CONFIG, two_layer_model
from tests.tiny_bundles import tiny_checkpoint as tiny_checkpoint
from tests.tiny_hf import write_clip, write_clip_xlmr


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(1, CONFIG.vocab_size, (16, 9), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    return ids, torch.ones_like(ids)


def with_outliers() -> DualEncoder:
    """Three channels of every LayerNorm a hundred times as large, as large transformers have them."""
    model = two_layer_model()
    for name in smooth_sites(model):
        model.get_submodule(name).get_parameter("weight").data[[1, 5, 30]] *= 100
    return model


def run(model: DualEncoder) -> None:
    model.encode_text(*texts())


def readers(model: DualEncoder) -> list[str]:
    return [reader for names in smooth_sites(model).values() for reader in names]


def test_nothing_changes_in_float32() -> None:
    """Powers of two, so that not even a bit does where sums stay in order."""
    model = with_outliers()
    before = model.encode_text(*texts())[0]
    sites = {name for name in smooth_sites(model) if name.startswith("text.")}
    assert len(sites) == 4
    assert smooth_(model, run, readers(model)).keys() == sites
    torch.testing.assert_close(model.encode_text(*texts())[0], before, rtol=1e-5, atol=1e-6)


def test_outliers_are_worth_more_than_5_db() -> None:
    model = with_outliers()
    gains = smooth_(model, run, readers(model))
    assert min(gains.values()) > 5


def test_even_channels_are_left_alone() -> None:
    model = two_layer_model()
    for name in smooth_sites(model):
        for reader in smooth_sites(model)[name]:
            nn.init.uniform_(model.get_submodule(reader).weight, -1, 1)  # type: ignore[arg-type]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert smooth_(model, run, readers(model)) == {}
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_site_whose_readers_stay_float_is_left_alone() -> None:
    model = with_outliers()
    gains = smooth_(model, run, [name for name in readers(model) if not name.endswith("blocks.0.attention.key")])
    assert "text.blocks.0.attention_norm" not in gains
    assert "text.blocks.0.feed_forward_norm" in gains


def test_scales_are_powers_of_two() -> None:
    scale = smoothing_scale(torch.randn(50, 8) * torch.arange(1, 9), [torch.randn(4, 8)])
    assert torch.equal(torch.log2(scale), torch.log2(scale).round())


def test_imported_blocks_that_normalise_first_have_sites_and_others_have_none(tmp_path: Path) -> None:
    clip = load_checkpoint(import_checkpoint(write_clip(tmp_path / "clip"), tmp_path / "a")).model
    assert {name.split(".")[0] for name in smooth_sites(clip)} == {"image", "text"}
    xlmr = load_checkpoint(import_checkpoint(write_clip_xlmr(tmp_path / "xlmr"), tmp_path / "b")).model
    assert {name.split(".")[0] for name in smooth_sites(xlmr)} == {"image"}  # BERT normalises after it adds


def test_the_stage_says_what_it_smoothed(tiny_checkpoint: Artifact, tmp_path: Path) -> None:
    config = CompressConfig(int8=True, smooth=True, calibration_items=8, ledger_texts=0)
    made = compress_artifact(tiny_checkpoint, config, tmp_path / "out")
    smoothed = made.manifest.summary["smoothed"]
    assert isinstance(smoothed, dict)
    assert smoothed.keys() <= smooth_sites(load_checkpoint(tiny_checkpoint).model).keys()
    with pytest.raises(ValueError, match="smooth without int8; expected both"):
        CompressConfig(smooth=True, prune=0.2)
