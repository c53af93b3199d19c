"""Cached gradients: a batch larger than memory, with the gradients of the whole batch.

Contrastive losses need all embeddings at once, the towers do not. So the embeddings are computed in parts without
keeping activations, the gradients of the joint losses with respect to them are cached, and each part is encoded
again to carry its cached gradients into the weights. Memory is that of one part; the price is a second forward pass.

What stays different from the whole batch: batch normalisation sees the statistics of a part (in both passes, so the
gradients are those of such a model; the running averages count each part once). Modules that draw from other random
generators than torch's see other numbers in the second pass, and their gradients are wrong.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.modules.batchnorm import _BatchNorm

from dmedge.training.batch import TrainBatch, split_batch
from dmedge.training.losses import full_precision

LOCAL = "local/"  # begins the names of the losses that need only their own part

Encoded = dict[str, Tensor]
Context = Callable[[], AbstractContextManager[object]]
RandomState = tuple[Tensor, Tensor | None]  # of the CPU and, where there is one, of the CUDA device


def cached_backward(
    objective: nn.Module,
    batch: TrainBatch,
    parts: int,
    *,
    autocast: Context,
    backward: Callable[[Tensor], object],
    no_sync: Context,
) -> dict[str, Tensor]:
    """Add the gradients of the whole batch to the parameters, holding the activations of one part at a time.

    Args:
        objective: bare, or wrapped by DDP, FSDP or torch.compile. `forward` encodes a part; `joint` of the bare
            module gives the losses of all rows and may use a parameter only through what `forward` returned.
        batch: of this rank, on its device.
        parts: at most as many parts; under FSDP and SyncBatchNorm all ranks must come to the same number.
        autocast: makes the context of every forward pass.
        backward: takes a loss, e.g. `Accelerator.backward`; scales it where gradients are scaled.
        no_sync: makes the context in which gradients stay on their rank, used for all parts but the last.

    Returns:
        [] detached losses: those of `joint`, and the "local/..." ones averaged over the parts, each weighted with
        its share of the pictures: the mean of the whole batch for a mean over pictures. Their sum was minimised.

    Raises:
        ValueError: `joint` uses a parameter of its own.

    Source: Gao et al. 2021, arXiv:2101.06983.
    """
    # A sharded tower gathers its weights for every chunk, so all ranks need as many; empty ones stay.
    pieces = split_batch(batch, parts, keeps_empty=isinstance(objective, FSDPModule))
    # DDP averages gradients in the last part, which should therefore reach both towers.
    pieces.sort(key=lambda piece: bool(piece.chunks))
    states, encoded = _encode(objective, pieces, autocast)
    losses, gradients = _joint_gradients(objective, encoded)
    for number, (piece, state) in enumerate(zip(pieces, states, strict=True)):
        is_last = number == len(pieces) - 1
        with nullcontext() if is_last else no_sync():
            with autocast(), _replay(state, batch.pixels.device):
                again: Encoded = objective(piece)
            local = {
                name: full_precision(value) * len(piece.key) / len(batch.key)
                for name, value in again.items()
                if name.startswith(LOCAL)
            }
            terms = [(full_precision(again[name]) * gradient).sum() for name, gradient in gradients[number].items()]
            backward(torch.stack([*terms, *local.values()]).sum())
        for name, value in local.items():
            losses[name] = losses.get(name, torch.zeros_like(value)) + value.detach()
    return losses


@torch.no_grad()
def _encode(
    objective: nn.Module, pieces: list[TrainBatch], autocast: Context
) -> tuple[list[RandomState], list[Encoded]]:
    """Encode every part, and return the random state before each."""
    states, encoded = [], []
    with _still_averages(objective):
        for piece in pieces:
            states.append(_random_state(piece.pixels.device))
            with autocast():
                outputs: Encoded = objective(piece)
            encoded.append({name: value for name, value in outputs.items() if not name.startswith(LOCAL)})
    return states, encoded


def _joint_gradients(objective: nn.Module, encoded: list[Encoded]) -> tuple[dict[str, Tensor], list[Encoded]]:
    """Return the joint losses, and their gradients with respect to what each part encoded.

    A number such as the scale is the same in all parts, so each carries an equal share of its gradient.
    """
    owners = {name: [part for part in encoded if name in part] for part in encoded for name in part}
    leaves = {}
    for name, parts in owners.items():
        whole = parts[0][name] if parts[0][name].ndim == 0 else torch.cat([part[name] for part in parts])
        leaves[name] = full_precision(whole).detach().requires_grad_() if whole.is_floating_point() else whole
    losses = _joint_of(objective)(leaves)
    inputs = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    gradients: list[Encoded] = [{} for _ in encoded]
    if losses:
        total = torch.stack([full_precision(loss) for loss in losses.values()]).sum()
        _require_only(total, list(inputs.values()))
        found = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
        for name, gradient in zip(inputs, found, strict=True):
            if gradient is not None:
                _share_out(name, gradient, encoded, gradients)
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def _share_out(name: str, gradient: Tensor, encoded: list[Encoded], gradients: list[Encoded]) -> None:
    """Give each part its rows of a gradient, or an equal share where it is of one number."""
    owners = [number for number, part in enumerate(encoded) if name in part]
    if gradient.ndim == 0:
        pieces = [gradient / len(owners)] * len(owners)
    else:
        pieces = list(torch.split(gradient, [len(encoded[number][name]) for number in owners]))
    for number, piece in zip(owners, pieces, strict=True):
        gradients[number][name] = piece


def _require_only(total: Tensor, leaves: list[Tensor]) -> None:
    """Refuse a loss that reaches a parameter around the leaves: its gradient would be lost."""
    known = {id(leaf) for leaf in leaves}
    nodes, seen = [total.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in known:
            raise ValueError(
                f"joint uses a parameter {[*variable.shape]} that forward did not return; "
                "expected losses of what forward returned alone; return from forward what joint needs"
            )
        nodes.extend(following for following, _ in node.next_functions)


def _joint_of(objective: nn.Module) -> Callable[[Encoded], dict[str, Tensor]]:
    """Return the method of the module inside the wrappers."""
    bare: Any = objective
    while not hasattr(bare, "joint"):
        bare = bare.module
    return bare.joint  # type: ignore[no-any-return]


@contextmanager
def _still_averages(objective: nn.Module) -> Iterator[None]:
    """Keep the running averages of batch normalisation as they are; training statistics stay those of the batch."""
    norms = [module for module in objective.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _random_state(device: torch.device) -> RandomState:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: RandomState, device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


@contextmanager
def _replay(state: RandomState, device: torch.device) -> Iterator[None]:
    """Draw the random numbers that followed `state`; afterwards go on as if nothing had been drawn."""
    after = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(after, device)
