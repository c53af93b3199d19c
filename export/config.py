"""Settings of the `export` stage."""

from dataclasses import dataclass

from dmedge.errors import ConfigError
from dmedge.export.engines import ENGINES
from dmedge.export.targets import chosen_engines


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Where the bundle is to run; precision comes with the checkpoint."""

    target: str
    runtimes: tuple[str, ...] = ()  # of those that the target has; none named means all

    bundled: bool = False  # add an ExecuTorch program that verifies itself on a device
    min_delegated: float | None = None  # least share of each program's multiply-accumulates that a delegate runs
    min_int8: float | None = None  # and that are of integers

    def __post_init__(self) -> None:
        engines = chosen_engines(self.target, self.runtimes)
        if self.bundled and "executorch" not in {ENGINES[name].runtime for name in engines}:
            raise ConfigError(
                f"bundled, but no program for executorch in {', '.join(engines)}; expected one; leave bundled out"
            )
        for name, share in (("min_delegated", self.min_delegated), ("min_int8", self.min_int8)):
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"{name} = {share}; expected a share within 0..1")

    @property
    def first_runtime(self) -> str:
        """The runtime that is judged unless another is asked for."""
        return ENGINES[chosen_engines(self.target, self.runtimes)[0]].runtime
