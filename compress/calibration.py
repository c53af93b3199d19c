"""Calibration data: as many items of every language, drawn by seed, and written down."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmedge.compress.config import CompressConfig
from dmedge.data.emoji import TRAIN_STYLES, load_pack
from dmedge.data.evalset import folder_evalset
from dmedge.data.languages import choose_languages
from dmedge.data.splits import training_texts
from dmedge.data.transforms import Preprocess

Draw = Callable[[np.random.Generator], tuple[str, Any, str]]  # -> text, picture, where it is from


@dataclass(frozen=True, slots=True)
class CalibrationItem:
    """What one item is, by content, so that it can be compared with any evaluation set."""

    language: str
    source: str  # of the picture
    text_sha256: str
    pixels_sha256: str  # after preprocessing


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Pictures and texts to run through a model."""

    data: str
    seed: int
    items: tuple[CalibrationItem, ...]
    pixels: NDArray[np.uint8]  # [N, S, S, 3]
    texts: tuple[str, ...]  # [N]

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages drawn, sorted."""
        return tuple(sorted({item.language for item in self.items}))

    def write(self, path: Path) -> None:
        """Write what was drawn, as hashes, as JSON."""
        table = {"data": self.data, "seed": self.seed, "items": [asdict(item) for item in self.items]}
        path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def draw_calibration(config: CompressConfig, preprocess: Preprocess) -> CalibrationSet:
    """Draw items in turn from every language, in an order that the seed gives.

    Raises:
        ConfigError: the data has no text in one of the languages.
        DataError: the folder that `config.data` names cannot be used.
    """
    draws = _emoji_draws() if config.data == "emoji" else _folder_draws(Path(config.data))
    if config.languages:
        draws = {language: draws[language] for language in choose_languages(config.languages, draws)}
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(sorted(draws))
    items, pixels, texts = [], [], []
    for number in range(config.calibration_items):
        language = str(order[number % len(order)])
        text, picture, source = draws[language](rng)
        seen = preprocess(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))
        items.append(CalibrationItem(language, source, _sha256(text.encode()), _sha256(seen.tobytes())))
        pixels.append(seen)
        texts.append(text)
    return CalibrationSet(config.data, config.seed, tuple(items), np.stack(pixels), tuple(texts))


@lru_cache(maxsize=1)
def _emoji_draws() -> Mapping[str, Draw]:
    """Training texts of training cells, each with a picture of its emoji in a training style."""
    pack = load_pack()
    texts = defaultdict(list)
    for text in training_texts(pack):
        texts[text.locale].append(text)
    styles = {style: pack.images(style) for style in TRAIN_STYLES}

    def drawer(locale: str) -> Draw:
        def draw(rng: np.random.Generator) -> tuple[str, Any, str]:
            text = texts[locale][rng.integers(len(texts[locale]))]
            drawn = [style for style, (_, present) in styles.items() if present[text.emoji]]
            style = drawn[rng.integers(len(drawn))]
            return text.text, styles[style][0][text.emoji], f"{style}/{pack.emoji[text.emoji].hexcode}"

        return draw

    return {locale: drawer(locale) for locale in texts}


def _folder_draws(path: Path) -> Mapping[str, Draw]:
    data = folder_evalset(path)
    rows = defaultdict(list)
    for row, language in enumerate(data.languages):
        rows[language].append(row)

    def drawer(own: Sequence[int]) -> Draw:
        def draw(rng: np.random.Generator) -> tuple[str, Any, str]:
            row = own[int(rng.integers(len(own)))]
            image = int(data.text_image[row])
            return data.texts[row], data.images[image], data.clusters[image]

        return draw

    return {language: drawer(own) for language, own in rows.items()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
