"""Two 4-bit codes in one byte, the way that both runtimes store them."""

import torch
from torch import Tensor

GROUP = 32  # inputs that share a scale; XNNPACK takes multiples of it
CODE_MIN, CODE_MAX = -8, 7
_OFFSET = 8  # codes are stored as 0..15


def pack_nibbles(codes: Tensor) -> Tensor:
    """Pack int8 [rows, width] codes within -8..7 as uint8 [rows, width / 2].

    The code of an even column stands in the lower half of a byte, and 8 is added to every code. That is what a `.pte`
    holds for XNNPACK, and what MatMulNBits of onnxruntime reads with its own zero point.

    Raises:
        ValueError: the width is odd, or a code does not fit into four bits.
    """
    if codes.dim() != 2 or codes.shape[1] % 2:
        raise ValueError(f"got codes {[*codes.shape]}; expected [rows, even width]")
    if codes.numel() and (codes.min() < CODE_MIN or codes.max() > CODE_MAX):
        raise ValueError(f"codes run from {codes.min()} to {codes.max()}; expected {CODE_MIN}..{CODE_MAX}")
    shifted = (codes + _OFFSET).to(torch.uint8)
    return shifted[:, ::2] | shifted[:, 1::2] << 4


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Unpack uint8 [rows, width / 2] as int8 [rows, width] codes within -8..7."""
    halves = torch.stack([packed & 0x0F, packed >> 4], dim=-1)
    return halves.flatten(1).to(torch.int8) - _OFFSET


def round_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight [rows, width] to the nearest 4-bit codes, one symmetric scale for each `GROUP` of a row.

    Returns:
        int8 codes shaped like `weight`, within -8..7, and scales [rows, width / GROUP]: float32 numbers that
        bfloat16 holds exactly, since that is what XNNPACK keeps of them.
    """
    largest = weight.reshape(len(weight), -1, GROUP).abs().amax(-1)
    scale = short_scale(torch.where(largest > 0, largest * 2 / (CODE_MAX - CODE_MIN), 1.0))
    return codes_on_grid(weight, scale), scale


def codes_on_grid(weight: Tensor, scale: Tensor) -> Tensor:
    """The nearest codes of a weight [rows, width] for given scales [rows, width / GROUP]."""
    codes = torch.round(weight / scale.repeat_interleave(GROUP, 1))
    return codes.clamp(CODE_MIN, CODE_MAX).to(torch.int8)


def short_scale(scale: Tensor) -> Tensor:
    """Float32 scales, rounded to what bfloat16 holds."""
    return scale.to(torch.bfloat16).to(torch.float32)
