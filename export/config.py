"""Settings of the `export` stage."""

from dataclasses import dataclass

from dmedge.export.engines import ENGINES
from dmedge.export.targets import chosen_engines


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Where the bundle is to run; precision comes with the checkpoint."""

    target: str
    runtimes: tuple[str, ...] = ()  # of those that the target has; none named means all

    def __post_init__(self) -> None:
        chosen_engines(self.target, self.runtimes)

    @property
    def first_runtime(self) -> str:
        """The runtime that is judged unless another is asked for."""
        return ENGINES[chosen_engines(self.target, self.runtimes)[0]].runtime
