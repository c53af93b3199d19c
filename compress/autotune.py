"""neural-compressor's tuner over our plans: a configuration class and an algorithm of ours in its registries.

neural-compressor chooses the order, the stopping and the best trial; what it calls to quantize and to measure is
ours. It is imported only where a search is asked for, since that takes seconds.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from torch import nn

from dmedge.compress.budget import Kept
from dmedge.compress.neural_compressor import NAME, require_neural_compressor
from dmedge.logs import quieter
from dmedge.model.dual import DualEncoder

ALGORITHM = "dmedge_plan"  # in neural-compressor's registries

CarryOut = Callable[[DualEncoder, Kept], DualEncoder]


def autotune_plans(
    model: DualEncoder,
    variants: Sequence[Kept],
    carry_out: CarryOut,
    evaluate: Callable[[nn.Module], float],
    tolerable_loss: float,
) -> None:
    """Try plans in their order until one loses little enough.

    Args:
        model: float.
        variants: of each plan, what keeps more bits.
        carry_out: quantizes a model with some of it kept.
        evaluate: first called with the float model, then with that of every trial; higher is better.
        tolerable_loss: relative to what `evaluate` says of the float model.

    Raises:
        DmedgeError: neural-compressor is not installed.
    """
    with quieter(NAME, logging.ERROR):  # several tables a trial; dmedge writes its own line
        quantization = require_neural_compressor("torch.quantization")
        plans = [_plan_config()(float32=",".join(keep.float32), int8=",".join(keep.int8)) for keep in variants]
        tuning = quantization.TuningConfig(config_set=plans, tolerable_loss=tolerable_loss, max_trials=len(plans))
        quantization.autotune(model, tuning, evaluate, run_fn=carry_out)


@cache
def _plan_config() -> Any:
    """Register the configuration class and the algorithm, once, and return the class."""
    from neural_compressor.common.base_config import BaseConfig, register_config
    from neural_compressor.torch.utils import register_algo

    @register_config(framework_name="torch", algo_name=ALGORITHM)
    class PlanConfig(BaseConfig):  # type: ignore[misc]
        """One plan, by the modules that keep more bits, joined by commas: a list would be taken for choices."""

        name = ALGORITHM
        params_list = ("float32", "int8")

        def __init__(self, float32: str = "", int8: str = "", white_list: None = None) -> None:
            super().__init__(white_list=white_list)
            self.float32, self.int8 = float32, int8

        def expand(self) -> list[Any]:
            return [self]

        def get_model_info(self, model: nn.Module) -> list[tuple[str, str]]:
            return [("", type(model).__name__)]

        def to_config_mapping(
            self, config_list: object = None, model_info: Sequence[tuple[str, str]] = ()
        ) -> dict[tuple[str, str], Any]:
            return dict.fromkeys(model_info, self)

        @classmethod
        def register_supported_configs(cls) -> None:
            """Every module that a plan can name is supported."""

        @classmethod
        def get_config_set_for_tuning(cls) -> Any:
            return cls()

    @register_algo(name=ALGORITHM)  # type: ignore[untyped-decorator]
    def carry_out_plan(
        model: DualEncoder,
        configs_mapping: Mapping[tuple[str, str], Any],
        run_fn: CarryOut,
        run_args: object = None,
        example_inputs: object = None,
        mode: object = None,
    ) -> DualEncoder:
        (config,) = configs_mapping.values()
        return run_fn(model, Kept(*(tuple(filter(None, names.split(","))) for names in (config.float32, config.int8))))

    return PlanConfig
