"""Preprocessing: every kind of picture becomes the same kind of pixels."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmedge.data.transforms import LONGEST, RESAMPLES, Preprocess
from dmedge.errors import DataError

ORIENTATION = 0x0112

KINDS: dict[str, dict[str, Any]] = {
    "pad": {},
    "pad-bicubic": {"resample": "bicubic-antialiased"},
    "squash": {"fit": "squash", "resample": "bicubic-antialiased"},
    "squash-nearest": {"fit": "squash", "resample": "nearest"},
    "crop": {"fit": "crop-centre", "shortest_edge": 32, "resample": "lanczos-antialiased"},
    "crop-inner": {"fit": "crop-centre", "shortest_edge": 40},
    "crop-outer": {"fit": "crop-centre", "shortest_edge": 20},
}


def test_picture_of_the_right_size_passes_unchanged(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (48, 48, 3), np.uint8)
    assert (Preprocess()(Image.fromarray(pixels)) == pixels).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (500, 2), (2, 500), (48, 48)], ids=str)
def test_every_mode_and_size(mode: str, size: tuple[int, int]) -> None:
    for kind in KINDS.values():
        pixels = Preprocess(size=32, **kind)(Image.new(mode, size))
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("crop-inner", "crop-outer")])
def test_every_kind_that_says_so_keeps_a_square(kind: str, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
    preprocess = Preprocess(size=32, **KINDS[kind])
    assert preprocess.keeps_square
    assert (preprocess(Image.fromarray(pixels)) == pixels).all()


def test_inner_and_outer_crops_do_not_keep_a_square() -> None:
    assert not Preprocess(size=32, **KINDS["crop-inner"]).keeps_square
    assert not Preprocess(size=32, **KINDS["crop-outer"]).keeps_square


def test_squash_gives_both_halves_the_same_room() -> None:
    picture = Image.new("RGB", (200, 20), "red")
    picture.paste((0, 0, 255), (100, 0, 200, 20))
    pixels = Preprocess(size=16, fit="squash", resample="nearest")(picture)
    assert (pixels[:, :8] == (255, 0, 0)).all()
    assert (pixels[:, 8:] == (0, 0, 255)).all()


def test_crop_takes_the_middle_and_rounds_down() -> None:
    columns = np.zeros((10, 33, 3), np.uint8)
    columns[:, :, 0] = np.arange(33)
    pixels = Preprocess(size=10, fit="crop-centre", shortest_edge=10)(Image.fromarray(columns))
    assert (pixels[:, :, 0] == np.arange(11, 21)).all(), "(33 - 10) // 2 = 11 columns to the left are left out"


def test_crop_beyond_the_picture_is_black() -> None:
    pixels = Preprocess(size=13, fit="crop-centre", shortest_edge=10)(Image.new("RGB", (50, 50), "white"))
    assert (pixels[2:12, 2:12] == 255).all(), "three lines are missing: two before, one after"
    assert pixels.sum() == 10 * 10 * 3 * 255


def test_crop_of_a_thread_takes_no_memory() -> None:
    pixels = Preprocess(size=64, fit="crop-centre", shortest_edge=64)(Image.new("RGB", (200_000, 1), (9, 8, 7)))
    assert (pixels == (9, 8, 7)).all()


def test_crop_of_a_long_picture_is_that_of_the_whole() -> None:
    ramp = np.arange(LONGEST * 4, dtype=np.uint8)[None, :, None].repeat(4, 0).repeat(3, 2)
    preprocess = Preprocess(size=8, fit="crop-centre", shortest_edge=8)
    longer = np.pad(ramp, ((0, 0), (30, 30), (0, 0)))
    assert (preprocess(Image.fromarray(ramp)) == preprocess(Image.fromarray(longer))).all()


def test_filters_differ() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    found = {Preprocess(16, fit="squash", resample=name)(picture).tobytes() for name in RESAMPLES}
    assert len(found) == len(RESAMPLES)


@pytest.mark.parametrize("kind", KINDS)
def test_json_round_trip(kind: str) -> None:
    preprocess = Preprocess(size=64, background=(0, 1, 2), **KINDS[kind])
    assert Preprocess.from_json(preprocess.to_json()) == preprocess


def test_file_of_the_first_kind_still_loads_and_is_written_the_same() -> None:
    table = {
        "size": 48,
        "background": [255, 255, 255],
        "resample": "bilinear-antialiased",
        "fit": "pad-centre",
        "layout": "HWC",
        "dtype": "uint8",
    }
    assert Preprocess.from_json(table) == Preprocess()
    assert Preprocess().to_json() == table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": "bilinear"}, "resample = 'bilinear'; expected 'bilinear-antialiased' or"),
        ({"fit": "stretch"}, "fit = 'stretch'; expected 'pad-centre' or 'squash' or 'crop-centre'"),
        ({"layout": "CHW"}, "layout = 'CHW'; expected 'HWC'"),
        ({"fit": "crop-centre"}, "cannot be read .*shortest_edge None"),
        ({"fit": "crop-centre", "shortest_edge": 0}, "cannot be read .*shortest_edge 0"),
        ({"shortest_edge": 48}, "cannot be read .*shortest_edge 48"),
        ({"size": "large"}, "cannot be read"),
        ({"size": 0}, "cannot be read"),
        ({"background": [0, 0]}, "cannot be read"),
        ({"background": [0, 0, 256]}, "cannot be read"),
    ],
    ids=str,
)
def test_other_preprocessing_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Preprocess.from_json(Preprocess().to_json() | change)


def test_unknown_kinds_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="fit = 'stretch'"):
        Preprocess(fit="stretch")  # type: ignore[arg-type]
