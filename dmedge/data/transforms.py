"""Any picture to the pixels that the image tower takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dmedge.errors import DataError

_FIXED = {"resample": "bilinear-antialiased", "fit": "pad-centre", "layout": "HWC", "dtype": "uint8"}


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Upright, on a plain background, longest side to `size` pixels, padded to a square.

    A picture that already is size x size RGB passes unchanged.
    """

    size: int = 48
    background: tuple[int, ...] = (255, 255, 255)

    def __post_init__(self) -> None:
        if self.size < 1 or len(self.background) != 3 or not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"size {self.size}, background {self.background}; expected >= 1 and three of 0..255")

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Pixels as uint8 [size, size, 3]."""
        rgb = self._flatten(ImageOps.exif_transpose(image))
        scale = self.size / max(rgb.size)
        width, height = (max(1, round(side * scale)) for side in rgb.size)
        resized = rgb.resize((width, height), Image.Resampling.BILINEAR)
        square = Image.new("RGB", (self.size, self.size), self.background)
        square.paste(resized, ((self.size - width) // 2, (self.size - height) // 2))
        return np.array(square)

    def _flatten(self, image: Image.Image) -> Image.Image:
        if image.mode.startswith("I;16"):  # Pillow clips 16-bit grey instead of scaling it
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if not image.has_transparency_data:
            return image.convert("RGB")
        back = Image.new("RGBA", image.size, (*self.background, 255))
        return Image.alpha_composite(back, image.convert("RGBA")).convert("RGB")

    def to_json(self) -> dict[str, Any]:
        """What preprocessor_config.json holds; the fixed entries are for readers in other languages."""
        return {"size": self.size, "background": list(self.background), **_FIXED}

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            DataError: the entries describe another preprocessing, or an impossible one.
        """
        for key, value in _FIXED.items():
            if config.get(key) != value:
                raise DataError(
                    f"preprocessing has {key} = {config.get(key)!r}; expected {value!r}; make the artifact again"
                )
        try:
            return cls(int(config["size"]), tuple(config["background"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"preprocessing cannot be read ({error}); make the artifact again") from error
