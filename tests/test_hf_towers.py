"""Encoders of Hugging Face as towers: they compute what the original computes, from the same pictures and texts."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import nn

from dmedge.errors import ConfigError, DataError
from dmedge.model.config import ModelConfig
from dmedge.model.costs import count_costs
from dmedge.model.dual import DualEncoder
from dmedge.model.hf import HfImageTower, HfTextTower, recompute_
from dmedge.model.hf_import import ImportedTower, image_tower, text_tower
from dmedge.model.hf_inputs import example_inputs, example_pixels, example_text, normalized_config
from dmedge.model.text import masked_mean
from tests.tiny_hf import (
    CONTEXT,
    IMAGES,
    TEXT_KINDS,
    TEXTS,
    clip_processor,
    make_random_,
    siglip_processor,
    write_clip,
    write_image,
    write_naflex,
    write_siglip,
    write_text,
    write_vit_bert,
)

Write = Callable[[str], Path]


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Write:
    base = tmp_path_factory.mktemp("images")
    folders: dict[str, Path] = {}
    return lambda kind: folders.setdefault(kind, base / kind) if kind in folders else _new(folders, kind, base)


def _new(folders: dict[str, Path], kind: str, base: Path) -> Path:
    folders[kind] = (write_image if kind in IMAGES else write_text)(kind, base / kind)
    return folders[kind]


def pictures() -> list[Image.Image]:
    """Of many shapes, smooth and noisy, larger and smaller than any tower takes."""
    rng = np.random.default_rng(5)
    found = [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for size in ((40, 90), (77, 50), (9, 21))]
    ramp = np.linspace(0, 255, 300 * 3).reshape(10, 30, 3).round().astype(np.uint8)
    return [*found, Image.fromarray(ramp).resize((200, 133)), Image.new("RGB", (64, 64), (200, 10, 90))]


def image_config(tower: ImportedTower, **changes: Any) -> ModelConfig:
    assert tower.preprocess is not None
    settings: dict[str, Any] = {
        "vocab_size": 10,
        "classes": 3,
        "image": "hf",
        "image_size": tower.preprocess.size,
        "image_width": tower.width,
        "image_hf": tower.hf,
        "text_width": 32,
        "embed_dim": 16,
    }
    return ModelConfig(**(settings | changes))


def text_config(tower: ImportedTower, **changes: Any) -> ModelConfig:
    assert tower.tokenizer is not None
    settings: dict[str, Any] = {
        "vocab_size": tower.vocab_size,
        "classes": 3,
        "image_size": 16,
        "image_width": 8,
        "text": "hf",
        "text_width": tower.width,
        "context_length": tower.tokenizer.context_length,
        "text_hf": tower.hf,
        "embed_dim": 16,
    }
    return ModelConfig(**(settings | changes))


def built_image(tower: ImportedTower) -> HfImageTower:
    module = HfImageTower(image_config(tower))
    module.load_state_dict(tower.state_dict)
    return module.eval()


def built_text(tower: ImportedTower, **changes: Any) -> HfTextTower:
    module = HfTextTower(text_config(tower, **changes))
    module.load_state_dict(tower.state_dict)
    return module.eval()


@pytest.mark.parametrize("kind", IMAGES)
@torch.no_grad()
def test_image_tower_equals_the_original(kind: str, image_folder: Write) -> None:
    folder = image_folder(kind)
    tower = image_tower(folder)
    module = built_image(tower)
    assert tower.preprocess is not None
    pooled, patches = module(torch.from_numpy(np.stack([tower.preprocess(picture) for picture in pictures()])))

    original = getattr(transformers, tower.encoder).from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    output = original(**processor(pictures(), return_tensors="pt"))
    hidden = output.last_hidden_state
    if kind == "mobilevit":
        hidden = hidden.permute(0, 2, 3, 1).flatten(1, 2)
    wanted = hidden[:, 0] if kind in ("vit", "dinov2") else output.pooler_output
    torch.testing.assert_close(pooled, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(patches, hidden[:, hidden.shape[1] - module.patches :], atol=1e-5, rtol=1e-5)
    assert pooled.shape[1] == module.out_width == tower.pooled_width
    assert patches.shape[1:] == (tower.hf["patches"], tower.width)


@pytest.mark.parametrize("kind", IMAGES)
def test_pixels_are_those_of_the_original_processor(kind: str, image_folder: Write) -> None:
    folder = image_folder(kind)
    preprocess = image_tower(folder).preprocess
    assert preprocess is not None
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}
    plain |= {"do_flip_channel_order": False} if kind == "mobilevit" else {}
    see_through = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 50, 4), np.uint8))
    odd = [] if kind in ("vit", "mobilevit") else [see_through, pictures()[0].convert("L"), pictures()[0].quantize(8)]
    for picture in (*pictures(), *odd):
        wanted = processor(picture, **plain)["pixel_values"][0]
        np.testing.assert_array_equal(preprocess(picture), wanted.transpose(1, 2, 0))


@pytest.mark.parametrize("shape", [(50, 40), (31, 33), (200, 30), (10, 11)], ids=str)
@pytest.mark.parametrize("edge", [32, 37, 48, 20, 25])
def test_crops_are_those_of_the_original_processor(edge: int, shape: tuple[int, int], tmp_path: Path) -> None:
    from dmedge.model.hf_preprocess import read_preprocess

    processor = clip_processor(32, edge)
    picture = Image.fromarray(np.random.default_rng(edge).integers(0, 256, (*shape, 3), np.uint8))
    wanted = processor(picture, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    np.testing.assert_array_equal(read_preprocess(processor, "test")(picture), wanted.transpose(1, 2, 0))


@pytest.mark.parametrize("kind", TEXT_KINDS)
@torch.no_grad()
def test_text_tower_equals_the_original(kind: str, image_folder: Write) -> None:
    folder = image_folder(kind)
    tower = text_tower(folder)
    module = built_text(tower)
    assert tower.tokenizer is not None
    original = getattr(transformers, tower.encoder).from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if tower.tokenizer.rules.pads else False
    for text in TEXTS:
        pooled, tokens = module(*map(torch.from_numpy, tower.tokenizer.batch([text])))
        inputs = tokenizer([text], padding=padding, truncation=True, max_length=CONTEXT, return_tensors="pt")
        output = original(**inputs)
        hidden = output.last_hidden_state
        is_own = kind.startswith(("clip", "siglip"))
        wanted = output.pooler_output if is_own else masked_mean(hidden, inputs["attention_mask"])
        torch.testing.assert_close(tokens, hidden, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pooled, wanted, atol=1e-5, rtol=1e-5)
    assert pooled.shape[1] == module.out_width == tower.pooled_width
    assert tokens.shape[2] == tower.width


@pytest.mark.parametrize("kind", TEXT_KINDS)
@torch.no_grad()
def test_neighbours_in_a_batch_do_not_matter(kind: str, image_folder: Write) -> None:
    tower = text_tower(image_folder(kind))
    module = built_text(tower)
    assert tower.tokenizer is not None
    together, _ = module(*map(torch.from_numpy, tower.tokenizer.batch(TEXTS)))
    alone = [module(*map(torch.from_numpy, tower.tokenizer.batch([text])))[0] for text in TEXTS]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [*IMAGES, *TEXT_KINDS])
def test_every_weight_that_trains_has_a_say(kind: str, image_folder: Write) -> None:
    """A weight without a gradient stops training in several processes."""
    module, inputs = _trained(kind, image_folder)
    pooled, parts = module.train()(*inputs)
    (pooled.square().sum() + parts.square().sum()).backward()
    silent = [name for name, weight in module.named_parameters() if weight.requires_grad and weight.grad is None]
    assert silent == []


def _trained(kind: str, folder: Write) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    if kind in IMAGES:
        config = image_config(image_tower(folder(kind)))
        return make_random_(HfImageTower(config)), (example_pixels(config),)
    config = text_config(text_tower(folder(kind)))
    return make_random_(HfTextTower(config)), example_text(config)


@pytest.mark.parametrize("kind", [kind for kind in (*IMAGES, *TEXT_KINDS) if kind != "mpnet"])
def test_recomputing_keeps_the_gradients(kind: str, image_folder: Write) -> None:
    module, inputs = _trained(kind, image_folder)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if hasattr(part, "dropout_prob"):
            setattr(part, "dropout_prob", 0.0)  # noqa: B010  # not a tensor, as mypy would have it
    module.train()

    def gradients() -> list[torch.Tensor]:
        module.zero_grad()
        module(*inputs)[0].square().sum().backward()
        return [weight.grad.clone() for weight in module.parameters() if weight.grad is not None]

    plain = gradients()
    recompute_(module, True)
    assert any(getattr(part, "gradient_checkpointing", False) for part in module.modules())
    recomputed = gradients()
    recompute_(module, False)
    assert not any(getattr(part, "gradient_checkpointing", False) for part in module.modules())
    for one, other in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_encoder_that_cannot_recompute_is_named(image_folder: Write) -> None:
    module, _ = _trained("mpnet", image_folder)
    with pytest.raises(ConfigError, match="MPNetModel.*does not support.*set gradient checkpointing to false"):
        recompute_(module, True)


@pytest.mark.parametrize("kind", ["siglip-vision", "modernbert"])
def test_tower_can_be_copied(kind: str, image_folder: Write) -> None:
    module, inputs = _trained(kind, image_folder)
    again = deepcopy(module.eval())
    assert torch.equal(again(*inputs)[0], module(*inputs)[0])


@torch.no_grad()
def test_both_towers_of_any_kind_make_a_dual_encoder_with_a_fusion(image_folder: Write) -> None:
    image, text = image_tower(image_folder("dinov2")), text_tower(image_folder("xlm-roberta"))
    config = replace(text_config(text), **{k: getattr(image_config(image), k) for k in _IMAGE_KEYS}, fusion_heads=4)
    model = DualEncoder(config).eval()
    model.image.load_state_dict(image.state_dict)
    model.text.load_state_dict(text.state_dict)
    (pixels,), (ids, mask) = example_inputs(config, "encode_image"), example_inputs(config, "encode_text")
    embedding, patches = model.encode_image(pixels)
    _, tokens = model.encode_text(ids, mask)
    match, classes = model.fuse(patches, tokens, mask)
    assert embedding.norm(dim=-1) == pytest.approx(1)
    assert match.shape == (2,)
    assert classes.shape == (2, 3)
    assert count_costs(model).macs > 0


_IMAGE_KEYS = ("image", "image_size", "image_width", "image_hf")


@torch.no_grad()
def test_parts_of_a_dual_encoder_are_towers(tmp_path: Path) -> None:
    original = transformers.CLIPModel.from_pretrained(write_clip(tmp_path / "clip"))
    image, text = image_tower(tmp_path / "clip"), text_tower(tmp_path / "clip")
    assert (image.width, text.width) == (40, 32)
    pixels = example_pixels(image_config(image))
    normalised = clip_processor()(list(pixels.numpy()), return_tensors="pt", input_data_format="channels_last")
    wanted = original.vision_model(**normalised).pooler_output
    torch.testing.assert_close(built_image(image)(pixels)[0], wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_pooling_can_be_chosen(pool: Any, tmp_path: Path) -> None:
    write_vit_bert(tmp_path / "both")
    assert image_tower(tmp_path / "both").hf["pool"] == text_tower(tmp_path / "both").hf["pool"] == "pooler"
    image, text = image_tower(tmp_path / "both", pool=pool), text_tower(tmp_path / "both", pool=pool)
    pooled, patches = built_image(image)(example_pixels(image_config(image)))
    ids, mask = example_text(text_config(text))
    pooled_text, tokens = built_text(text)(ids, mask)
    if pool == "mean":
        torch.testing.assert_close(pooled, patches.mean(1))
        torch.testing.assert_close(pooled_text, masked_mean(tokens, mask))
    else:
        torch.testing.assert_close(pooled_text, tokens[:, 0])
        assert not torch.allclose(pooled, patches.mean(1))


def test_example_inputs_are_the_same_every_time_and_fit(image_folder: Write) -> None:
    config = image_config(image_tower(image_folder("dinov2")))
    state = torch.get_rng_state()
    pixels = example_pixels(config, batch=3)
    assert (pixels.shape, pixels.dtype) == ((3, 28, 28, 3), torch.uint8)
    assert torch.equal(pixels, example_pixels(config, batch=3))
    assert torch.equal(torch.get_rng_state(), state)
    text = text_config(text_tower(image_folder("siglip-text")))
    ids, mask = example_text(text)
    assert ids.shape == (2, CONTEXT)
    assert ids.dtype == mask.dtype == torch.int32
    assert mask.all()
    assert example_text(text_config(text_tower(image_folder("bert"))), length=5)[0].shape == (2, 5)


def test_example_inputs_are_for_imported_towers(image_folder: Write) -> None:
    config = image_config(image_tower(image_folder("vit")))
    with pytest.raises(ConfigError, match="the text tower is dmedge's own"):
        example_inputs(config, "encode_text")
    with pytest.raises(ConfigError, match="no example inputs of 'fuse'"):
        example_inputs(config, "fuse")


def test_normalized_names_are_shared_by_all_encoders() -> None:
    distil, clip = transformers.DistilBertConfig(dim=24), transformers.CLIPTextConfig(hidden_size=24)
    assert normalized_config("distilbert", distil).hidden_size == 24
    assert normalized_config("clip_text_model", clip).hidden_size == 24


def test_context_beyond_the_positions_is_refused(image_folder: Write) -> None:
    with pytest.raises(ConfigError, match=f"context_length is {CONTEXT + 1}; expected at most {CONTEXT}"):
        built_text(text_tower(image_folder("xlm-roberta")), context_length=CONTEXT + 1)


def test_fusion_with_a_pooled_feature_of_another_width_is_refused(tmp_path: Path) -> None:
    tower = text_tower(write_siglip(tmp_path / "siglip"))
    assert (tower.width, tower.pooled_width) == (32, 40)
    with pytest.raises(ConfigError, match="pools 32 numbers per token to 40"):
        built_text(tower)
    assert built_text(tower, fusion="none").out_width == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vitt"}, "model_type 'vitt'.*expected one of clip_vision_model"),
        ({"pool": "max"}, "'max'"),
        ({"config": {"hidden_size": "wide"}}, "ViTModel cannot be built"),
        ({"colour": 1}, "unknown key 'colour'"),
    ],
    ids=str,
)
def test_unusable_settings_are_named(change: dict[str, Any], message: str, image_folder: Write) -> None:
    config = image_config(image_tower(image_folder("vit")))
    with pytest.raises(ConfigError, match=message):
        HfImageTower(replace(config, image_hf={**config.image_hf, **change}))


def test_naflex_gives_its_text_tower_only(tmp_path: Path) -> None:
    folder = write_naflex(tmp_path / "naflex")
    assert text_tower(folder).encoder == "Siglip2TextModel"
    with pytest.raises(ConfigError, match="NaFlex kind.*fixed resolution"):
        image_tower(folder)


def test_encoder_of_an_unknown_kind_is_refused(image_folder: Write) -> None:
    with pytest.raises(ConfigError, match="model_type is 'bert'; expected one of clip, .*dinov2"):
        image_tower(image_folder("bert"))
    with pytest.raises(ConfigError, match="model_type is 'vit'; expected one of clip, .*modernbert"):
        text_tower(image_folder("vit"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_resize": False}, "do_resize = False"),
        ({"resample": 4}, "resample = 4"),
        ({"size": {"height": 32, "width": 48}}, "expected one square"),
        ({"size": {"height": 48, "width": 48}}, "makes 48 pixels, which its encoder does not take"),
        ({"image_mean": [0.5], "image_std": [0.5]}, "expected three of each"),
    ],
    ids=str,
)
def test_preprocessing_that_cannot_be_taken_over_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_image("clip-vision", tmp_path / "clip")
    processor = siglip_processor()
    for name, value in settings.items():
        setattr(processor, name, transformers.image_utils.SizeDict(**value) if name == "size" else value)
    processor.save_pretrained(tmp_path / "clip")
    with pytest.raises(DataError, match=message):
        image_tower(tmp_path / "clip")


def test_missing_and_unknown_processors_are_refused(tmp_path: Path) -> None:
    folder = write_image("vit", tmp_path / "vit")
    transformers.ConvNextImageProcessorPil().save_pretrained(folder)
    with pytest.raises(DataError, match="a ConvNextImageProcessor; expected one of CLIPImageProcessor"):
        image_tower(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match="image processor cannot be read"):
        image_tower(folder)


def test_tokenizer_larger_than_the_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_text("bert", tmp_path / "bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["newword"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(DataError, match="its tokenizer has .* tokens, its encoder"):
        text_tower(folder)
