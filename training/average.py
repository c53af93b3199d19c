"""The moving average of the weights, which is what gets evaluated and kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from dmedge.errors import ConfigError
from dmedge.training.optimizer import plain_name

T = TypeVar("T")


def is_first_rank() -> bool:
    """Whether this process is the only one, or the first of several."""
    return not _has_ranks() or distributed.get_rank() == 0


def from_first_rank(value: T) -> T:
    """What the first rank passed; every rank has to call."""
    if not _has_ranks():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def live_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by plain name: the objects themselves, shards where there are shards.

    Asking for them makes FSDP let go of weights that it has gathered.
    """
    found = model.state_dict(keep_vars=True).items()
    return {plain_name(name): tensor for name, tensor in found if isinstance(tensor, Tensor)}


class Average:
    """Exponential moving average of the parameters and buffers of one module.

    Integer buffers are copied. With a `decay` of 0 an update makes the average equal to the model.
    What FSDP has sharded is averaged shard by shard, so an average is made after `fully_shard`.
    Only the methods that say so talk to other ranks.

    Source: Polyak and Juditsky 1992, doi:10.1137/0330046.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._first: dict[str, str] = {}  # name -> the first name of the same tensor, since weights may be tied
        self._tensors: dict[str, Tensor] = {}  # by first name
        seen: dict[int, str] = {}
        for name, tensor in live_tensors(model).items():
            self._first[name] = seen.setdefault(id(tensor), name)
            if self._first[name] == name:
                self._tensors[name] = tensor.detach().clone()

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` after its step number `step`, counted from 1; young averages move faster."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        alike: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
        for mine, theirs in self._pairs(model):
            targets, sources = alike.setdefault((mine.device, mine.dtype), ([], []))
            targets.append(mine)
            sources.append(theirs)
        for (_, dtype), (targets, sources) in alike.items():
            if dtype.is_floating_point and share < 1:
                torch._foreach_lerp_(targets, sources, share)
            else:
                torch._foreach_copy_(targets, sources)

    @contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Have `model` hold the average inside, and exactly its own weights again after.

        Both change places in memory, so inside there is no third copy, and a change made to `model`
        inside is a change of the average.
        """
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Give `model` the average; a whole model from a sharded average needs every rank to call."""
        for name, theirs in self._matched(model).items():
            mine = self._tensors[self._first[name]]
            if isinstance(mine, DTensor) and not isinstance(theirs, DTensor):
                mine = mine.full_tensor()
            _local(theirs).copy_(_local(mine))

    @torch.no_grad()
    def state_dict(self) -> dict[str, Tensor]:
        """Whole tensors on the CPU, by the names of the model's own state, which a whole model can load.

        Every rank has to call; only the first gets them, the others an empty table.
        """
        whole = {}
        for name, mine in self._tensors.items():
            tensor = mine.full_tensor() if isinstance(mine, DTensor) else mine
            if is_first_rank():
                whole[name] = tensor.detach().to("cpu", copy=True)
        return {name: whole[first] for name, first in self._first.items()} if is_first_rank() else {}

    @torch.no_grad()
    def load_state_dict(self, table: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; every rank has to call, and the table of the first one counts.

        Raises:
            ConfigError: the table has other names or shapes.
        """
        if problem := from_first_rank(self._mismatch(table) if is_first_rank() else ""):
            raise ConfigError(f"the saved average {problem}; expected that of the same model; start a new run")
        for name, mine in self._tensors.items():
            whole = table[name].to(mine.device, mine.dtype) if is_first_rank() else _like(mine)
            if isinstance(mine, DTensor):
                mine.to_local().copy_(distribute_tensor(whole, mine.device_mesh, mine.placements).to_local())
                continue
            if _has_ranks():
                whole = whole.clone() if is_first_rank() else whole
                distributed.broadcast(whole, src=0)
            mine.copy_(whole)

    def _mismatch(self, table: Mapping[str, Tensor]) -> str:
        """What is wrong with a table; nothing if it fits."""
        if names := sorted(table.keys() ^ self._first.keys()):
            return f"differs in {', '.join(names[:3])}"
        for name, mine in self._tensors.items():
            if table[name].shape != mine.shape:
                return f"has {name} of shape {[*table[name].shape]}, not {[*mine.shape]}"
        return ""

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        for mine, theirs in self._pairs(model):
            held = theirs.clone()
            theirs.copy_(mine)
            mine.copy_(held)

    def _pairs(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """The part that this rank holds of every tensor of the average, and the same of `model`."""
        live = self._matched(model)
        if any(isinstance(mine, DTensor) != isinstance(live[name], DTensor) for name, mine in self._tensors.items()):
            raise ValueError("model and average are not sharded alike; make the Average after fully_shard")
        return [(_local(mine), _local(live[name])) for name, mine in self._tensors.items()]

    def _matched(self, model: nn.Module) -> dict[str, Tensor]:
        live = live_tensors(model)
        if live.keys() != self._first.keys():
            odd = sorted(live.keys() ^ self._first.keys())
            raise ValueError(f"the average is of another model: only one has {', '.join(odd[:3])}")
        return live


def _has_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def _local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, for writing in place."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def _like(tensor: Tensor) -> Tensor:
    """An empty whole tensor of the shape of a perhaps sharded one."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
