"""Students: a smaller model of the same kind, made of the layers and channels of its teacher that weigh most."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dmedge.compress.config import StudentSize
from dmedge.errors import ConfigError
from dmedge.model.checkpoint import Checkpoint
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder
from dmedge.model.hf_layers import keep_layers, layer_count, layers_prefix

MULTIPLE = 8  # of widths
LEAST_BLOCKS = 2  # the shipped text tower with one of its two finds 0.09 where it found 0.79, before it learns


@dataclass(frozen=True, slots=True)
class StudentShape:
    """Shares of the teacher that a student keeps."""

    width: float  # of the numbers per patch and per token, of dmedge's own towers
    depth: float  # of the blocks of transformers, imported ones too, but two at least


STUDENTS: Mapping[StudentSize, StudentShape] = {
    "medium": StudentShape(width=0.75, depth=1.0),
    "small": StudentShape(width=0.6, depth=0.5),
    "tiny": StudentShape(width=0.5, depth=0.5),
}

# Channels that several weights share: the name of a weight, and which stream each of its dimensions counts.
# "" keeps its size; N is the number of a block, and "in" and "out" the stage that a block reads and writes.
_BLOCK = (
    (r"blocks\.N\.(attention|feed_forward)_norm\.(weight|bias)", ("W",)),
    (r"blocks\.N\.attention\.(query|key)\.(weight|bias)", ("W.heads.qk.N", "W")),
    (r"blocks\.N\.attention\.value\.(weight|bias)", ("W.heads.v.N", "W")),
    (r"blocks\.N\.attention\.out\.weight", ("W", "W.heads.v.N")),
    (r"blocks\.N\.feed_forward\.up\.(weight|bias)", ("W.inner.N", "W")),
    (r"blocks\.N\.feed_forward\.down\.weight", ("W", "W.inner.N")),
    (r"blocks\.N\.(attention\.out|feed_forward\.down)\.bias", ("W",)),
)
_TRANSFORMER = (
    (r"token\.weight|position", ("", "W")),
    (r"patch\.(weight|bias)", ("W", "", "", "")),
    (r"(norm|up|down)\.(weight|bias)", ("W", "W")),
    *_BLOCK,
)
_CONVNET = (
    (r"stem\.conv\.weight", ("0", "", "", "")),
    (r"stem\.norm\.\w+", ("0",)),
    (r"blocks\.N\.first\.conv\.weight", ("inner.N", "in.N", "", "")),
    (r"blocks\.N\.first\.norm\.\w+", ("inner.N",)),
    (r"blocks\.N\.second\.conv\.weight", ("out.N", "inner.N", "", "")),
    (r"blocks\.N\.skip\.conv\.weight", ("out.N", "in.N", "", "")),
    (r"blocks\.N\.(second|skip)\.norm\.\w+", ("out.N",)),
)
_HEADS = (
    (r"text_projection\.(weight|bias)", ("feature", "text")),
    (r"image_projection\.(weight|bias)", ("feature", "image")),
    (r"head\.keys\.weight", ("", "feature")),
)
STAGES = {"in": (0, 0, 1, 1, 2), "out": (0, 1, 1, 2, 2)}  # of the blocks of a `ConvNet`; stage 2 is what it returns


def make_student(teacher: Checkpoint, size: StudentSize, seed: int = 0) -> Checkpoint:
    """A smaller model with the weights of `teacher` that it has room for; the fusion starts anew.

    Blocks are kept evenly spaced, the last one among them, and channels by the sum of the squares of all weights
    that make or read them. Imported towers keep their width and lose layers alone.

    Raises:
        ConfigError: there is nothing that could be smaller.

    Source: Wu et al. 2023, arXiv:2309.12314, section 3.3 (weight inheritance).
    """
    torch.manual_seed(seed)  # of what does not come from the teacher
    before, after = teacher.model, DualEncoder(student_config(teacher.model.config, STUDENTS[size]))
    if after.config == before.config:
        raise ConfigError(f"student = {size!r}: this model has no width or depth to give; leave it out")
    source, wanted = _renumbered(before, after), after.state_dict()
    streams = {name: _streams(name, tensor.dim(), after.config) for name, tensor in wanted.items()}
    kept = _kept_channels(source, wanted, streams, after.config)
    for name, tensor in wanted.items():
        found = source.get(name)
        if found is None or name.startswith("fusion."):
            continue
        for dim, stream in enumerate(streams[name]):
            if stream in kept:
                found = found.index_select(dim, kept[stream])
        tensor.copy_(found)
    members = "fusion.votes.members"  # which concepts make a class
    if members in wanted:
        wanted[members].copy_(source[members])
    return replace(teacher, model=after.eval())


def _streams(name: str, dims: int, config: ModelConfig) -> tuple[str, ...]:
    """The stream that each dimension of a weight counts."""
    tower, _, rest = name.partition(".")
    tables = {"image": _CONVNET if config.image == "convnet" else _TRANSFORMER, "text": _TRANSFORMER}
    is_imported = getattr(config, tower, "") == "hf"
    for pattern, streams in () if is_imported else tables.get(tower, _HEADS):
        found = re.fullmatch(pattern.replace("N", r"(?P<number>\d+)"), rest if tower in tables else name)
        if found:
            number = int(found.groupdict().get("number") or 0)
            return tuple(_stream(stream, tower, number, config) for stream in streams[:dims])
    return ("",) * dims


def _stream(stream: str, tower: str, number: int, config: ModelConfig) -> str:
    """The full name of a stream, the same wherever the same channels are meant."""
    if not stream:
        return ""
    if stream == "feature" and not config.concepts:
        return ""  # the embedding keeps its width
    side, _, is_staged = stream.partition(".")
    if side in STAGES and is_staged:
        stream = str(STAGES[side][number])
    if stream in ("image", "text", "feature"):
        return stream
    if stream == "W" or (stream == "2" and config.image == "convnet"):
        return tower
    return f"{tower}.{stream.replace('N', str(number))}"


def _kept_channels(
    source: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    streams: Mapping[str, tuple[str, ...]],
    config: ModelConfig,
) -> dict[str, Tensor]:
    """The channels of every stream that gets smaller, by their share in the squares of all its weights."""
    scores: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for name, tensor in wanted.items():
        for dim, stream in enumerate(streams[name]):
            if stream and name in source and source[name].shape[dim] != tensor.shape[dim]:
                squares = source[name].float().square().movedim(dim, 0).reshape(source[name].shape[dim], -1).sum(1)
                scores[stream] = scores.get(stream, 0) + squares / squares.mean().clamp(min=1e-12)
                counts[stream] = tensor.shape[dim]
    kept = {}
    for stream, score in scores.items():
        side = "text" if stream.startswith("text") else "image"
        groups = getattr(config, f"{side}_heads") if ".heads." in stream else 1
        best = score.view(groups, -1).topk(counts[stream] // groups, dim=1).indices.sort(dim=1).values
        kept[stream] = (best + torch.arange(groups)[:, None] * (len(score) // groups)).flatten()
    return kept


def _renumbered(before: DualEncoder, after: DualEncoder) -> dict[str, Tensor]:
    """The weights of `before`, those of kept blocks under the numbers that these have in `after`."""
    source: dict[str, Tensor] = {}
    state = before.state_dict()
    for tower in ("image", "text"):
        old, new = (_depth(model.config, tower) for model in (before, after))
        if old == new:
            continue
        spec = getattr(before.config, f"{tower}_hf")
        blocks = f"{tower}.{layers_prefix(getattr(before, tower), old) if spec else 'blocks.'}"
        for place, number in enumerate(_spread(old, new)):
            prefix = f"{blocks}{number}."
            source |= {
                f"{blocks}{place}.{name.removeprefix(prefix)}": tensor
                for name, tensor in state.items()
                if name.startswith(prefix)
            }
        state = {name: tensor for name, tensor in state.items() if not name.startswith(blocks)}
    return state | source


def _depth(config: ModelConfig, tower: str) -> int:
    """Blocks of a transformer; 0 of another tower."""
    if spec := getattr(config, f"{tower}_hf"):
        return layer_count(spec)
    is_deep = {"image": config.image == "vit", "text": config.text == "transformer"}[tower]
    return int(getattr(config, f"{tower}_layers")) if is_deep else 0


def _spread(old: int, new: int) -> list[int]:
    """Numbers of `new` blocks of `old`, evenly spaced, the last one among them."""
    return [round((place + 1) * old / new) - 1 for place in range(new)]


def student_config(config: ModelConfig, shape: StudentShape) -> ModelConfig:
    """The shape of the student of a model that was not pruned.

    Raises:
        ConfigError: the model was pruned.
    """
    if config.inner_widths:
        raise ConfigError("student of a model that was pruned; expected one that was not; prune the student instead")
    changes: dict[str, Any] = {}
    if config.image != "hf":
        changes["image_width"] = _narrowed(
            config.image_width, shape.width, config.image_heads if config.image == "vit" else 1
        )
    if config.text != "hf":
        changes["text_width"] = _narrowed(config.text_width, shape.width, 2 * config.text_heads)
    for tower in ("image", "text"):
        layers = _depth(config, tower)
        if fewer := _fewer(layers, shape.depth):
            spec = getattr(config, f"{tower}_hf")
            changes |= (
                {f"{tower}_hf": keep_layers(spec, _spread(layers, fewer))} if spec else {f"{tower}_layers": fewer}
            )
    return replace(config, **changes)


def _narrowed(width: int, share: float, heads: int) -> int:
    multiple = math.lcm(MULTIPLE, heads)
    if width < 2 * multiple:
        multiple = heads
    return max(multiple, multiple * round(share * width / multiple))


def _fewer(layers: int, share: float) -> int:
    return max(min(LEAST_BLOCKS, layers), round(share * layers))
