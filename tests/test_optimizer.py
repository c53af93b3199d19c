"""Laws of the optimiser: what decays, what moves less, what stands still, and how the rate changes."""

from typing import Any

import pytest
import torch
from torch import nn

from dmedge.errors import ConfigError
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.training.config import TrainConfig
from dmedge.training.optimizer import (
    cooldown_start,
    freeze_,
    hold_frozen_norms_,
    layer_scales,
    learning_rate,
    make_optimizer,
    plain_name,
    set_learning_rate_,
)

TINY = {"vocab_size": 20, "classes": 3, "image_size": 16, "image_width": 4, "text_width": 8, "embed_dim": 8}
HEADS = {"text_heads": 2, "image_heads": 2, "fusion_heads": 2, "text_layers": 2, "context_length": 8}


def tiny_model(**changes: Any) -> DualEncoder:
    return DualEncoder(ModelConfig(**TINY | HEADS | changes))


def names_of(model: nn.Module, group: dict[str, Any]) -> set[str]:
    wanted = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def test_matrices_and_kernels_decay_and_nothing_else_does() -> None:
    model = tiny_model(image="vit", image_layers=1)
    config = TrainConfig(weight_decay=0.1)
    optimizer = make_optimizer(model, config)
    decayed, rest = (names_of(model, group) for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert {"image.patch.weight", "text.blocks.0.attention.query.weight", "fusion.joint.weight"} <= decayed
    assert {"text.token.weight", "text.position", "image.position", "logit_scale", "image.norm.weight"} <= rest
    assert all(parameter.dim() >= 2 for parameter in optimizer.param_groups[0]["params"])
    assert decayed | rest == dict(model.named_parameters()).keys()
    assert optimizer.defaults["betas"] == (0.9, 0.98)
    assert optimizer.defaults["fused"]


def test_layers_of_a_tower_get_less_the_deeper_they_lie() -> None:
    model = tiny_model(image="vit", image_layers=3)
    scales = layer_scales(model, 0.5)
    assert [scales[f"image.blocks.{i}.feed_forward.up.weight"] for i in range(3)] == [0.125, 0.25, 0.5]
    assert [scales[f"text.blocks.{i}.feed_forward.up.weight"] for i in range(2)] == [0.25, 0.5]
    assert scales["image.patch.weight"] == scales["image.position"] == 0.0625
    assert scales["text.token.weight"] == scales["text.position"] == 0.125
    outside = {name for name in scales if not name.startswith(("image.", "text."))}
    assert {scales[name] for name in outside | {"image.norm.weight"}} == {1.0}
    assert {"image_projection.weight", "logit_scale", "fusion.joint.weight"} <= outside


def test_the_stem_of_the_convolutional_tower_is_lowest_and_a_bag_has_one_layer() -> None:
    scales = layer_scales(tiny_model(text="bag"), 0.5)
    assert scales["image.stem.conv.weight"] == min(scales.values()) == 0.5**6
    assert scales["image.blocks.4.second.norm.weight"] == 0.5
    assert (scales["text.token.weight"], scales["text.up.weight"]) == (0.5, 1.0)


def test_towers_of_hugging_face_are_graded_alike() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    model = nn.Module()
    model.image, model.text = nn.Module(), nn.Module()
    model.image.tower = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=8, patch_size=4))
    model.text.tower = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=20))
    for side in ("image", "text"):
        scales = {name: scale for name, scale in layer_scales(model, 0.5).items() if name.startswith(side)}
        by_part = {part: {s for name, s in scales.items() if part in name} for part in ("embeddings", ".0.", ".1.")}
        assert by_part == {"embeddings": {0.125}, ".0.": {0.25}, ".1.": {0.5}}
        assert {scales[name] for name in scales if "pooler" in name} == {1.0}
    config = TrainConfig(weight_decay=0.1)
    free = set().union(
        *(names_of(model, g) for g in make_optimizer(model, config).param_groups if not g["weight_decay"])
    )
    assert {"image.tower.embeddings.cls_token", "image.tower.embeddings.position_embeddings"} <= free


def test_the_rate_of_a_group_is_the_rate_times_its_share() -> None:
    model = tiny_model(image="vit", image_layers=1)
    optimizer = make_optimizer(model, TrainConfig(layer_decay=0.5, learning_rate=1e-3))
    scales = layer_scales(model, 0.5)
    set_learning_rate_(optimizer, 2e-3)
    seen = set()
    for group in optimizer.param_groups:
        assert {scales[name] for name in names_of(model, group)} == {group["lr_scale"]}
        assert group["lr"] == 2e-3 * group["lr_scale"]
        seen |= names_of(model, group)
    assert seen == dict(model.named_parameters()).keys()


