"""The optimiser, the learning-rate schedule and the weight average."""

import torch
from torch import nn

from dmedge.training.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, but no embedding table, gain, bias or scale."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2 and id(p) not in tables]
    rest = [p for p in model.parameters() if p.requires_grad and (p.dim() < 2 or id(p) in tables)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def cooldown_start(steps: int, config: TrainConfig) -> int:
    """First step at which the learning rate falls."""
    return round(steps * (1 - config.cooldown_share))


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, a plateau, then a linear cool-down to one hundredth of the peak.

    Until the cool-down begins nothing depends on `steps`, so a run can be made longer or shorter.

    Source: Haegele et al. 2024, arXiv:2405.18392.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    start = cooldown_start(steps, config)
    fallen = max(0.0, (step - start) / max(1, steps - start))
    return config.learning_rate * warm * (1 - 0.99 * fallen)


def set_learning_rate_(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value


@torch.no_grad()
def update_average_(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move `average` towards `model`, buffers included; young averages move faster."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    mine, theirs = average.state_dict(), model.state_dict()
    floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], share)
    for name in mine.keys() - set(floats):
        mine[name].copy_(theirs[name])
