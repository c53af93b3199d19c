"""The image tower: a small residual convolutional network over uint8 pixels."""

import torch
from torch import Tensor, nn


class ConvNorm(nn.Module):
    """3x3 or 1x1 convolution and batch normalisation, foldable into one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]

    def fold_(self) -> None:
        """Multiply the normalisation into the convolution; a second call changes nothing."""
        if not isinstance(self.norm, nn.BatchNorm2d):
            return
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        old = self.conv
        self.conv = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
        assert self.conv.bias is not None
        with torch.no_grad():
            self.conv.weight.copy_(old.weight * gain[:, None, None, None])
            self.conv.bias.copy_(norm.bias - norm.running_mean * gain)
        self.norm = nn.Identity()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a skip path (He et al. 2015, arXiv:1512.03385).

    `*_point` mark where a quantized graph fixes the range of an activation; they are
    identities until a quantization plan replaces them.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = ConvNorm(outputs, outputs)
        changes_shape = stride != 1 or inputs != outputs
        self.skip: nn.Module = ConvNorm(inputs, outputs, kernel=1, stride=stride) if changes_shape else nn.Identity()
        self.first_point: nn.Module = nn.Identity()
        self.second_point: nn.Module = nn.Identity()
        self.skip_point: nn.Module = nn.Identity()
        self.out_point: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        hidden = self.first_point(self.first(x).relu())
        branch = self.second_point(self.second(hidden))
        skip = self.skip_point(self.skip(x))
        return self.out_point((branch + skip).relu())  # type: ignore[no-any-return]


class ConvNet(nn.Module):
    """Five residual blocks in three stages; total stride 8, `4 * width` output channels.

    The first stage, which costs most per block, has one block; the others have two.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_width = 4 * width
        self.input_point: nn.Module = nn.Identity()
        self.stem = ConvNorm(3, width, stride=2)
        self.stem_point: nn.Module = nn.Identity()
        shapes = [
            (width, width, 1),
            (width, 2 * width, 2),
            (2 * width, 2 * width, 1),
            (2 * width, 4 * width, 2),
            (4 * width, 4 * width, 1),
        ]
        self.blocks = nn.ModuleList(ResidualBlock(*shape) for shape in shapes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 [B, H, W, 3] RGB pixels to a float32 [B, 4 * width, H / 8, W / 8] feature map."""
        x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
        x = self.stem_point(self.stem(self.input_point(x)).relu())
        for block in self.blocks:
            x = block(x)
        return x  # type: ignore[no-any-return]


def fold_batch_norm_(model: nn.Module) -> None:
    """Fold every batch normalisation of `model` into its convolution, for inference only."""
    for module in model.modules():
        if isinstance(module, ConvNorm):
            module.fold_()
