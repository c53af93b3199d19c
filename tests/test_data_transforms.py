"""Preprocessing: every kind of picture becomes the same kind of pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from dmedge.data.transforms import Preprocess
from dmedge.errors import DataError

ORIENTATION = 0x0112


def test_picture_of_the_right_size_passes_unchanged(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (48, 48, 3), np.uint8)
    assert (Preprocess()(Image.fromarray(pixels)) == pixels).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (500, 2), (2, 500), (48, 48)], ids=str)
def test_every_mode_and_size(mode: str, size: tuple[int, int]) -> None:
    pixels = Preprocess(size=32)(Image.new(mode, size))
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8


def test_wide_picture_is_padded_and_centred() -> None:
    pixels = Preprocess(size=48, background=(10, 20, 30))(Image.new("RGB", (96, 32), (200, 0, 0)))
    assert (pixels[16:32] == (200, 0, 0)).all()
    assert (pixels[:16] == (10, 20, 30)).all()
    assert (pixels[32:] == (10, 20, 30)).all()


def test_line_keeps_one_pixel() -> None:
    assert (Preprocess()(Image.new("RGB", (10_000, 1), "black")) == 0).any()


@pytest.mark.parametrize(
    "clear", [Image.new("RGBA", (9, 9), (255, 0, 0, 0)), Image.new("LA", (9, 9), (0, 0))], ids=["RGBA", "LA"]
)
def test_transparent_picture_shows_the_background(clear: Image.Image) -> None:
    assert (Preprocess(background=(1, 2, 3))(clear) == (1, 2, 3)).all()


def test_half_transparency_mixes_with_the_background() -> None:
    pixels = Preprocess()(Image.new("RGBA", (9, 9), (0, 0, 0, 128)))
    assert (pixels == 255 - 128).all()


def test_palette_transparency_shows_the_background() -> None:
    picture = Image.new("P", (9, 9))
    picture.putpalette([255, 0, 0])
    picture.info["transparency"] = 0
    assert (Preprocess()(picture) == 255).all()


def test_grey_stays_grey() -> None:
    assert (Preprocess()(Image.new("L", (9, 9), 77)) == 77).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    picture = Image.fromarray(np.full((9, 9), 0x4D00, np.uint16))
    assert (Preprocess()(picture) == 0x4D).all()


def test_camera_orientation_is_undone() -> None:
    upright = Image.new("RGB", (48, 48), "white")
    upright.paste((255, 0, 0), (0, 0, 48, 24))  # red above
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: viewers rotate by 90 degrees clockwise
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    assert (Preprocess()(Image.open(file)) == np.asarray(upright)).all()


def test_large_picture_is_averaged_not_sampled() -> None:
    checks = np.indices((480, 480)).sum(axis=0) % 2 * 255
    pixels = Preprocess()(Image.fromarray(checks.astype(np.uint8)))
    assert abs(pixels[8:-8, 8:-8].astype(int) - 127).max() <= 3


def test_json_round_trip() -> None:
    preprocess = Preprocess(size=64, background=(0, 1, 2))
    assert Preprocess.from_json(preprocess.to_json()) == preprocess


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": "nearest"}, "resample = 'nearest'; expected 'bilinear-antialiased'"),
        ({"size": "large"}, "cannot be read"),
        ({"size": 0}, "cannot be read"),
        ({"background": [0, 0]}, "cannot be read"),
        ({"background": [0, 0, 256]}, "cannot be read"),
    ],
)
def test_other_preprocessing_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocess.from_json(Preprocess().to_json() | change)
