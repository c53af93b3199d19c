"""Laws of what a run remembers: a capture continues bit for bit, a file is whole or absent, an average is exact."""

import copy
import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, multiprocessing, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from dmedge.errors import ConfigError
from dmedge.training.average import Average, from_first_rank
from dmedge.training.config import TrainConfig
from dmedge.training.early_stop import EarlyStop
from dmedge.training.optimizer import make_optimizer
from dmedge.training.state import StateStore, capture, capture_random, restore_, restore_random_

LATE = 5  # the step from which on `late` has a gradient, as a head has that is trained after the towers


class Net(nn.Module):
    """A bit of everything: a table, statistics, dropout, a scalar, tied weights, and a part that starts late."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 7)
        self.norm = nn.BatchNorm1d(7)
        self.tied = nn.Linear(7, 7, bias=False)
        self.again = nn.Linear(7, 7, bias=False)
        self.again.weight = self.tied.weight
        self.late = nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, ids: Tensor, step: int) -> Tensor:
        x = F.dropout(self.norm(self.hidden(self.table(ids))), 0.2, training=self.training)
        x = self.again(self.tied(x).relu()) * self.scale
        loss: Tensor = (x if step < LATE else self.late(x)).square().mean()
        return loss


Parts = tuple[nn.Module, torch.optim.Optimizer, Average]


def new_parts(model: nn.Module | None = None) -> Parts:
    torch.manual_seed(1)
    model = model or Net()
    return model, make_optimizer(model, TrainConfig(learning_rate=1e-2)), Average(model, 0.9)


def train(parts: Parts, first: int, last: int) -> None:
    model, optimizer, average = parts
    model.train()
    for step in range(first, last):
        loss = model(torch.randint(0, 11, (8,)), step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model, step + 1)


def everything(parts: Parts) -> dict[str, Any]:
    """All that must be equal, bit for bit."""
    model, optimizer, average = parts
    return {**capture(model, optimizer), "average": average.state_dict(), "random": capture_random()}


def put_back(parts: Parts, table: dict[str, Any]) -> None:
    restore_(parts[0], parts[1], table)
    parts[2].load_state_dict(table.get("average", {}))
    restore_random_(table.get("random", []))


def assert_same(mine: Any, theirs: Any, where: str = "") -> None:
    assert type(mine) is type(theirs), where
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), where
        for key in mine:
            assert_same(mine[key], theirs[key], f"{where}/{key}")
    elif isinstance(mine, list | tuple):
        assert len(mine) == len(theirs), where
        for number, pair in enumerate(zip(mine, theirs, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    elif isinstance(mine, Tensor):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, where
        assert mine.contiguous().flatten().view(torch.uint8).equal(theirs.contiguous().flatten().view(torch.uint8)), (
            where
        )
    else:
        assert mine == theirs, where


# Capture and restore


@pytest.mark.parametrize("k", [0, 3, 7], ids=["before-the-first-step", "before-a-part-starts", "after"])
def test_a_restored_run_goes_on_bit_for_bit(tmp_path: Path, k: int) -> None:
    parts = new_parts()
    train(parts, 0, k)
    StateStore(tmp_path, 1).save(everything(parts), k)
    train(parts, k, k + 4)

    torch.manual_seed(99)
    fresh = new_parts(Net())
    random.random(), np.random.random(), torch.rand(1)
    table = StateStore(tmp_path, 1).load_newest()
    assert table is not None
    put_back(fresh, table)
    assert_same(everything(fresh), table)
    train(fresh, k, k + 4)
    assert_same(everything(fresh), everything(parts))


def test_capturing_changes_nothing_and_is_not_changed_by_training() -> None:
    watched, alone = new_parts(), new_parts()
    torch.manual_seed(3)
    taken = everything(watched)
    before = copy.deepcopy(taken)
    train(watched, 0, 2)
    assert_same(taken, before)
    torch.manual_seed(3)
    train(alone, 0, 2)
    assert_same(everything(alone), everything(watched))


def test_a_table_can_be_restored_twice() -> None:
    parts = new_parts()
    train(parts, 0, 2)
    table = everything(parts)
    before = copy.deepcopy(table)
    for _ in range(2):
        put_back(parts, table)
        train(parts, 2, 4)
        assert_same(table, before)


def test_a_gradient_left_behind_does_not_hinder_restoring() -> None:
    parts, fresh = new_parts(), new_parts()
    train(parts, 0, 2)
    table = everything(parts)
    fresh[0](torch.arange(8), 0).backward()
    put_back(fresh, table)
    assert_same(everything(fresh), table)


def test_frozen_weights_are_captured_and_have_no_optimizer_state() -> None:
    model = Net()
    model.hidden.requires_grad_(False)
    parts = new_parts(model)
    train(parts, 0, 2)
    table = everything(parts)
    assert "hidden.weight" in table["model"]
    assert "hidden.weight" not in table["optimizer"]["state"]
    other = Net()
    other.hidden.requires_grad_(False)
    fresh = new_parts(other)
    put_back(fresh, table)
    assert_same(everything(fresh), table)


def test_the_state_of_another_model_is_refused() -> None:
    parts = new_parts()
    train(parts, 0, 1)
    table = everything(parts)
    other = Net()
    other.hidden = nn.Linear(6, 9)
    with pytest.raises(ConfigError, match="does not fit this model .*size mismatch for hidden.weight.*same recipe"):
        restore_(other, make_optimizer(other, TrainConfig()), table)
    with pytest.raises(ConfigError, match="does not fit this model"):
        restore_(parts[0], parts[1], {"model": {}, "optimizer": {}})
    with pytest.raises(ConfigError, match=r"has hidden.weight of shape \[7, 6\], not \[9, 6\]"):
        Average(other, 0.9).load_state_dict(table["average"])
    with pytest.raises(ConfigError, match="saved average differs in again.weight"):
        parts[2].load_state_dict({})


def test_random_numbers_go_on_where_they_were() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))]

    draw()  # so that Gaussians are held back
    states = capture_random()
    first = draw()
    restore_random_(states)
    assert draw() == first


# Files


def test_the_newest_states_and_the_best_are_kept(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "run.steps", 2)
    assert store.load_newest() is None and store.load_best() is None
    for step in (5, 90, 100):
        assert store.save({"step": step, "weights": torch.full((3,), float(step))}, step).exists()
    store.save_best({"step": 90})
    assert sorted(path.name for path in store.folder.iterdir()) == ["best.pt", "step-00000090.pt", "step-00000100.pt"]
    found = store.load_newest()
    assert found is not None and found["step"] == 100
    assert torch.equal(found["weights"], torch.full((3,), 100.0))
    assert store.load_best() == {"step": 90}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.find(b"\x00\x00\x80\x3f" * 8) + 9] ^= 1  # in the middle of the ones
    path.write_bytes(bytes(content))


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _code(path: Path) -> None:
    torch.save({"step": Path("not plain data")}, path)


def _list(path: Path) -> None:
    torch.save([1], path)


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, _code, _list], ids=lambda damage: damage.__name__)
def test_a_damaged_newest_state_falls_back_to_the_one_before(
    tmp_path: Path, damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = StateStore(tmp_path, 2)
    for step in (1, 2):
        store.save({"step": step, "weights": torch.ones(64)}, step)
    damage(tmp_path / "step-00000002.pt")
    found = store.load_newest()
    assert found is not None and found["step"] == 1
    assert "step-00000002.pt: cannot be read (" in caplog.text

    store.save({"step": 2, "weights": torch.zeros(64)}, 2)
    found = store.load_newest()
    assert found is not None and not found["weights"].any()


def test_no_readable_state_is_an_error(tmp_path: Path) -> None:
    store = StateStore(tmp_path, 2)
    for step in (1, 2):
        _empty(store.save({"step": step}, step))
    with pytest.raises(ConfigError, match="none of its 2 states can be read; expected at least one whole file"):
        store.load_newest()


def test_states_of_a_course_that_was_left_do_not_outlive_it(tmp_path: Path) -> None:
    store = StateStore(tmp_path, 1)
    store.save({"step": 400}, 400)
    store.save({"step": 250}, 250)
    assert [path.name for path in store.states()] == ["step-00000250.pt"]


def test_a_write_that_fails_or_was_killed_leaves_the_old_state_and_no_rest(tmp_path: Path) -> None:
    store = StateStore(tmp_path, 1)
    store.save({"step": 1}, 1)
    with pytest.raises((AttributeError, TypeError)):
        store.save({"step": 2, "no data": (lambda: 1)}, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
    (tmp_path / "step-00000002.pt.partial").write_bytes(b"half")
    assert store.load_newest() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


# The average


def test_the_average_has_the_numbers_of_its_definition() -> None:
    model, optimizer, average = new_parts()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for step in range(12):
        train((model, optimizer, average), step, step + 1)
        share = 1 - min(0.9, (2 + step) / (11 + step))
        for name, tensor in model.state_dict().items():
            expected[name] = expected[name].lerp(tensor, share) if tensor.is_floating_point() else tensor.clone()
    assert_same(average.state_dict(), expected)
    assert int(expected["norm.num_batches_tracked"]) == 12


def test_without_decay_the_average_is_the_model() -> None:
    parts = new_parts()
    average = Average(parts[0], 0.0)
    for step in range(3):
        train(parts, step, step + 1)
        average.update(parts[0], step + 1)
        assert_same(average.state_dict(), {name: tensor.clone() for name, tensor in parts[0].state_dict().items()})


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    before = copy.deepcopy(model.state_dict())
    yield
    assert_same(dict(model.state_dict()), dict(before))


def test_swapping_holds_the_average_and_gives_the_exact_weights_back() -> None:
    model, optimizer, average = new_parts()
    train((model, optimizer, average), 0, 3)
    expected = average.state_dict()
    with unchanged(model), average.swapped_into(model):
        assert_same(dict(model.state_dict()), expected)
    with unchanged(model), pytest.raises(KeyError), average.swapped_into(model):
        raise KeyError
    assert_same(average.state_dict(), expected)
    plain = Net()
    average.copy_to(plain)
    assert_same(dict(plain.state_dict()), expected)
    train((model, optimizer, average), 3, 4)  # the optimiser still holds the very same parameters


def test_the_average_of_another_model_is_refused() -> None:
    average = Average(Net(), 0.9)
    with pytest.raises(ValueError, match="only one has again.weight"):
        average.update(nn.Linear(2, 2), 1)


# Stopping early


@pytest.mark.parametrize(
    ("metric", "values", "stops", "best_step"),
    [
        ("recall_at_1", [0.1, 0.3, 0.3, 0.2], 4, 2),
        ("val_loss", [3.0, 2.0, 2.5, 1.0, 1.5, 2.5], 6, 4),
        ("latency_time_ms", [1.0, 2.0, 2.0], 3, 1),
        ("error", [float("nan"), 1.0, float("nan"), float("inf")], 4, 2),
        ("sentiment_accuracy", [0.1, 0.2, 0.3], None, 3),
    ],
)
def test_it_stops_after_so_many_evaluations_without_a_new_best(
    metric: str, values: list[float], stops: int | None, best_step: int
) -> None:
    stop = EarlyStop(metric, patience=2)
    said = [stop.update({"step": float(step), metric: value}) for step, value in enumerate(values, 1)]
    assert (said.index(True) + 1 if True in said else None) == stops
    assert stop.best_step == best_step
    assert stop.best == values[best_step - 1]


def test_a_resumed_run_waits_no_longer() -> None:
    first, second = EarlyStop("recall_at_1", 3), EarlyStop("recall_at_1", 3)
    rows = [{"step": float(step), "recall_at_1": 1.0} for step in range(1, 5)]
    assert not any(first.update(row) for row in rows[:3])
    second.load_state_dict(first.state_dict())
    assert second.update(rows[3]) and not second.is_new_best
    assert second.state_dict() == {"best": 1.0, "best_step": 1, "waited": 3}


def test_without_a_metric_it_never_stops_but_knows_the_best() -> None:
    stop = EarlyStop("", patience=1)
    news = []
    for step, recall in enumerate([0.2, 0.5, 0.4], 1):
        assert not stop.update({"step": float(step), "loss": -float(step), "recall_at_10": recall})
        news.append(stop.is_new_best)
    assert (news, stop.best_step) == ([True, True, False], 2)
    plain = EarlyStop("", patience=1)
    for step in (1, 2):
        plain.update({"step": float(step), "loss": float(step)})
    assert (plain.best, plain.best_step) == (1.0, 1)


def test_a_metric_that_is_not_reported_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="early_stop is 'recall'; expected a metric that is reported: loss, recall_at_1$"
    ):
        EarlyStop("recall", 1).update({"step": 1.0, "recall_at_1": 0.5, "loss": 1.0})


# Two processes


def sharded() -> Net:
    """A net whose parameters are spread over both ranks; scalars, which FSDP does not take, are kept whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(1)
    model = Net()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model.hidden, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params={p for p in model.parameters() if p.dim() == 0})
    return model


