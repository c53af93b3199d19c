"""Checkpoints on disk: the Hugging Face layout, one directory, nothing pickled."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from dmedge.artifact import Artifact, Program, TensorSpec
from dmedge.config import load_config
from dmedge.data.hf_tokenizer import AnyTokenizer, HfTokenizer, open_tokenizer
from dmedge.data.transforms import Preprocess
from dmedge.errors import ArtifactError
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.model"
PREPROCESS, LABELS, ANSWERS = "preprocessor_config.json", "labels.json", "answers.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model with all that is needed to feed it and to read its outputs."""

    model: DualEncoder
    tokenizer: AnyTokenizer
    preprocess: Preprocess
    labels: tuple[str, ...]  # of the classification head
    answers: tuple[str, ...] = ()  # of the answer head
    quantization: Mapping[str, str] | None = None  # module -> scheme; None for a float checkpoint


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the files of `checkpoint` into an existing `folder`.

    Args:
        folder: usually `Draft.path`.
        checkpoint: what to write.
        dtype: of the float weights on disk; they are float32 again once loaded.
    """
    config: dict[str, object] = {"model_type": "dmedge", "architectures": ["DualEncoder"]}
    config |= asdict(checkpoint.model.config)
    if checkpoint.quantization is not None:
        config["quantization"] = dict(checkpoint.quantization)
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in checkpoint.model.state_dict().items()
    }
    (folder / WEIGHTS).write_bytes(save(state, metadata={"format": "pt"}))
    write_json(folder / CONFIG, config)
    write_json(folder / PREPROCESS, checkpoint.preprocess.to_json())
    write_json(folder / LABELS, list(checkpoint.labels))
    if checkpoint.answers:
        write_json(folder / ANSWERS, list(checkpoint.answers))
    if isinstance(checkpoint.tokenizer, HfTokenizer):
        checkpoint.tokenizer.write(folder)
    else:
        shutil.copyfile(checkpoint.tokenizer.model_path, folder / TOKENIZER)


def load_checkpoint(artifact: Artifact) -> Checkpoint:
    """Rebuild the model of a checkpoint, in evaluation mode, with float32 weights.

    Raises:
        ArtifactError: the artifact is no checkpoint, or its files do not fit together.
    """
    if artifact.manifest.kind != "checkpoint":
        raise ArtifactError(
            f"{artifact.root}: found a {artifact.manifest.kind}; expected a checkpoint; run dmedge train"
        )
    table = json.loads(artifact.file(CONFIG).read_text(encoding="utf-8"))
    plan = table.pop("quantization", None)
    shape = {key: value for key, value in table.items() if key not in ("model_type", "architectures")}
    model = DualEncoder(load_config(ModelConfig, shape, where=CONFIG))
    if plan is not None:
        from dmedge.model.quantized import rebuild_quantized_

        rebuild_quantized_(model, plan)
    try:
        state = load_file(artifact.file(WEIGHTS))
        floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        model.load_state_dict(floats)
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"{artifact.file(WEIGHTS)}: does not fit {CONFIG}: {error}; make the checkpoint again"
        ) from error
    return Checkpoint(
        model=model.eval().requires_grad_(False),
        tokenizer=open_tokenizer(artifact, model.config.context_length),
        preprocess=Preprocess.from_json(json.loads(artifact.file(PREPROCESS).read_text(encoding="utf-8"))),
        labels=_read_names(artifact, LABELS),
        answers=_read_names(artifact, ANSWERS) if ANSWERS in artifact.manifest.files else (),
        quantization=plan,
    )


def _read_names(artifact: Artifact, file: str) -> tuple[str, ...]:
    return tuple(json.loads(artifact.file(file).read_text(encoding="utf-8")))


def patch_shape(config: ModelConfig) -> tuple[int, int]:
    """Number and width of the patches that the image tower returns."""
    match config.image:
        case "convnet":
            return (config.image_size // 8) ** 2, 4 * config.image_width
        case "vit":
            return (config.image_size // config.patch_size) ** 2, config.image_width
    return int(str(config.image_hf["patches"])), config.image_width


def checkpoint_programs(config: ModelConfig, *, file: str = WEIGHTS) -> tuple[Program, ...]:
    """The programs of a torch checkpoint, with the shapes that every export keeps."""
    size, (patches, width) = config.image_size, patch_shape(config)
    pixels = TensorSpec("pixels", ("batch", size, size, 3), "uint8", (0, 255))
    ids = TensorSpec("ids", ("batch", "length"), "int32", (0, config.vocab_size - 1))
    mask = TensorSpec("mask", ("batch", "length"), "int32", (0, 1))
    embedding = TensorSpec("embedding", ("batch", config.embed_dim), "float32", (-1, 1))
    patch = TensorSpec("patches", ("batch", patches, width), "float32")
    tokens = TensorSpec("tokens", ("batch", "length", config.text_width), "float32")
    programs = [
        Program("encode_image", file, "torch", (pixels,), (embedding, patch)),
        Program("encode_text", file, "torch", (ids, mask), (embedding, tokens)),
    ]
    if config.fusion != "none":
        heads = {"classes": config.classes, "answers": config.answers}
        outputs = [TensorSpec(name, ("batch", count), "float32") for name, count in heads.items() if count]
        match = TensorSpec("match", ("batch",), "float32")
        programs.append(Program("fuse", file, "torch", (patch, tokens, mask), (match, *outputs)))
    return tuple(programs)


def write_json(path: Path, value: object) -> None:
    """Write `value` as the JSON files of a checkpoint are written."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
