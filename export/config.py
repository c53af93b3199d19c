"""Settings of the `export` stage."""

from dataclasses import dataclass

from dmedge.export.targets import chosen_engines


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Where the bundle is to run; precision comes with the checkpoint."""

    target: str
    runtimes: tuple[str, ...] = ()  # of those that the target has; none named means all

    def __post_init__(self) -> None:
        chosen_engines(self.target, self.runtimes)
