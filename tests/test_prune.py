"""Structured pruning: what is kept, what that costs, and that nothing changes where nothing is taken."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmedge.artifact import Artifact
from dmedge.compress.config import CompressConfig, LearnConfig
from dmedge.compress.importance import tower_units, unit_importance
from dmedge.compress.prune import kept_units, prune
from dmedge.compress.recipe import compress_artifact
from dmedge.data.transforms import Preprocess
from dmedge.errors import ConfigError
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.costs import count_costs, run_once
from dmedge.model.dual import DualEncoder
from dmedge.model.inner import inner_units, keep_units_, narrow_
from dmedge.training.batch import TextChunk, TrainBatch
from tests.tiny_bundles import tiny_checkpoint as tiny_checkpoint
from tests.tiny_bundles import tiny_model
from tests.tiny_hf import write_clip, write_siglip2
from tests.tiny_training import tiny_train, tiny_world

LEARN = LearnConfig(steps=4, fusion_steps=2, batch_size=6, texts_per_image=2)
SHAPES: dict[str, dict[str, Any]] = {
    "convnet and transformer": {},
    "vit and bag": {"image": "vit", "image_width": 32, "image_layers": 2, "text": "bag"},
    "rotary": {"positions": "rotary"},
}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def model(request: pytest.FixtureRequest) -> DualEncoder:
    config = ModelConfig(
        vocab_size=320, classes=5, image_size=16, image_width=16, text_width=32, embed_dim=12, context_length=16
    )
    torch.manual_seed(0)
    model = DualEncoder(replace(config, **request.param))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.eval()


def batch() -> TrainBatch:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 320, (6, 9), generator=generator, dtype=torch.int32)
    mask = (torch.arange(9) < torch.tensor([9, 9, 5, 9, 3, 9])[:, None]).int()
    pixels = torch.randint(0, 256, (4, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return TrainBatch(pixels, torch.arange(4), (TextChunk(ids * mask, mask, torch.tensor([0, 1, 2, 3, 0, 1])),))


def loss_of(model: DualEncoder, batch: TrainBatch) -> Tensor:
    image, text = (outputs[0] for outputs in outputs_of(model, batch))
    return (image @ text.T)[:, :4].diagonal().square().sum()


def outputs_of(model: DualEncoder, batch: TrainBatch) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    chunk = batch.chunks[0]
    return model.encode_image(batch.pixels), model.encode_text(chunk.ids, chunk.mask)


def checkpoint_of(model: DualEncoder) -> Checkpoint:
    return Checkpoint(model, None, Preprocess(16), ())  # type: ignore[arg-type]


def test_every_module_with_inner_units_is_found(model: DualEncoder) -> None:
    units = tower_units(model)
    convs = 5 if model.config.image == "convnet" else 0
    blocks = sum(len(getattr(tower, "blocks", ())) for tower in (model.image, model.text)) - convs
    bags = int(model.config.text == "bag")
    assert len(units) == convs + 2 * blocks + bags
    for name, own in units.items():
        consumer = model.get_submodule(own.consumer)
        assert consumer.weight.shape[1] == own.size * own.count, name  # type: ignore[index]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_ratio_of_0_is_the_identity(model: DualEncoder, scope: str) -> None:
    importance = {name: torch.rand(own.count) for name, own in tower_units(model).items()}
    pruned = prune(checkpoint_of(model), importance, 0.0, scope).model
    assert pruned.config == model.config
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in pruned.state_dict().items())


def test_units_that_are_never_read_can_go_without_a_trace(model: DualEncoder) -> None:
    """Where the readers of a unit multiply it by 0, its importance is 0 and taking it out changes no output."""
    units = tower_units(model)
    dead = {name: torch.arange(own.count) % 2 == 1 for name, own in units.items()}
    with torch.no_grad():
        for name, own in units.items():
            columns = dead[name].repeat_interleave(own.size)
            model.get_submodule(own.consumer).weight[:, columns] = 0  # type: ignore[operator]
    importance = unit_importance(model, [batch()], lambda given: loss_of(model, given))
    for name, values in importance.items():
        assert (values[dead[name]] == 0).all(), name
        assert (values[~dead[name]] > 0).any(), name
    before = outputs_of(model, batch())
    keep_units_(model, {name: torch.nonzero(~gone).flatten() for name, gone in dead.items()})
    for old, new in zip(before, outputs_of(model, batch()), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-6)


def test_importance_is_the_squared_change_to_first_order(model: DualEncoder) -> None:
    """Against the derivative by a gate on one unit, summed over the items one by one."""
    name, own = next(iter(tower_units(model).items()))
    whole = batch()
    found = unit_importance(model, [whole], lambda given: loss_of(model, given))[name]
    gate = torch.ones(own.count, requires_grad=True)
    consumer = model.get_submodule(own.consumer)

    def scale(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        shape = (1, -1, 1, 1) if given[0].dim() == 4 else (-1,)
        return (given[0] * gate.repeat_interleave(own.size).view(shape),)

    hook = consumer.register_forward_pre_hook(scale)
    image, text = (outputs[0] for outputs in outputs_of(model, whole))
    terms = (image @ text.T)[:, :4].diagonal().square()  # picture i with text i; each is an item of the first tower
    expected = torch.zeros(own.count)
    for term in terms:
        (gradient,) = torch.autograd.grad(term, gate, retain_graph=True)
        expected += gradient.square()
    hook.remove()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


def test_importance_leaves_the_model_as_it_was(model: DualEncoder) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.requires_grad_(False)
    unit_importance(model, [batch()], lambda given: loss_of(model, given))
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_layer_scope_takes_its_share_everywhere_and_rounds_to_8(ratio: float) -> None:
    units = tower_units(DualEncoder(ModelConfig(vocab_size=320, classes=0, image_width=40, text_width=160)))
    kept = kept_units(units, {name: torch.rand(own.count) for name, own in units.items()}, ratio, "layer")
    for name, own in units.items():
        count = len(kept[name])
        if own.size == 1:
            assert count % 8 == 0
            assert abs(count - (1 - ratio) * own.count) <= 4
        else:
            assert count == max(1, round((1 - ratio) * own.count))


def test_the_least_important_go_and_the_order_stays() -> None:
    units = tower_units(DualEncoder(ModelConfig(vocab_size=320, classes=0, image_width=16)))
    generator = torch.Generator().manual_seed(0)
    importance = {name: torch.rand(own.count, generator=generator) for name, own in units.items()}
    kept = kept_units(units, importance, 0.5, "global")
    for name, numbers in kept.items():
        gone = torch.ones(units[name].count, dtype=torch.bool).index_fill(0, numbers, False)
        assert (numbers.diff() > 0).all()
        assert not gone.any() or importance[name][numbers].min() >= importance[name][gone].max()


def test_global_scope_takes_most_from_the_module_that_needs_least() -> None:
    units = tower_units(DualEncoder(ModelConfig(vocab_size=320, classes=0, image_width=64)))
    importance = {name: torch.ones(own.count) for name, own in units.items()}
    idle = "image.blocks.4"
    importance[idle] = torch.cat([torch.full((32,), 8.0), torch.zeros(units[idle].count - 32)])
    kept = kept_units(units, importance, 0.1, "global")
    assert len(kept[idle]) < min(len(kept[name]) / own.count for name, own in units.items() if name != idle) * 256


def test_pruned_towers_keep_their_interface_and_cost_less(tiny_checkpoint: Artifact) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    importance = {name: torch.rand(own.count) for name, own in tower_units(checkpoint.model).items()}
    pruned = prune(checkpoint, importance, 0.5, "layer").model
    whole, chunk = batch(), batch().chunks[0]
    for old, new in zip(outputs_of(checkpoint.model, whole), outputs_of(pruned, whole), strict=True):
        assert [part.shape for part in old] == [part.shape for part in new]
    (_, patches), (_, tokens) = outputs_of(pruned, whole)
    assert pruned.fuse(patches[:1], tokens[:1], chunk.mask[:1])[0].shape == (1,)
    before, after = count_costs(checkpoint.model), count_costs(pruned)
    assert after.macs < 0.7 * before.macs
    assert after.parameters < before.parameters


def test_a_pruned_model_is_rebuilt_from_its_settings(model: DualEncoder) -> None:
    importance = {name: torch.rand(own.count) for name, own in tower_units(model).items()}
    pruned = prune(checkpoint_of(model), importance, 0.5, "layer").model
    again = DualEncoder(pruned.config).eval()
    again.load_state_dict(pruned.state_dict())
    for old, new in zip(outputs_of(pruned, batch()), outputs_of(again, batch()), strict=True):
        assert all(torch.equal(first, second) for first, second in zip(old, new, strict=True))


def test_settings_that_name_no_module_or_too_many_units() -> None:
    model = tiny_model()
    with pytest.raises(
        ConfigError, match=r"no module 'image.block.0' with units inside; did you mean 'image.blocks.0'"
    ):
        narrow_(model, {"image.block.0": 3})
    with pytest.raises(ConfigError, match=r"image.blocks.0 = 9; expected 1 to 8"):
        narrow_(model, {"image.blocks.0": 9})


@pytest.mark.parametrize("write", [write_clip, write_siglip2], ids=["clip", "siglip2"])
def test_imported_towers_have_inner_units_too(write: object, tmp_path: Path) -> None:
    from dmedge.model.hf_import import import_checkpoint

    write(tmp_path / "hf")  # type: ignore[operator]
    checkpoint = load_checkpoint(import_checkpoint(str(tmp_path / "hf"), tmp_path / "out"))
    units = tower_units(checkpoint.model)
    assert any(name.startswith("image.") and own.size > 1 for name, own in units.items())
    assert any(name.startswith("text.") and own.size == 1 for name, own in units.items())
    importance = {name: torch.rand(own.count) for name, own in units.items()}
    pruned = prune(checkpoint, importance, 0.5, "layer")
    assert count_costs(pruned.model).macs < count_costs(checkpoint.model).macs
    again = DualEncoder(pruned.model.config).eval()
    again.load_state_dict(pruned.model.state_dict())
    run_once(again)


def test_the_stage_prunes_recovers_and_says_so(tmp_path: Path) -> None:
    parent = tiny_train(tmp_path / "run")
    with tiny_world():
        config = CompressConfig(prune=0.5, learn=LEARN, ledger_texts=0)
        made = compress_artifact(parent, config, tmp_path / "pruned")
        again = compress_artifact(parent, config, tmp_path / "again")
    assert made.manifest.parents == {"parent": parent.digest}
    assert made.manifest.files == again.manifest.files  # the same command twice, the same bytes
    assert [line["step"] for line in made.manifest.summary["ledger"]] == ["start", "prune 0.5", "recover"]  # type: ignore[attr-defined]
    start, pruned, recovered = made.manifest.summary["ledger"]  # type: ignore[misc]
    assert pruned["macs"] == recovered["macs"] < start["macs"]  # type: ignore[has-type]
    assert load_checkpoint(made).model.config.inner_widths
    assert not (tmp_path / "pruned.steps").exists()
    assert inner_units(load_checkpoint(made).model).keys() == inner_units(load_checkpoint(parent).model).keys()
