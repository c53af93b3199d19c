"""What happens to pictures on their way to a model, at five strengths, for pictures of 32 to 64 pixels.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261, for the idea; lengths are shares of the shorter
side, so that a strength means the same at every size. Blur, JPEG and rotation are Pillow's.
"""

import io
import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dmedge.evidence.strengths import Levels, level

Pixels = NDArray[np.uint8]
ImagePerturbation = Callable[[Pixels, int, np.random.Generator], Pixels]

GREY = 128
NOISE: Levels = (0.04, 0.08, 0.12, 0.18, 0.26)  # standard deviation, of the range from black to white
BLUR: Levels = (0.010, 0.016, 0.023, 0.033, 0.050)  # standard deviation, of the shorter side: 0.5 to 2.4 of 48 pixels
JPEG: Levels = (60, 40, 25, 15, 7)  # quality
EXPOSURE: Levels = (0.4, 0.8, 1.2, 1.6, 2.0)  # stops, up or down: a factor of 1.3 to 4
ANGLE: Levels = (5, 10, 15, 25, 40)  # degrees, either way
COVERED: Levels = (0.02, 0.05, 0.10, 0.18, 0.30)  # of the area


def add_noise(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Gaussian noise, independent in every pixel and channel."""
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * 255 * level(NOISE, strength)
    return _rounded(pixels + noise)


def blur(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Out of focus; no chance in it."""
    radius = level(BLUR, strength) * min(pixels.shape[:2])
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def compress_jpeg(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Saved as a JPEG and read again; no chance in it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=int(level(JPEG, strength)))
    with Image.open(stream) as read:
        return np.array(read.convert("RGB"))


def change_brightness(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Exposed for too short or too long a time; which of them is drawn."""
    stops = level(EXPOSURE, strength) * (1 if rng.random() < 0.5 else -1)
    return _rounded(pixels.astype(np.float32) * 2**stops)


def rotate(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Held at an angle, to a side that is drawn; corners get the median colour of the border."""
    degrees = level(ANGLE, strength) * (1 if rng.random() < 0.5 else -1)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = tuple(int(value) for value in np.median(rim, axis=0))
    turned = Image.fromarray(pixels).rotate(degrees, Image.Resampling.BICUBIC, fillcolor=colour)
    return np.array(turned)


def cover(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """A grey square over a share of the area, at a place that is drawn."""
    height, width = pixels.shape[:2]
    side = math.sqrt(level(COVERED, strength) * height * width)
    tall, wide = min(height, max(1, round(side))), min(width, max(1, round(side)))
    top, left = (
        int(draw * (room + 1)) for draw, room in zip(rng.random(2), (height - tall, width - wide), strict=True)
    )
    covered = pixels.copy()
    covered[top : top + tall, left : left + wide] = GREY
    return covered


# uint8 [H, W, 3], strength from 1 to 5 and the only source of chance, to uint8 [H, W, 3]
IMAGE_PERTURBATIONS: Mapping[str, ImagePerturbation] = {
    "noise": add_noise,
    "blur": blur,
    "jpeg": compress_jpeg,
    "brightness": change_brightness,
    "rotation": rotate,
    "occlusion": cover,
}


def _rounded(values: NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
