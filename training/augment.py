"""Augmentation that keeps meaning: no flips unless asked for (arrows, hands and text have a direction)."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

LUMA = np.array([0.299, 0.587, 0.114])  # grey of red, green and blue; ITU-R BT.601, as Pillow has it


def augment_images(pixels: Tensor, partners: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Distort a batch of pictures drawn on white.

    Args:
        pixels: uint8 [B, H, W, 3].
        partners: uint8 [B, H, W, 3], the same concepts in other art styles, to blend with.
        generator: the only source of randomness.
        strength: 0 for none, 1 for the default distances.

    Returns:
        uint8 [B, H, W, 3].
    """
    if strength <= 0:
        return pixels
    batch = len(pixels)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator)

    def sometimes(share: float) -> Tensor:
        return (uniform(1, 1, 1) < share * min(strength, 1.0)).float()

    share = sometimes(0.25) * uniform(1, 1, 1) * 0.6
    x = (pixels.float().lerp(partners.float(), share) / 255).permute(0, 3, 1, 2)  # [B, 3, H, W]
    x = 1 - _warp(1 - x, uniform(6), strength)  # what comes in from outside is white
    x = _recolour(x, uniform, sometimes, strength)
    x = torch.where(sometimes(0.2) > 0, _blur(x), x)
    x = x * (1 - _boxes(uniform(4), x.shape[-1]) * sometimes(0.25))
    noise = torch.randn(x.shape, generator=generator)
    x = x + noise * uniform(1, 1, 1) * 0.15 * strength * sometimes(0.4)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def shrink(pixels: Tensor) -> Tensor:
    """Scale uint8 [B, H, W, 3] pixels to two thirds, rounded to the stride of the convnet.

    Source: Tan and Le 2021, arXiv:2104.00298 (progressive learning: small pictures first).
    """
    height, width = (max(16, round(side / 12) * 8) for side in pixels.shape[1:3])
    x = pixels.permute(0, 3, 1, 2).float()
    x = F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _warp(x: Tensor, draw: Tensor, strength: float) -> Tensor:
    """Rotate, scale each axis and shift, by six uniform numbers per picture."""
    angle = (draw[:, 0] - 0.5) * math.radians(50) * strength
    common = torch.exp((draw[:, 1] - 0.35) * 0.5 * strength)
    wide, tall = common * torch.exp((draw[:, 2] - 0.5) * 0.3 * strength), common
    shift = (draw[:, 3:5] - 0.5) * 0.3 * strength
    shear = (draw[:, 5] - 0.5) * 0.3 * strength
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack([wide * cos, -tall * sin + shear, shift[:, 0], wide * sin, tall * cos, shift[:, 1]], dim=1).view(
        -1, 2, 3
    )
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def _recolour(
    x: Tensor, uniform: Callable[..., Tensor], sometimes: Callable[[float], Tensor], strength: float
) -> Tensor:
    """Tint the background, mix channels, change contrast and gamma, drop colour."""
    tint = 1 - uniform(3, 1, 1) * 0.6 * strength * sometimes(0.3)
    x = x * tint
    mix = torch.eye(3) + (uniform(3, 3) - 0.5) * 0.3 * strength
    mix = mix / mix.sum(-1, keepdim=True)  # grey stays grey
    x = torch.einsum("bij,bjhw->bihw", mix, x)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + (uniform(1, 1, 1) - 0.5) * 0.8 * strength) + mean
    x = x + (uniform(1, 1, 1) - 0.5) * 0.3 * strength
    grey = x.mean(1, keepdim=True)
    x = x.lerp(grey.expand_as(x), sometimes(0.1))
    gamma = torch.exp((uniform(1, 1, 1) - 0.5) * 0.8 * strength)
    return x.clamp(1e-4, 1) ** gamma


def _blur(x: Tensor) -> Tensor:
    """3x3 binomial blur, twice."""
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    for _ in range(2):
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    return x


def _boxes(draw: Tensor, size: int) -> Tensor:
    """[B, 1, H, W] mask that is 1 inside one random box per picture."""
    line = torch.arange(size) / size

    def inside(start: Tensor, length: Tensor) -> Tensor:
        return ((line >= start[:, None]) & (line < (start + 0.1 + 0.3 * length)[:, None])).float()

    columns, rows = inside(draw[:, 0], draw[:, 1]), inside(draw[:, 2], draw[:, 3])
    return (rows[:, :, None] * columns[:, None, :])[:, None]


def augment_photo(
    image: Image.Image, rng: np.random.Generator, strength: float, *, size: int, may_flip: bool = False
) -> Image.Image:
    """Crop, mirror and recolour a photograph, before the preprocessing that makes it a square.

    Args:
        image: upright, or with the EXIF entry that says how to turn it.
        rng: the only source of randomness.
        strength: 0 returns `image` itself; 1 crops to half of the area at least, and changes colours by a fifth.
        size: pixels that the preprocessing scales to; far larger pictures are reduced first.
        may_flip: mirror every other picture; only where neither text nor direction matters.
    """
    if strength <= 0:
        return image
    area, aspect, left, top, flip, *jitter = rng.random(8)
    image = _cropped(ImageOps.exif_transpose(image), area, aspect, left, top, strength)
    if may_flip and flip < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # Pillow recolours 8 bits per channel only
        return image
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    factor = min(image.size) // (2 * size)
    return _recoloured(image.reduce(factor) if factor > 1 else image, jitter, strength)


def _recoloured(image: Image.Image, draws: Sequence[float], strength: float) -> Image.Image:
    """Change brightness, contrast and saturation by three uniform numbers, in one pass over the pixels."""
    brightness, contrast, saturation = (math.exp((draw - 0.5) * 0.4 * strength) for draw in draws)
    rgb = image.convert("RGB")
    mean = np.array(rgb.resize((1, 1), Image.Resampling.BOX))[0, 0] @ LUMA
    matrix = np.empty((3, 4))
    matrix[:, :3] = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA)
    matrix[:, 3] = brightness * (1 - contrast) * mean
    changed = rgb.convert("RGB", tuple(matrix.ravel().tolist()))
    if image.mode == "RGBA":
        changed.putalpha(image.getchannel("A"))
    return changed


def _cropped(image: Image.Image, area: float, aspect: float, left: float, top: float, strength: float) -> Image.Image:
    """Part of a picture, by four uniform numbers: at least half the area at strength 1, a tenth at any."""
    share = max(1 - 0.5 * strength * area, 0.1)
    stretch = math.exp((aspect - 0.5) * math.log(16 / 9) * strength)  # of width to height
    width = min(image.width, max(1, round(image.width * math.sqrt(share * stretch))))
    height = min(image.height, max(1, round(image.height * math.sqrt(share / stretch))))
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height))


def noisy_text(text: str, rng: np.random.Generator) -> str:
    """Misspell, cut short or upper-case a text, as people type it; never empty."""
    choice = int(rng.integers(6))
    if len(text) < 3:
        return text
    place = int(rng.integers(1, len(text)))
    if choice == 0:
        return text.upper()
    if choice == 1:  # what has been typed so far
        return text[: max(2, math.ceil(len(text) * float(rng.uniform(0.6, 1))))]
    if choice == 2:
        return text[:place] + text[place + 1 :]
    if choice == 3:
        return text[: place - 1] + text[place] + text[place - 1] + text[place + 1 :]
    if choice == 4:
        return text[:place] + text[place - 1] + text[place:]
    return text[:place] + text[int(rng.integers(len(text)))] + text[place + 1 :]
