"""Settings of the `compress` stage."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressConfig:
    """What to do to a checkpoint.

    `keep` names modules that stay float32; a name stands for all that lies below it. Calibration
    draws `calibration_items` pictures and texts, as many of each language, from `data`: "emoji",
    of which only what was trained on is taken, or a folder with images and captions.
    """

    int8: bool = False
    keep: tuple[str, ...] = ()
    calibration_items: int = 256
    seed: int = 0
    data: str = "emoji"

    def __post_init__(self) -> None:
        if not self.int8:
            raise ValueError("int8 is false, so there is nothing to do; set int8 = true")
        if self.calibration_items < 1:
            raise ValueError(f"calibration_items is {self.calibration_items}; expected 1 or more")
