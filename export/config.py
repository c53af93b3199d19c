"""Settings of the `export` stage."""

from dataclasses import dataclass

from dmedge.config import near_match
from dmedge.errors import ConfigError
from dmedge.export.engines import ENGINES
from dmedge.export.prompts import Prompt
from dmedge.export.targets import chosen_engines
from dmedge.variants import VARIANTS, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Where the bundle is to run; precision comes with the checkpoint."""

    target: str
    runtimes: tuple[str, ...] = ()  # of those that the target has; none named means all
    variant: Variant = "full"  # which programs of the model
    prompts: tuple[Prompt, ...] = ()  # of the variant of that name

    bundled: bool = False  # add an ExecuTorch program that verifies itself on a device
    min_delegated: float | None = None  # least share of each program's multiply-accumulates that a delegate runs
    min_int8: float | None = None  # and that are of integers

    def __post_init__(self) -> None:
        engines = chosen_engines(self.target, self.runtimes)
        if self.bundled and "executorch" not in {ENGINES[name].runtime for name in engines}:
            raise ConfigError(
                f"bundled, but no program for executorch in {', '.join(engines)}; expected one; leave bundled out"
            )
        if self.variant not in VARIANTS:
            raise ConfigError(f"no variant {self.variant!r}{near_match(self.variant, list(VARIANTS))}")
        if (self.variant == "prompts") != bool(self.prompts):
            found = f"{len(self.prompts)} prompts and the variant {self.variant!r}"
            raise ConfigError(f"found {found}; expected prompts exactly with the variant 'prompts'; add or drop them")
        for name, share in (("min_delegated", self.min_delegated), ("min_int8", self.min_int8)):
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"{name} = {share}; expected a share within 0..1")

    @property
    def first_runtime(self) -> str:
        """The runtime that is judged unless another is asked for."""
        return ENGINES[chosen_engines(self.target, self.runtimes)[0]].runtime
