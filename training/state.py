"""All that the next step depends on: captured, written so that no kill can spoil it, and put back."""

import copy
import logging
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import distributed, nn

from dmedge.errors import ConfigError
from dmedge.files import sync
from dmedge.training.average import from_first_rank, is_first_rank, live_tensors
from dmedge.training.optimizer import plain_name

logger = logging.getLogger(__name__)
UNREADABLE = (RuntimeError, ValueError, KeyError, EOFError, OSError, UnpicklingError, BadZipFile)


class StateStore:
    """The states of one run in `folder`: the newest `keep_last`, and the best one.

    It knows nothing of ranks: the first one saves. A file stands whole or not at all.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last

    def save(self, table: Mapping[str, Any], step: int) -> Path:
        """Write the state after `step` steps, then remove those beyond `keep_last`.

        States of later steps go too: they belong to a course that the run has left.
        """
        path = self.folder / f"step-{step:08d}.pt"
        _write(table, path)
        older = [state for state in self.states() if state <= path]
        for stale in {*self.states()} - {*older[-self.keep_last :]}:
            stale.unlink()
        self._remove_partial()
        return path

    def save_best(self, table: Mapping[str, Any]) -> Path:
        """Write what is kept of the best step so far, in place of the one before."""
        path = self.folder / "best.pt"
        _write(table, path)
        return path

    def states(self) -> list[Path]:
        """Files of states, oldest step first."""
        return sorted(self.folder.glob("step-*.pt"))

    def load_newest(self) -> dict[str, Any] | None:
        """The newest state that can be read, tensors on the CPU; None where there is no state.

        Raises:
            ConfigError: there are states, and none of them can be read.
        """
        self._remove_partial()
        states = self.states()
        for path in reversed(states):
            try:
                return _read(path)
            except UNREADABLE as error:
                logger.warning("%s: cannot be read (%s); taking the state before it", path, _reason(error))
        if states:
            raise ConfigError(
                f"{self.folder}: none of its {len(states)} states can be read; expected at least one whole file; "
                "remove the folder to start anew, or choose another --out"
            )
        return None

    def load_best(self) -> dict[str, Any] | None:
        """What `save_best` wrote last; None where it never did, or where the file cannot be read."""
        path = self.folder / "best.pt"
        try:
            return _read(path) if path.exists() else None
        except UNREADABLE as error:
            logger.warning("%s: cannot be read (%s); going on without it", path, _reason(error))
            return None

    def _remove_partial(self) -> None:
        for path in self.folder.glob("*.partial"):
            path.unlink(missing_ok=True)  # another rank does the same


def _write(table: Mapping[str, Any], path: Path) -> None:
    """Have the disk hold the old file or the new one, whatever moment the power goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            torch.save(dict(table), stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def _read(path: Path) -> dict[str, Any]:
    with ZipFile(path) as archive:  # torch reads a flipped bit as if it were right; the archive has checksums
        if damaged := archive.testzip():
            raise BadZipFile(f"wrong checksum of {damaged}")
    table = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(table, dict):
        raise ValueError(f"holds a {type(table).__name__}, not a table")  # noqa: TRY004 - of the file, not of an argument
    return table


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def capture(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Whole weights and optimiser state on the CPU, by parameter name, however both are spread.

    Works alike for one process, DDP and FSDP (`fully_shard`). Every rank has to call; under
    several only the first gets tensors. Later steps do not change what was captured.
    """
    from torch.distributed.checkpoint import state_dict as distributed_state

    inner, scaler = _unwrap(optimizer), getattr(optimizer, "scaler", None)
    options = distributed_state.StateDictOptions(full_state_dict=True, cpu_offload=True)
    table: dict[str, Any] = {
        "model": dict(distributed_state.get_model_state_dict(model, options=options)),
        "optimizer": {},  # asked for before the first step, torch would invent a state and set it
        "scaler": {} if scaler is None else scaler.state_dict(),
    }
    if inner.state:
        table["optimizer"] = distributed_state.get_optimizer_state_dict(model, inner, options=options)
    is_copied = all(parameter.device.type != "cpu" for parameter in model.parameters())
    return table if is_copied else copy.deepcopy(table)


def restore_(model: nn.Module, optimizer: torch.optim.Optimizer, table: Mapping[str, Any]) -> None:
    """Put back what `capture` gave; every rank has to call, and the table of the first one counts.

    The number of ranks and the way the model is spread over them may be another one.

    Raises:
        ConfigError: it belongs to another model.
    """
    table = table if is_first_rank() else {}
    try:
        _restore_optimizer_(model, _unwrap(optimizer), table)
        _restore_weights_(model, table)
        scaler = getattr(optimizer, "scaler", None)
        saved = from_first_rank(table.get("scaler", {}))
        if scaler is not None and saved:
            scaler.load_state_dict(saved)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"the saved state does not fit this model ({_reason(error)}); expected one of the same recipe; "
            "remove the folder of the run, or choose another --out"
        ) from error


def _restore_weights_(model: nn.Module, table: Mapping[str, Any]) -> None:
    from torch.distributed.checkpoint.state_dict import set_model_state_dict

    set_model_state_dict(model, dict(table.get("model", {})), options=_restore_options())


def _restore_optimizer_(model: nn.Module, optimizer: torch.optim.Optimizer, table: Mapping[str, Any]) -> None:
    """Go first: torch prepares an optimiser for loading by a step of size zero, which may turn -0 into 0."""
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    live_tensors(model)  # has FSDP let go of gathered weights
    saved = copy.deepcopy(table.get("optimizer") or {})
    moved = set(from_first_rank(sorted(saved.get("state", {}))))
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()
    if not moved:
        return
    set_optimizer_state_dict(model, optimizer, saved, options=_restore_options(is_strict=False))
    for name, parameter in model.named_parameters():
        if plain_name(name) not in moved:  # it had no gradient yet, so the optimiser had not counted a step for it
            optimizer.state.pop(parameter, None)
    for group in optimizer.param_groups:
        group["betas"] = tuple(group["betas"])


def _restore_options(is_strict: bool = True) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    spread = distributed.is_available() and distributed.is_initialized()
    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=spread, strict=is_strict)


def _unwrap(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser inside the one that accelerate returns."""
    return getattr(optimizer, "optimizer", optimizer)


def capture_random() -> list[dict[str, Any]]:
    """State of the random numbers of torch, numpy, Python and CUDA, of every rank in turn.

    Every rank has to call. Made of plain values and tensors.
    """
    numpy = np.random.get_state(legacy=False)
    mine = {
        "torch": torch.get_rng_state(),
        "numpy": {
            **numpy,
            "state": {**numpy["state"], "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64))},
        },
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        mine["cuda"] = torch.cuda.get_rng_state()
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone


def restore_random_(states: Sequence[Mapping[str, Any]]) -> None:
    """Put back what `capture_random` gave; every rank has to call, and the list of the first one counts.

    A rank that was not there then keeps the random numbers that it has.
    """
    states = from_first_rank(list(states))
    rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
    if rank >= len(states):
        return
    mine = states[rank]
    numpy = mine["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    torch.set_rng_state(mine["torch"])
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    random.setstate(mine["python"])
    if "cuda" in mine and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])
