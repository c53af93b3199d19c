"""Settings of the `compress` stage."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressConfig:
    """What to do to a checkpoint, in this order: trim its vocabulary, quantize it.

    `languages` trims the vocabulary to the pieces that text in these languages uses; for each of them
    the kept pieces make up at least `coverage` of its text. `keep` names modules that stay float32; a
    name stands for all that lies below it. Calibration draws `calibration_items` pictures and texts, as
    many of each language, from `data`, where the text of the languages comes from too: "emoji", of
    which only what was trained on is taken, or a folder with images and captions.
    """

    languages: tuple[str, ...] = ()
    coverage: float = 1.0
    int8: bool = False
    keep: tuple[str, ...] = ()
    calibration_items: int = 256
    seed: int = 0
    data: str = "emoji"

    def __post_init__(self) -> None:
        if not (self.int8 or self.languages):
            raise ValueError("there is nothing to do; set int8 = true, or languages")
        if not 0 < self.coverage <= 1:
            raise ValueError(f"coverage is {self.coverage}; expected a share of more than 0, at most 1")
        if self.calibration_items < 1:
            raise ValueError(f"calibration_items is {self.calibration_items}; expected 1 or more")


def artifact_name(settings: Mapping[str, object]) -> str:
    """What to call a checkpoint that was made with `settings`."""
    parts = {"trimmed": settings.get("languages"), "int8": settings.get("int8")}
    return "-".join(part for part, is_asked in parts.items() if is_asked) or "compressed"
