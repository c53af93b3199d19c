"""Checkpoints of Hugging Face as towers, and whole dual encoders as dmedge checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.artifact import Artifact, new_artifact
from dmedge.data.hf_tokenizer import HfTokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ConfigError, DataError, require
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, save_checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.hf import IMAGE_FAMILIES, TEXT_FAMILIES, Family, ImageSpec, Pool, TextSpec, quietly, spec_table
from dmedge.model.hf_inputs import example_pixels, example_text
from dmedge.model.hf_preprocess import normalisation, read_preprocess, read_processor
from dmedge.model.hf_source import Source, open_source
from dmedge.model.hf_text import positions, read_tokenizer

DUALS: Mapping[str, str] = {  # model_type -> class of transformers
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
    "vision-text-dual-encoder": "VisionTextDualEncoderModel",
}
REFUSED: Mapping[str, str] = {
    "siglip2": "a SigLIP2 of the NaFlex kind, which takes pictures of any shape, as dmedge's fixed squares cannot; "
    "take one of fixed resolution, such as google/siglip2-base-patch16-224",
}
TOLERANCE = 1e-5  # between embeddings of unit length
VOLATILE = ("architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id", "problem_type")


@dataclass(frozen=True, eq=False)
class ImportedTower:
    """One encoder, ready to become the image or the text tower of a `DualEncoder`."""

    hf: Mapping[str, object]  # `ModelConfig.image_hf` or `.text_hf`
    state_dict: Mapping[str, Tensor]  # float32, for `load_state_dict` of the tower
    width: int  # of its patches or tokens: `ModelConfig.image_width` or `.text_width`
    pooled_width: int  # of its pooled feature
    source: Source
    encoder: str  # class of transformers
    preprocess: Preprocess | None = None  # of an image tower; its size is `ModelConfig.image_size`
    tokenizer: HfTokenizer | None = None  # of a text tower, cut at the most tokens that model and tokenizer take
    vocab_size: int = 0  # rows of the token embedding

    def facts(self) -> dict[str, object]:
        """What a manifest says of it."""
        licence = {} if self.source.license is None else {"license": self.source.license}
        return {"encoder": self.encoder, **self.source.facts(), **licence}


def image_tower(path_or_name: str | Path, *, pool: Pool | None = None) -> ImportedTower:
    """Take over an image encoder: of its own, or out of a dual encoder.

    Args:
        path_or_name: a local folder, or a name on the Hugging Face hub.
        pool: how to pool [default: as its kind is pooled].

    Raises:
        DataError: there is no such checkpoint, or its weights or preprocessing cannot be taken over.
        ConfigError: no encoder of this kind is known.
    """
    source = open_source(path_or_name)
    original = load_original(source, IMAGE_FAMILIES)
    return _image_part(source, original.vision_model if _is_dual(original) else original, pool)


def text_tower(path_or_name: str | Path, *, pool: Pool | None = None) -> ImportedTower:
    """Take over a text encoder; see `image_tower`."""
    source = open_source(path_or_name)
    original = load_original(source, TEXT_FAMILIES)
    return _text_part(source, original.text_model if _is_dual(original) else original, pool)


def import_checkpoint(path_or_name: str | Path, out: Path) -> Artifact:
    """Turn a CLIP, SigLIP, SigLIP2 or VisionTextDualEncoder into a checkpoint with the same embeddings.

    Before it is written, both towers are compared with the original on random inputs.

    Raises:
        ArtifactError: `out` exists.
        DataError: there is no such checkpoint, or something of it cannot be taken over.
        ConfigError: it is no dual encoder of a known kind.
    """
    with new_artifact(out) as draft:
        source = open_source(path_or_name)
        original = load_original(source, {}, is_dual=True)
        image = _image_part(source, original.vision_model, None)
        text = _text_part(source, original.text_model, None)
        model = DualEncoder(_dual_config(original, image, text)).eval().requires_grad_(False)
        model.load_state_dict(_dual_state(original, image, text))
        differences = compare(original, model, source)
        assert image.preprocess is not None and text.tokenizer is not None
        save_checkpoint(draft.path, Checkpoint(model, text.tokenizer, image.preprocess, labels=()))
        return draft.finish(
            kind="checkpoint",
            stage="import",
            config={
                **source.facts(),
                "model": type(original).__name__,
                "image_encoder": image.encoder,
                "text_encoder": text.encoder,
            },
            programs=checkpoint_programs(model.config),
            precision={"*": "float32"},
            summary={
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                **({} if source.license is None else {"license": source.license}),
                "difference_from_original": {name: float(f"{value:.1e}") for name, value in differences.items()},
            },
        )


def load_original(source: Source, families: Mapping[str, Family], *, is_dual: bool = False) -> Any:
    """Load a checkpoint by transformers: a dual encoder, or one encoder of `families`; float32, in evaluation mode.

    Raises:
        ConfigError: it is neither.
        DataError: its weights are not complete.
    """
    name, options = _class_of(source, families, is_dual=is_dual)
    with quietly() as transformers:
        strict = require("huggingface_hub.errors", "train").StrictDataclassError
        try:
            model, report = getattr(transformers, name).from_pretrained(
                source.folder,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError, strict) as error:
            raise DataError(f"{source.name}: {name} cannot be loaded: {error}; get the files again") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise DataError(
            f"{source.name}: {len(missing)} weights of {name} are missing, e.g. {missing[0]}; "
            "expected a whole encoder; choose another model"
        )
    return model.eval().requires_grad_(False)


def _class_of(source: Source, families: Mapping[str, Family], *, is_dual: bool) -> tuple[str, dict[str, bool]]:
    """The class of transformers that loads a checkpoint, and its options."""
    kind = source.model_type
    if is_dual and kind in REFUSED:
        raise ConfigError(f"{source.name}: {REFUSED[kind]}")
    if kind in DUALS:
        return DUALS[kind], {}
    if kind in families:
        family = families[kind]
        return family.model, {"add_pooling_layer": False} if family.has_optional_pooler else {}
    known = ", ".join((*(kind for kind in DUALS if not (is_dual and kind in REFUSED)), *families))
    raise ConfigError(f"{source.name}: model_type is {kind!r}; expected one of {known}; choose another model")


@torch.no_grad()
def compare(original: Any, model: DualEncoder, source: Source) -> dict[str, float]:
    """Greatest difference of an embedding from the original, on random pixels and ids.

    Raises:
        DataError: it is above the tolerance.
    """
    from PIL import Image

    pixels, (ids, mask) = example_pixels(model.config), example_text(model.config)
    with quietly():
        normalised = read_processor(source)(
            [Image.fromarray(picture.numpy()) for picture in pixels],
            do_resize=False,
            do_center_crop=False,
            return_tensors="pt",
        )
    masked = {"attention_mask": mask.long()} if model.config.text_hf["masks"] else {}
    wanted = {
        "image": original.get_image_features(pixel_values=normalised["pixel_values"]).pooler_output,
        "text": original.get_text_features(input_ids=ids.long(), **masked).pooler_output,
    }
    found = {"image": model.encode_image(pixels)[0], "text": model.encode_text(ids, mask)[0]}
    differences = {name: float((F.normalize(wanted[name], dim=-1) - found[name]).abs().max()) for name in wanted}
    if not max(differences.values()) <= TOLERANCE:
        raise DataError(
            f"{source.name}: embeddings differ from the original by {differences}; expected at most {TOLERANCE}; "
            "nothing was written: report this"
        )
    return differences


@torch.no_grad()
def _image_part(source: Source, encoder: Any, pool: Pool | None) -> ImportedTower:
    kind = encoder.config.model_type
    if kind not in IMAGE_FAMILIES:
        reason = REFUSED["siglip2"] if kind == "siglip2_vision_model" else f"an image encoder of kind {kind!r}"
        raise ConfigError(f"{source.name}: {reason}; expected one of {', '.join(IMAGE_FAMILIES)}")
    processor = read_processor(source)
    preprocess = read_preprocess(processor, source.name)
    try:
        output = encoder(pixel_values=torch.zeros(1, 3, preprocess.size, preprocess.size))
    except ValueError as error:
        raise DataError(
            f"{source.name}: its preprocessing makes {preprocess.size} pixels, which its encoder does not take "
            f"({error}); expected both to fit; mend preprocessor_config.json"
        ) from error
    hidden = output.last_hidden_state
    pool = pool or _default_pool(IMAGE_FAMILIES[kind], output)
    is_map = hidden.dim() == 4
    width = hidden.shape[1] if is_map else hidden.shape[-1]
    patches = hidden.shape[2] * hidden.shape[3] if is_map else (preprocess.size // _patch_size(encoder.config)) ** 2
    pooled_width = output.pooler_output.shape[-1] if pool == "pooler" else width
    spec = ImageSpec(
        model_type=kind,
        config=plain_config(encoder.config),
        pool=pool,
        width=pooled_width,
        patches=patches,
        **normalisation(processor, source.name),
    )
    return ImportedTower(
        spec_table(spec), _state(encoder, pool), width, pooled_width, source, type(encoder).__name__, preprocess
    )


@torch.no_grad()
def _text_part(source: Source, encoder: Any, pool: Pool | None) -> ImportedTower:
    kind = encoder.config.model_type
    if kind not in TEXT_FAMILIES:
        raise ConfigError(f"{source.name}: a text encoder of kind {kind!r}; expected one of {', '.join(TEXT_FAMILIES)}")
    limit, vocab_size = positions(encoder.config), int(encoder.config.vocab_size)
    tokenizer = read_tokenizer(source, kind, limit)
    if tokenizer.vocab_size > vocab_size:
        raise DataError(
            f"{source.name}: its tokenizer has {tokenizer.vocab_size} tokens, its encoder {vocab_size}; "
            "expected no more than the encoder has; get the files again"
        )
    output = encoder(input_ids=torch.zeros(1, 4, dtype=torch.long))
    pool = pool or _default_pool(TEXT_FAMILIES[kind], output)
    width = output.last_hidden_state.shape[-1]
    pooled_width = output.pooler_output.shape[-1] if pool == "pooler" else width
    spec = TextSpec(
        model_type=kind,
        config=plain_config(encoder.config),
        pool=pool,
        width=pooled_width,
        positions=limit,
        masks=tokenizer.rules.masks,
    )
    return ImportedTower(
        spec_table(spec),
        _state(encoder, pool),
        width,
        pooled_width,
        source,
        type(encoder).__name__,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
    )


def _is_dual(model: nn.Module) -> bool:
    return type(model).__name__ in DUALS.values()


def _default_pool(family: Family, output: Any) -> Pool:
    """As its kind is pooled; an encoder that was loaded with a pooler, inside a dual encoder, uses it."""
    has_pooler = getattr(output, "pooler_output", None) is not None
    if family.has_optional_pooler and has_pooler:
        return "pooler"
    return "mean" if family.pool == "pooler" and not has_pooler else family.pool


def _patch_size(config: Any) -> int:
    size = config.patch_size
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def _state(encoder: Any, pool: Pool) -> dict[str, Tensor]:
    """Weights under the names of the tower, without a pooler that it does not use."""
    family = {**IMAGE_FAMILIES, **TEXT_FAMILIES}[encoder.config.model_type]
    left_out = "pooler." if family.has_optional_pooler and pool != "pooler" else "no such name"
    return {f"model.{name}": tensor for name, tensor in encoder.state_dict().items() if not name.startswith(left_out)}


def plain_config(config: Any) -> dict[str, object]:
    """Settings of an encoder as JSON, without names of hosts, paths, labels and versions."""
    table: dict[str, object] = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in table.items() if not key.startswith("_") and key not in VOLATILE}


def _dual_config(original: Any, image: ImportedTower, text: ImportedTower) -> ModelConfig:
    has_projection = hasattr(original, "visual_projection")
    assert image.preprocess is not None and text.tokenizer is not None
    return ModelConfig(
        vocab_size=text.vocab_size,
        classes=0,
        image="hf",
        image_size=image.preprocess.size,
        image_width=image.width,
        image_hf=image.hf,
        text="hf",
        text_width=text.width,
        context_length=text.tokenizer.context_length,
        text_hf=text.hf,
        embed_dim=original.visual_projection.out_features if has_projection else image.pooled_width,
        projection="linear-no-bias" if has_projection else "none",
        logit_bias=hasattr(original, "logit_bias"),
        fusion="none",
    )


def _dual_state(original: Any, image: ImportedTower, text: ImportedTower) -> dict[str, Tensor]:
    state = {f"image.{name}": tensor for name, tensor in image.state_dict.items()}
    state |= {f"text.{name}": tensor for name, tensor in text.state_dict.items()}
    if hasattr(original, "visual_projection"):
        state["image_projection.weight"] = original.visual_projection.weight
        state["text_projection.weight"] = original.text_projection.weight
    for name in ("logit_scale", "logit_bias"):
        if hasattr(original, name):
            state[name] = getattr(original, name).reshape(())
    return state
