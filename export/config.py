"""Settings of the `export` stage."""

from dataclasses import dataclass

from dmedge.export.targets import find_target


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Where the bundle is to run; precision comes with the checkpoint."""

    target: str

    def __post_init__(self) -> None:
        find_target(self.target)