def check_two_ranks(rank: int, port: int) -> None:
    """What must hold under FSDP and DDP; both ranks see the same data, so one process does the same."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    from accelerate import Accelerator

    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    model, optimizer, average = new_parts(sharded())
    parts = model, accelerator.prepare(optimizer), average
    single = new_parts(Net())  # the same in one process
    for each in (parts, single):
        torch.manual_seed(2)
        train(each, 0, 4)
    assert isinstance(average._tensors["hidden.weight"], DTensor)
    alone = capture(*single[:2])

    taken = everything(parts)
    if rank:
        assert not (taken["model"] or taken["optimizer"] or taken["average"])
    else:
        for mine, theirs in ((taken["model"], alone["model"]), (taken["average"], single[2].state_dict())):
            for name in theirs:
                torch.testing.assert_close(mine[name], theirs[name])
    train(parts, 4, 7)
    whole = everything(parts)

    fresh = new_parts(sharded())
    put_back(fresh, taken if rank == 0 else {})
    train(fresh, 4, 7)
    again = everything(fresh)
    assert len(whole["random"]) == 2
    assert_same(again["random"], whole["random"])
    if rank == 0:
        assert_same(again, whole)

    before = capture(fresh[0], fresh[1])["model"]
    with torch.no_grad():
        fresh[0].eval()(torch.arange(8), LATE)  # leaves the weights of the root gathered
    with fresh[2].swapped_into(fresh[0]):
        inside = capture(fresh[0], fresh[1])["model"]
    plain = Net()
    fresh[2].copy_to(plain)
    if rank == 0:
        assert_same(inside, whole["average"])
        assert_same(dict(plain.state_dict()), whole["average"])
        assert_same(capture(fresh[0], fresh[1])["model"], before)
    else:
        capture(fresh[0], fresh[1])

    spread = nn.parallel.DistributedDataParallel(Net(), find_unused_parameters=True)
    ddp = new_parts(spread)
    put_back(ddp, from_first_rank(taken))  # as when every rank reads the file
    back = everything(ddp)
    if rank == 0:
        assert_same(back, taken)
    train(ddp, 4, 5)
    accelerator.end_training()


def test_two_processes_capture_and_average_what_they_share() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(check_two_ranks, (port,), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
