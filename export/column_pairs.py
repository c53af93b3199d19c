"""The convolutional tower with its columns in pairs, which takes a third of most multiplications away.

Two neighbouring outputs of a filter of three taps are four products of sums, where they would be six. It is done along
the rows of a picture alone: then the sums are few, and the result is as near to the exact one as that of the
convolution. Even and odd columns stay apart from one layer to the next, as two pictures of half the width. A depthwise
convolution by zeros and ones tells them apart or subtracts them, since XNNPACK and the blocked layout of onnxruntime
have that, and no slices.

Source: F(2, 3) of Lavin and Gray 2015, arXiv:1509.09308, section 4.1.
"""

from collections.abc import Sequence
from copy import copy, deepcopy
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.dual import DualEncoder
from dmedge.model.image import ConvNet, ConvNorm, ResidualBlock

Pair: TypeAlias = Sequence[Tensor]  # even and odd columns, [B, C, H, W / 2] each

_SUMS = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # of columns 2j - 1 to 2j + 2
_HALF_OF_BYTES = 127.5


def pair_columns(model: DualEncoder, multiple: int | None) -> DualEncoder:
    """A model that shares all with `model` but its image tower, which computes the same on columns in pairs.

    Args:
        model: with batch normalisation folded. It is returned as it is where its tower is none of float convolutions,
            where a layer has an odd number of columns, or where `multiple` does not divide the channels of patches.
        multiple: to which channels are filled up with zeros, as a runtime may do by itself, but not for all operations;
            none leaves the model as it is.
    """
    tower = getattr(model, "image", None)  # a variant may have none
    if multiple is None or not isinstance(tower, ConvNet) or not _is_float(tower):
        return model
    if model.config.image_size % 16 or tower.out_width % multiple:
        return model
    paired = copy(model)
    paired._modules = {**model._modules, "image": PairedConvNet(tower, multiple)}
    return paired


def _is_float(tower: ConvNet) -> bool:
    kinds = (ConvNet, ConvNorm, ResidualBlock, nn.ModuleList, nn.Conv2d, nn.Identity)
    return all(type(module) in kinds for module in tower.modules())


