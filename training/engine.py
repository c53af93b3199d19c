"""Processes, devices and precision of a run: accelerate's, with torch's own sharding.

The same lines run in one process, under `torchrun` or `accelerate launch` on several CPUs or GPUs, and on
several machines.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn

from dmedge.errors import ConfigError
from dmedge.model.attention import Blocks
from dmedge.model.dual import DualEncoder
from dmedge.training.config import TrainConfig

PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}  # ours -> accelerate's


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The processes that torchrun or `accelerate launch` started, or this one alone.

    Raises:
        ConfigError: the precision or the batch does not fit what there is.
    """
    idle = config.model.modality != "full" or config.match_weight + config.class_weight + config.answer_weight > 0
    accelerator = Accelerator(
        mixed_precision=pick_precision(config),
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=idle)],
    )
    if config.batch_size % accelerator.num_processes or config.batch_size < 2 * accelerator.num_processes:
        raise ConfigError(
            f"batch_size is {config.batch_size}, the sum over {accelerator.num_processes} processes; "
            "expected a multiple of their number, 2 or more for each; change batch_size"
        )
    if config.sharding == "fsdp" and accelerator.num_processes == 1:
        raise ConfigError(
            "sharding = 'fsdp' in one process; expected several; start with torchrun --nproc-per-node N -m dmedge …, "
            "or set sharding = 'none'"
        )
    return accelerator


def pick_precision(config: TrainConfig) -> str:
    """bf16 where the device multiplies it natively, else float32, unless the recipe says.

    Returns:
        accelerate's name: "bf16", "fp16" or "no".

    Raises:
        ConfigError: float16 without a GPU, whose gradients would have no scaler.
    """
    if config.precision == "float16" and not torch.cuda.is_available():
        raise ConfigError("precision is 'float16' without a GPU; expected 'auto', 'bfloat16' or 'float32' here")
    if config.precision != "auto":
        return PRECISIONS[config.precision]
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"


def prepare_model_(model: DualEncoder, config: TrainConfig, accelerator: Accelerator) -> None:
    """Switch on gradient checkpointing, synchronised batch statistics and compilation, in place.

    Raises:
        ConfigError: gradient checkpointing has nothing to work on.
    """
    if config.gradient_checkpointing:
        recompute_(model)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if config.compile:
        model.image.compile()
        model.text.compile(dynamic=True)  # texts have many lengths


def recompute_(model: DualEncoder) -> None:
    """Have every transformer of the model compute its activations again in the backward pass.

    Raises:
        ConfigError: it has no transformer.
    """
    from dmedge.model import hf

    stacks = [module for module in model.modules() if isinstance(module, Blocks)]
    for stack in stacks:
        stack.recomputes = True
    imported = [tower for tower in (model.image, model.text) if isinstance(tower, (hf.HfImageTower, hf.HfTextTower))]
    for tower in imported:
        hf.recompute_(tower, enabled=True)
    if not stacks and not imported:
        raise ConfigError(
            "gradient_checkpointing works on transformers, and this model has none; expected image = 'vit' or 'hf', "
            "or text = 'transformer' or 'hf'; set it to false, or use grad_cache_parts"
        )


def shard_(objective: nn.Module, accelerator: Accelerator) -> None:
    """Spread parameters, gradients and optimiser state over the ranks (FSDP2).

    It takes no parameter that is a single number: every rank holds those whole, and `average_scalars_` has their
    gradients agree.

    accelerate offers FSDP to GPUs alone; torch's own runs everywhere, so the CPU tests take the path of the GPUs.

    Source: Zhao et al. 2023, arXiv:2304.11277.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in objective.modules():
        if isinstance(module, Blocks):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh, ignored_params=set(_scalars(objective)))


def average_scalars_(objective: nn.Module, accelerator: Accelerator) -> None:
    """Average over the ranks the gradients of single numbers, which FSDP leaves to each rank."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(objective, FSDPModule):
        return
    gradients = [scalar.grad for scalar in _scalars(objective) if scalar.grad is not None]
    if gradients:
        for gradient, mean in zip(gradients, accelerator.reduce(torch.stack(gradients), "mean"), strict=True):
            gradient.copy_(mean)


def _scalars(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.dim() == 0]


def no_sync(objective: nn.Module, accelerator: Accelerator) -> Callable[[], AbstractContextManager[object]]:
    """What makes the context in which gradients stay on their rank."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(objective, FSDPModule):
        return lambda: accelerator.no_sync(objective)

    @contextmanager
    def unsynchronised() -> Iterator[None]:
        objective.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            objective.set_requires_gradient_sync(True)

    return unsynchronised


def clip_(objective: nn.Module, limit: float, accelerator: Accelerator) -> Tensor:
    """Scale the gradients down to a norm of `limit`; 0 for no limit. Returns the norm before, [].

    Source: Pascanu et al. 2013, arXiv:1211.5063.
    """
    accelerator.unscale_gradients()
    norm = nn.utils.clip_grad_norm_(objective.parameters(), limit or torch.inf)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def find_parts(attempt: Callable[[int], object], first: int, most: int) -> int:
    """The smallest number of parts of a batch, doubled from `first`, with which `attempt` fits into memory.

    A batch cut into parts keeps its size, and with cached gradients its meaning, so a recipe computes the same
    wherever it runs.

    Raises:
        ConfigError: not even single pictures fit.
    """
    parts = first
    while True:
        try:
            attempt(parts)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if parts >= most:
                raise ConfigError(
                    f"out of memory with {parts} parts, one picture each; expected a part to fit; "
                    "set gradient_checkpointing = true, or choose smaller towers"
                ) from error
        else:
            return parts
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        parts = min(2 * parts, most)
