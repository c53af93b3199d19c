"""Style mixing: a picture borrows the contrast and tint of another's early features."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dmedge.model.image import ConvNet

MIXED_BLOCKS = 2  # the first ones: what they see is style, later features are content
CONCENTRATION = 0.3  # of the Beta distribution of how much is borrowed; below 1: little or nearly all
LEAST_VARIANCE = 1e-5


def mix_styles(x: Tensor, share: float) -> Tensor:
    """Replace mean and deviation of some [B, C, H, W] features by a blend with those of another item.

    Draws from torch's random numbers, which a resumed run restores and cached gradients replay.

    Args:
        x: features of one batch.
        share: of the items that are changed.

    Source: Zhou et al. 2021, arXiv:2104.02008 (MixStyle).
    """
    batch = len(x)
    blend = torch.distributions.Beta(CONCENTRATION, CONCENTRATION).sample((batch,))
    keep = torch.where(torch.rand(batch) < share, blend, 1.0).to(x.device, x.dtype)[:, None, None, None]
    other = torch.randperm(batch).to(x.device)
    mean = x.mean((2, 3), keepdim=True).detach()
    deviation = (x.var((2, 3), keepdim=True) + LEAST_VARIANCE).sqrt().detach()
    new_mean, new_deviation = (keep * own + (1 - keep) * own[other] for own in (mean, deviation))
    return (x - mean) / deviation * new_deviation + new_mean


@contextmanager
def style_mixing(image: nn.Module, share: float) -> Iterator[None]:
    """Mix styles in the first blocks of an own convolutional image tower while it trains."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (mix_styles(inputs[0], share),) if module.training else None

    blocks = image.blocks[:MIXED_BLOCKS] if isinstance(image, ConvNet) and share > 0 else ()
    handles = [block.register_forward_pre_hook(hook) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