def test_without_layer_decay_there_are_two_groups_at_full_rate() -> None:
    optimizer = make_optimizer(tiny_model(), TrainConfig(learning_rate=1e-3))
    assert [(group["lr"], group["lr_scale"]) for group in optimizer.param_groups] == [(1e-3, 1.0)] * 2


def test_wrapping_changes_no_name() -> None:
    model = tiny_model()
    wrapped = nn.Module()
    wrapped.model = model
    inside = layer_scales(wrapped, 0.5)
    assert {name.removeprefix("model."): scale for name, scale in inside.items()} == layer_scales(model, 0.5)
    assert plain_name("module._orig_mod.text.blocks.0._checkpoint_wrapped_module.norm") == "text.blocks.0.norm"


def test_frozen_parameters_do_not_move() -> None:
    model = tiny_model()
    frozen = freeze_(model, ["text.blocks.0.*", "image.*"])
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == {name for name, _ in model.named_parameters() if name.startswith(("text.blocks.0.", "image."))}
    assert frozen == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    optimizer = make_optimizer(model, TrainConfig())
    moving = set().union(*(names_of(model, group) for group in optimizer.param_groups))
    assert moving == dict(model.named_parameters()).keys() - still


def test_freezing_nothing_freezes_nothing() -> None:
    model = tiny_model()
    assert freeze_(model, ()) == 0
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("imgae.*", "'image.*'"), ("text.blocks.7.*", "'text.blocks.0.*'|'text.blocks.1.*'"), ("zzz", "'fusion")],
    ids=["typing-error", "no-such-layer", "nothing-near"],
)
def test_a_pattern_that_matches_nothing_is_refused(pattern: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"matches no parameter; expected one like .*({near})"):
        freeze_(tiny_model(), [pattern])


def test_freezing_everything_is_refused() -> None:
    model = tiny_model()
    freeze_(model, ["*"])
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        make_optimizer(model, TrainConfig(freeze=("*",)))


def test_frozen_batch_norms_keep_their_statistics() -> None:
    model = tiny_model()
    freeze_(model, ["image.blocks.0.*"])
    model.train()
    hold_frozen_norms_(model)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, norm in norms.items() if not norm.training} == {
        name for name in norms if name.startswith("image.blocks.0.")
    }
    before = {name: norm.running_mean.clone() for name, norm in norms.items() if norm.running_mean is not None}
    model.encode_image(torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8))
    for name, norm in norms.items():
        assert norm.running_mean is not None
        assert torch.equal(before[name], norm.running_mean) == name.startswith("image.blocks.0.")


# Schedules


def test_trapezoid_rises_stays_and_falls_to_a_hundredth() -> None:
    config = TrainConfig(warmup_steps=10, learning_rate=1e-2, cooldown_share=0.25)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[:10] == pytest.approx([1e-3 * i for i in range(1, 11)])
    assert rates[9:76] == [1e-2] * 67
    assert rates[100] == pytest.approx(1e-4)
    assert rates[88] == pytest.approx(1e-2 * (1 - 0.99 * 13 / 25))
    assert sorted(rates[75:], reverse=True) == rates[75:]


@pytest.mark.parametrize("schedule", ["trapezoid", "cosine", "constant"])
def test_until_the_cooldown_starts_nothing_depends_on_the_number_of_steps(schedule: Any) -> None:
    config = TrainConfig(schedule=schedule, warmup_steps=3, cooldown_share=0.5)
    start = cooldown_start(40, config)
    assert start == {"trapezoid": 20, "cosine": 0, "constant": 40}[schedule]
    before = range(start)
    assert [learning_rate(s, 40, config) for s in before] == [learning_rate(s, 80, config) for s in before]
    assert (learning_rate(39, 40, config) == learning_rate(39, 80, config)) == (schedule == "constant")


def test_cosine_falls_from_the_peak_by_half_in_the_middle_to_a_hundredth() -> None:
    config = TrainConfig(schedule="cosine", warmup_steps=20, learning_rate=1e-2)
    rates = [learning_rate(step, 120, config) for step in range(121)]
    assert rates[19] == rates[20] == max(rates) == 1e-2
    assert rates[70] == pytest.approx(1e-2 * (1 + 0.01) / 2)
    assert rates[120] == pytest.approx(1e-4)
    assert sorted(rates[20:], reverse=True) == rates[20:]


def test_constant_stays_at_the_peak() -> None:
    config = TrainConfig(schedule="constant", warmup_steps=4, learning_rate=1e-2)
    assert [learning_rate(step, 50, config) for step in (0, 3, 49)] == pytest.approx([2.5e-3, 1e-2, 1e-2])
