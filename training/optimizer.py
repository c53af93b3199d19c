"""The optimiser: what decays, what moves less, what does not move, and how the learning rate changes."""

import math
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import nn

from dmedge.errors import ConfigError
from dmedge.training.config import TrainConfig

LEAST_SHARE = 0.01  # of the peak learning rate, at the end of a run
FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # of torch.compile and of activation checkpointing
NUMBERED = re.compile(r"\.(?:layers?|blocks?|stages?)\.(\d+)\.")  # the first hit is the outermost stack
TABLE_WORDS = ("position", "token", "embed", "probe")  # of parameters that are no `nn.Embedding`
INPUT_WORDS = ("embed", "token", "position", "patch", "stem", "pre_lay")  # of what lies below the first layer


def plain_name(name: str) -> str:
    """The dotted name of a parameter without what DDP, torch.compile and checkpointing put in it."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("module.")


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, but no table of embeddings or positions, gain, bias or scale.

    With `layer_decay` below 1 each group has an "lr_scale", by which `set_learning_rate_`
    multiplies. For FSDP, call it after `fully_shard`.

    Raises:
        ConfigError: every parameter is frozen.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    scales = layer_scales(model, config.layer_decay)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_decayed = parameter.dim() >= 2 and id(parameter) not in tables and not _is_table(plain_name(name))
            groups.setdefault((is_decayed, scales[plain_name(name)]), []).append(parameter)
    if not groups:
        raise ConfigError(f"freeze = {list(config.freeze)} leaves nothing to train; expected fewer patterns")
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if is_decayed else 0.0,
                "lr": config.learning_rate * scale,
                "lr_scale": scale,
            }
            for (is_decayed, scale), parameters in sorted(groups.items(), key=lambda item: item[0], reverse=True)
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        fused=all(parameter.device.type in FUSED_DEVICES for group in groups.values() for parameter in group),
    )


def _is_table(name: str) -> bool:
    """Whether a parameter outside of `nn.Embedding` is looked up or added, not multiplied with."""
    last = name.rpartition(".")[2]
    return any(word in last for word in TABLE_WORDS)


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Share of the learning rate that each parameter gets, by its plain name.

    A tower of N layers gives layer i (from 0) `decay ** (N - i)` and what lies below the layers
    `decay ** (N + 1)`; what lies above them, and everything outside the towers, has 1.

    Source: Bao et al. 2021, arXiv:2106.08254 (the numbering); Howard and Ruder 2018, arXiv:1801.06146.
    """
    names = [plain_name(name) for name, _ in model.named_parameters()]
    places = {name: _place(name) for name in names}
    depth = {"image": 0, "text": 0}
    for tower, layer in filter(None, places.values()):
        depth[tower] = max(depth[tower], 0 if layer is None else layer + 1)
    scales = {}
    for name, place in places.items():
        tower, layer = place or ("", None)
        scales[name] = 1.0 if layer is None else decay ** (depth[tower] - layer)
    return scales


def _place(name: str) -> tuple[str, int | None] | None:
    """The tower of a parameter and its layer: -1 below the first, None above the last; None outside."""
    tower = re.search(r"(?:^|^model\.)(image|text)\.", name)
    if tower is None:
        return None
    inside = name[tower.end() - 1 :]  # from the dot on
    if numbered := NUMBERED.search(inside):
        return tower[1], int(numbered[1])
    return tower[1], -1 if any(word in inside for word in INPUT_WORDS) else None


def freeze_(model: nn.Module, patterns: Sequence[str]) -> int:
    """Stop every parameter from training whose dotted name matches a pattern, such as "text.blocks.0.*".

    Returns:
        how many numbers these parameters hold.

    Raises:
        ConfigError: a pattern matches no parameter.
    """
    parameters = {plain_name(name): parameter for name, parameter in model.named_parameters()}
    frozen: dict[str, nn.Parameter] = {}
    for pattern in patterns:
        found = {name: parameter for name, parameter in parameters.items() if fnmatchcase(name, pattern)}
        if not found:
            near = get_close_matches(pattern, _patterns(parameters), n=3)
            expected = f"one like {', '.join(map(repr, near or sorted(parameters)[:3]))}"
            raise ConfigError(f"freeze: {pattern!r} matches no parameter; expected {expected}; correct the pattern")
        frozen |= found
    for parameter in frozen.values():
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in frozen.values())


def _patterns(names: Iterable[str]) -> list[str]:
    """All names, and "part.*" for every module that has one of them."""
    found = dict.fromkeys(names)
    for name in names:
        parts = name.split(".")
        found |= dict.fromkeys(".".join(parts[:count]) + ".*" for count in range(1, len(parts)))
    return list(found)


def hold_frozen_norms_(model: nn.Module) -> None:
    """Keep batch normalisations whose gains are frozen at the statistics that they have.

    To be called after every `model.train()`, which would have them follow the batch again.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            gains = list(module.parameters(recurse=False))
            if gains and not any(gain.requires_grad for gain in gains):
                module.eval()


def cooldown_start(steps: int, config: TrainConfig) -> int:
    """First step at which the learning rate depends on `steps`."""
    if config.schedule == "cosine":
        return 0
    return steps if config.schedule == "constant" else round(steps * (1 - config.cooldown_share))


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then what `config.schedule` says.

    "trapezoid": a plateau, then a linear cool-down to one hundredth of the peak; until the
    cool-down begins nothing depends on `steps`, so a run can be made longer or shorter.
    "cosine": half a cosine down to one hundredth. "constant": the peak to the end.

    Source: Haegele et al. 2024, arXiv:2405.18392 (trapezoid); Loshchilov and Hutter 2016,
    arXiv:1608.03983 (cosine).
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return config.learning_rate * warm
    start = config.warmup_steps if config.schedule == "cosine" else cooldown_start(steps, config)
    fallen = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
    if config.schedule == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return config.learning_rate * warm * (1 - (1 - LEAST_SHARE) * fallen)


def set_learning_rate_(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group this learning rate, times its "lr_scale" where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("lr_scale", 1.0)
