"""Any picture to the pixels that the image tower takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dmedge.errors import DataError

Fit = Literal["pad-centre", "squash", "crop-centre"]
Resample = Literal["bilinear-antialiased", "bicubic-antialiased", "lanczos-antialiased", "nearest"]

FITS: tuple[Fit, ...] = get_args(Fit)
RESAMPLES: Mapping[Resample, Image.Resampling] = {
    "bilinear-antialiased": Image.Resampling.BILINEAR,
    "bicubic-antialiased": Image.Resampling.BICUBIC,
    "lanczos-antialiased": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}
LONGEST = 50  # times the short side; resized by its short side, a thread would fill the memory

_FIXED = {"layout": "HWC", "dtype": "uint8"}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Upright, on a plain background, resized to a square of `size` pixels in one of three ways.

    - "pad-centre": longest side to `size`, padded with the background.
    - "squash": both sides to `size`, whatever the shape was.
    - "crop-centre": shortest side to `shortest_edge`, then the `size` x `size` pixels in the middle;
      black where there are none.

    Scaling to floats, mean, standard deviation and channel order are inside the program.
    """

    size: int = 48
    background: tuple[int, ...] = (255, 255, 255)
    fit: Fit = "pad-centre"
    resample: Resample = "bilinear-antialiased"
    shortest_edge: int | None = None  # of "crop-centre" only

    def __post_init__(self) -> None:
        if self.size < 1 or len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"size {self.size}, background {self.background}; expected >= 1 and three of 0..255")
        if self.fit not in FITS or self.resample not in RESAMPLES:
            raise ValueError(
                f"fit = {self.fit!r}, resample = {self.resample!r}; "
                f"expected one of {', '.join(FITS)}, and one of {', '.join(RESAMPLES)}"
            )
        edge = self.shortest_edge
        if (edge is None or edge < 1) if self.fit == "crop-centre" else edge is not None:
            raise ValueError(f"shortest_edge {self.shortest_edge}; expected >= 1 for crop-centre, and none otherwise")

    @property
    def keeps_square(self) -> bool:
        """Whether a size x size RGB picture passes unchanged."""
        return self.shortest_edge in (None, self.size)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Pixels as uint8 [size, size, 3]."""
        rgb = self._flatten(ImageOps.exif_transpose(image))
        match self.fit:
            case "pad-centre":
                return self._pad(rgb)
            case "squash":
                return np.array(rgb.resize((self.size, self.size), RESAMPLES[self.resample]))
            case "crop-centre":
                return self._crop(rgb)

    def _flatten(self, image: Image.Image) -> Image.Image:
        if image.mode.startswith("I;16"):  # Pillow clips 16-bit grey instead of scaling it
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if not image.has_transparency_data:
            return image.convert("RGB")
        back = Image.new("RGBA", image.size, (*self.background, 255))
        return Image.alpha_composite(back, image.convert("RGBA")).convert("RGB")

    def _pad(self, rgb: Image.Image) -> NDArray[np.uint8]:
        scale = self.size / max(rgb.size)
        width, height = (max(1, round(side * scale)) for side in rgb.size)
        resized = rgb.resize((width, height), RESAMPLES[self.resample])
        square = Image.new("RGB", (self.size, self.size), self.background)
        square.paste(resized, ((self.size - width) // 2, (self.size - height) // 2))
        return np.array(square)

    def _crop(self, rgb: Image.Image) -> NDArray[np.uint8]:
        assert self.shortest_edge is not None
        short = min(rgb.size)
        if max(rgb.size) > LONGEST * short:
            rgb = _shorten(rgb, LONGEST * short)
        width, height = (  # rounded down, as torchvision and transformers do
            self.shortest_edge if side == short else int(self.shortest_edge * side / short) for side in rgb.size
        )
        resized = np.asarray(rgb.resize((width, height), RESAMPLES[self.resample]))
        square = np.zeros((self.size, self.size, 3), np.uint8)
        rows, from_rows = _middle(height, self.size)
        columns, from_columns = _middle(width, self.size)
        square[rows, columns] = resized[from_rows, from_columns]
        return square

    def to_json(self) -> dict[str, Any]:
        """What preprocessor_config.json holds; the fixed entries are for readers in other languages."""
        table = {"size": self.size, "background": list(self.background), "resample": self.resample, "fit": self.fit}
        return table | ({} if self.shortest_edge is None else {"shortest_edge": self.shortest_edge}) | _FIXED

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            DataError: the entries describe another preprocessing, or an impossible one.
        """
        choices = {"fit": FITS, "resample": tuple(RESAMPLES), **{key: (value,) for key, value in _FIXED.items()}}
        for key, known in choices.items():
            if config.get(key) not in known:
                raise DataError(
                    f"preprocessing has {key} = {config.get(key)!r}; expected {' or '.join(map(repr, known))}; "
                    "make the artifact again"
                )
        edge = config.get("shortest_edge")
        try:
            return cls(
                int(config["size"]),
                tuple(config["background"]),
                config["fit"],
                config["resample"],
                None if edge is None else int(edge),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"preprocessing cannot be read ({error}); make the artifact again") from error


def _shorten(image: Image.Image, longest: int) -> Image.Image:
    """The middle of a picture whose longest side is too long."""
    width, height = (min(side, longest) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _middle(side: int, size: int) -> tuple[slice, slice]:
    """Where the middle of a `side` lies in a `size`, and what of the side that is; an odd pixel goes after a crop."""
    if side >= size:
        start = (side - size) // 2
        return slice(0, size), slice(start, start + size)
    start = (size - side + 1) // 2
    return slice(start, start + side), slice(0, side)