class PairedConvNet(nn.Module):
    """A `ConvNet` from its stem on with columns in pairs."""

    def __init__(self, tower: ConvNet, multiple: int) -> None:
        super().__init__()
        self.patches, self.out_width = tower.patches, tower.out_width
        filled = deepcopy(tower)
        for module in filled.modules():
            if isinstance(module, ConvNorm):
                module.conv = _filled(module.conv, multiple, is_first=module is filled.stem)
        stem = filled.stem.conv
        self.stem = _conv(stem.weight.double() / _HALF_OF_BYTES, stem.bias, stride=(2, 2), padding=(1, 1))
        self.apart = _apart(stem.out_channels)
        self.blocks = nn.ModuleList(
            SamePairs(block) if isinstance(block.skip, nn.Identity) else FewerPairs(block)
            for block in filled.blocks
            if isinstance(block, ResidualBlock)
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See `ConvNet.forward`."""
        picture = self.stem(pixels.permute(0, 3, 1, 2).to(torch.float32) - _HALF_OF_BYTES).relu()
        x: Pair = [part(picture) for part in self.apart]
        for block in self.blocks:
            x = block(x)
        columns = torch.cat([part.permute(0, 2, 3, 1) for part in x], 3)  # [B, H, W / 2, 2 V]
        return (x[0] + x[1]).mean((2, 3)) / 2, columns.reshape(columns.shape[0], self.patches, self.out_width)


class SamePairs(nn.Module):
    """A `ResidualBlock` of one shape throughout."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        first, second = block.first.conv, block.second.conv
        self.first_sums, self.first = SumsOfPair(first.in_channels), PairConv(first)
        self.second_sums, self.second = SumsOfPair(second.in_channels), PairConv(second)

    def forward(self, x: Pair) -> Pair:
        """Map two of [B, C, H, W / 2] to as many."""
        hidden = _relu(self.first(self.first_sums(x)))
        return _relu(self.second(self.second_sums(hidden), x))


class FewerPairs(nn.Module):
    """A `ResidualBlock` of stride 2."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        assert isinstance(block.skip, ConvNorm)
        self.first, self.skip = StridedOfPair(block.first.conv), StridedOfPair(block.skip.conv)
        self.sums = _depthwise(block.second.conv.in_channels, _SUMS, stride=2, padding=1)
        self.second = PairConv(block.second.conv)
        self.apart = _apart(block.skip.conv.out_channels)

    def forward(self, x: Pair) -> Pair:
        """Map two of [B, C, H, W / 2] to two of [B, outputs, H / 2, W / 4]."""
        hidden, skip = self.first(x).relu(), self.skip(x)
        return _relu(self.second([part(hidden) for part in self.sums], [part(skip) for part in self.apart]))


class PairConv(nn.Module):
    """A 3x3 convolution without stride as four of 3x1, of sums of columns."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        left, middle, right = conv.weight.double().unbind(3)
        self.left, self.right = _conv(left, padding=(1, 0)), _conv(-right, padding=(1, 0))
        self.total = _conv((left + middle + right) / 2, conv.bias, padding=(1, 0))
        self.difference = _conv((left - middle + right) / 2, padding=(1, 0))
        self.minus = _minus(conv.out_channels)

    def forward(self, sums: Sequence[Tensor], added: Pair | None = None) -> Pair:
        """Map four of [B, C, H, W / 2] to two of [B, outputs, H, W / 2], and add two more, if any."""
        total, difference = self.total(sums[1]), self.difference(sums[2])
        even, odd = total + difference, total + self.minus(difference)
        if added is not None:
            even, odd = even + added[0], odd + added[1]
        return self.left(sums[0]) + even, self.right(sums[3]) + odd


class SumsOfPair(nn.Module):
    """What a `PairConv` takes: columns 2j - 1 less 2j + 1, 2j and 2j + 1, 2j + 1 less 2j, 2j less 2j + 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.left, self.right = _depthwise(channels, ((1, -1, 0), (0, 1, -1)), padding=1)
        self.minus = _minus(channels)

    def forward(self, x: Pair) -> Sequence[Tensor]:
        """Map two of [B, C, H, W / 2] to four."""
        even, odd = x
        return self.left(odd), even + odd, self.minus(even) + odd, self.right(even)


class StridedOfPair(nn.Module):
    """A convolution of stride 2, 3x3 or 1x1, from a pair to a picture."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        rows, middle = conv.padding[0], conv.kernel_size[1] // 2
        assert isinstance(rows, int)
        self.even = _conv(conv.weight[..., middle], conv.bias, stride=(2, 1), padding=(rows, 0))
        self.odd = _conv(conv.weight[..., ::2], stride=(2, 1), padding=(rows, 0)) if middle else None

    def forward(self, x: Pair) -> Tensor:
        """Map two of [B, C, H, W / 2] to [B, outputs, H / 2, W / 2]."""
        even: Tensor = self.even(x[0])
        return even if self.odd is None else even + self.odd(F.pad(x[1], (1, 0)))


def _filled(conv: nn.Conv2d, multiple: int, *, is_first: bool) -> nn.Conv2d:
    """The same convolution with zeros for more channels, up to the next multiple; colours stay three."""
    outputs, inputs = (-channels % multiple for channels in conv.weight.shape[:2])
    assert conv.bias is not None
    weight = F.pad(conv.weight, (0, 0, 0, 0, 0, 0 if is_first else inputs, 0, outputs))
    return _conv(weight, F.pad(conv.bias, (0, outputs)), stride=conv.stride, padding=conv.padding)  # type: ignore[arg-type]


def _apart(channels: int) -> nn.ModuleList:
    """From a picture to a pair."""
    return _depthwise(channels, ((1, 0), (0, 1)), stride=2)


def _minus(channels: int) -> nn.Module:
    return _depthwise(channels, ((-1,),))[0]


def _depthwise(channels: int, taps: Sequence[Sequence[int]], stride: int = 1, padding: int = 0) -> nn.ModuleList:
    """A convolution along rows for each of `taps`, of every channel by itself."""
    weights = (torch.tensor(row).expand(channels, 1, 1, -1) for row in taps)
    return nn.ModuleList(_conv(w, stride=(1, stride), padding=(0, padding), groups=channels) for w in weights)


def _conv(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> nn.Conv2d:
    """A convolution of these weights, [outputs, inputs of a group, H, W], or without W where it is 1."""
    weight = weight[..., None] if weight.dim() == 3 else weight
    outputs, inputs, height, width = weight.shape
    made = nn.Conv2d(
        inputs * groups, outputs, (height, width), stride, padding, groups=groups, device="meta"
    )  # undrawn
    made.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    made.bias = bias if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return made


def _relu(x: Pair) -> Pair:
    return [part.relu() for part in x]
