"""What can be told of a picture by looking at its pixels."""

import numpy as np
from PIL import Image

from dmedge.study.task import Doubles, Pixels

SMALL = 64  # pixels a side


def small(picture: Image.Image) -> Pixels:
    """A picture of any size and mode as uint8 [64, 64, 3], both sides squeezed to that."""
    return np.array(picture.convert("RGB").resize((SMALL, SMALL), Image.Resampling.BOX))


def contrast(pictures: Pixels) -> Doubles:
    """[M] standard deviation of the luminance of uint8 [M, H, W, 3] pictures, within 0..0.5."""
    grey = pictures @ np.array([0.2126, 0.7152, 0.0722]) / 255
    return grey.std(axis=(1, 2))  # type: ignore[no-any-return]


def parts(picture: Pixels, least_share: float = 0.01) -> int:
    """Number of separate areas that are not white, each of 1 % of the picture at least."""
    is_ink = picture.min(-1) < 230
    label = np.where(is_ink, np.arange(1, is_ink.size + 1).reshape(is_ink.shape), 0)
    while True:  # every area takes the greatest number in it
        padded = np.pad(label, 1)
        spread = np.max(
            [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], 0
        )
        spread = np.where(is_ink, spread, 0)
        if np.array_equal(spread, label):
            break
        label = spread
    sizes = np.unique(label[label > 0], return_counts=True)[1]
    return int((sizes >= least_share * label.size).sum())
