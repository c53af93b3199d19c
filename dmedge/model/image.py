"""The image towers over uint8 pixels: a small residual convolutional network, and a small ViT."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.model.attention import Block, Blocks
from dmedge.model.config import ModelConfig

NARROW = 16  # input channels; fewer do not fill a block of oneDNN


class ConvNorm(nn.Module):
    """3x3 or 1x1 convolution and batch normalisation, foldable into one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        if self.training and self.conv.kernel_size == (1, 1) and self.conv.in_channels < NARROW:
            # The backward pass of a narrow 1x1 convolution with a stride writes outside its memory on the CPU
            # (uxlfoundation/oneDNN#6035); the same without a stride does not.
            (down, right), weight = self.conv.stride, self.conv.weight
            return self.norm(F.conv2d(x[:, :, ::down, ::right], weight, self.conv.bias))  # type: ignore[no-any-return]
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

    The first stage, which costs most per block, has one block; the others have two. Pooled by the
    mean.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.image_width
        self.patches = (config.image_size // 8) ** 2
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

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [B, H, W, 3] RGB pixels to pooled [B, V] and patches [B, P, V], row-major over the image."""
        x = self.stem_point(self.stem(self.input_point(as_floats(pixels))).relu())
        for block in self.blocks:
            x = block(x)
        batch, width, height, columns = x.shape
        return x.mean((2, 3)), x.reshape(batch, width, height * columns).permute(0, 2, 1)


class VisionTransformer(nn.Module):
    """A small ViT without class token, pooled by the mean of its normalised patches.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929; mean pooling after Beyer et al. 2022, arXiv:2205.01580.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.out_width, width = config.image_width, config.image_width
        self.patches = (config.image_size // config.patch_size) ** 2
        self.patch = nn.Conv2d(3, width, config.patch_size, config.patch_size)
        self.position = nn.Parameter(torch.randn(self.patches, width) * 0.02)
        self.blocks = Blocks(Block(width, config.image_heads) for _ in range(config.image_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [B, H, W, 3] RGB pixels to pooled [B, V] and patches [B, P, V], row-major over the image."""
        x = self.patch(as_floats(pixels)).flatten(2).transpose(1, 2) + self.position
        x = self.norm(self.blocks(x))
        return x.mean(1), x


def as_floats(pixels: Tensor) -> Tensor:
    """Turn uint8 [B, H, W, 3] pixels into float32 [B, 3, H, W] within -1..1."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0


def _hugging_face(config: ModelConfig) -> nn.Module:
    from dmedge.model.hf import HfImageTower

    return HfImageTower(config)


IMAGE_TOWERS: Mapping[str, Callable[[ModelConfig], nn.Module]] = {
    "convnet": ConvNet,
    "vit": VisionTransformer,
    "hf": _hugging_face,
}


def fold_batch_norm_(model: nn.Module) -> None:
    """Fold every batch normalisation of `model` into its convolution, for inference only."""
    for module in model.modules():
        if isinstance(module, ConvNorm):
            module.fold_()
