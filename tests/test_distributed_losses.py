"""The losses over ranks in real processes: first two of them, then three, for two neighbours are the same one."""

import multiprocessing
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from dmedge.training.batch import TextChunk, TrainBatch, split_batch
from dmedge.training.distributed import gather_keys, gather_rows, siglip_ring_loss, world_size
from dmedge.training.grad_cache import cached_backward
from dmedge.training.losses import siglip_loss
from tests.tiny_towers import Kind, TinyObjective, gradients, tiny_batch, total_loss

WORLDS = (2, 3)
KINDS: tuple[Kind, ...] = ("infonce", "siglip", "matryoshka")
ATOL = {"infonce": 1e-6, "siglip": 1e-6, "matryoshka": 5e-6}  # the last has gradients of 5: float32 ends there
PICTURES = 12
Found = Callable[[int], list[dict[str, Any]]]  # by world: what each rank found
Bounds = tuple[int, ...]
Layout = dict[
    int, tuple[Bounds, Bounds]
]  # by world: where the pictures, and the eighths of each chunk of texts, are cut
LAYOUTS: dict[str, Layout] = {
    "equal": {2: ((0, 6, 12), (0, 4, 8)), 3: ((0, 4, 8, 12), (0, 3, 5, 8))},
    "unequal": {2: ((0, 7, 12), (0, 2, 8)), 3: ((0, 2, 9, 12), (0, 5, 6, 8))},
    "a rank without texts": {2: ((0, 6, 12), (0, 8, 8)), 3: ((0, 4, 8, 12), (0, 5, 5, 8))},
}


def share(batch: TrainBatch, bounds: tuple[Bounds, Bounds], rank: int) -> TrainBatch:
    """The rows of one rank; many a text lies on another rank than its picture."""
    pictures, texts = (slice(cuts[rank], cuts[rank + 1]) for cuts in bounds)

    def cut(chunk: TextChunk) -> TextChunk:
        rows = slice(texts.start * len(chunk.key) // 8, texts.stop * len(chunk.key) // 8)  # texts are cut by eighths
        return TextChunk(chunk.ids[rows], chunk.mask[rows], chunk.key[rows])

    labels = None if batch.labels is None else batch.labels[pictures]
    chunks = tuple(cut(chunk) for chunk in batch.chunks)
    return TrainBatch(pixels=batch.pixels[pictures], key=batch.key[pictures], chunks=chunks, labels=labels)


def tiny_objective(kind: Kind, *, labels: bool) -> TinyObjective:
    torch.manual_seed(3)
    objective = TinyObjective(kind)
    objective.head.requires_grad_(labels)
    return objective


def work(rank: int, folder: Path) -> None:
    """What each process does; what it finds is judged by the tests."""
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank >= world:
            continue
        dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
        found: dict[str, Any] = {
            f"{kind}, {name}": train(kind, layout[world], rank) for kind in KINDS for name, layout in LAYOUTS.items()
        }
        found |= {f"{kind}, cached": train_cached(kind, rank) for kind in KINDS}
        found |= {"rows": gathered(rank), "ring": ring(rank), "world": world_size()}
        torch.save(found, folder / f"{world}-{rank}.pt")
        dist.destroy_process_group()


def train(kind: Kind, bounds: tuple[Bounds, Bounds], rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    model = DistributedDataParallel(tiny_objective(kind, labels=False))
    loss = total_loss(model, [share(tiny_batch(PICTURES, labels=False), bounds, rank)])
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), gradients(model)


def train_cached(kind: Kind, rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    """In parts, with labels: all ranks hold as many pictures."""
    model = DistributedDataParallel(tiny_objective(kind, labels=True))
    batch = split_batch(tiny_batch(PICTURES), world_size())[rank]
    losses = cached_backward(
        model, batch, 3, autocast=nullcontext, backward=torch.Tensor.backward, no_sync=model.no_sync
    )
    return torch.stack(list(losses.values())).sum(), gradients(model)


def gathered(rank: int) -> dict[str, Tensor]:
    rows = (torch.arange(3.0 * rank).reshape(rank, 3) + 10 * rank).requires_grad_()  # none on the first rank
    everyone = gather_rows(rows)
    (everyone * (rank + 1)).sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    return {"all": everyone.detach(), "gradient": rows.grad, "keys": gather_keys(torch.arange(rank + 1) + 100 * rank)}


def ring(rank: int) -> dict[str, Any]:
    """The ring alone, with a loss that each rank weighs differently, and the bytes that wait for backward."""
    leaves = ring_rows(rank)
    held: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor.nelement() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = siglip_ring_loss(leaves[0], leaves[1], torch.arange(4) + 4 * rank, torch.arange(8), *leaves[2:])
    (loss * (rank + 1)).backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        again = siglip_ring_loss(leaves[0], leaves[1], torch.arange(4) + 4 * rank, torch.arange(8), *leaves[2:])
    return {"loss": loss.detach(), "again": again, "gradients": [leaf.grad for leaf in leaves], "bytes": sum(held)}


def ring_rows(rank: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rank)
    image, text = (F.normalize(torch.randn(rows, 32, generator=generator), dim=-1) for rows in (4, 8))
    return [leaf.requires_grad_() for leaf in (image, text, torch.tensor(5.0), torch.tensor(-3.0))]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        # One server imports torch, DDP and this file, and forks itself: a third of the time of three imports.
        multiprocessing.set_forkserver_preload(["torch._dynamo", __name__])
        start_processes(work, (folder,), nprocs=max(WORLDS), start_method="forkserver")  # type: ignore[no-untyped-call]
    return lambda world: [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_train_as_one_process_with_the_whole_batch(found: Found, world: int, kind: Kind, layout: str) -> None:
    objective = tiny_objective(kind, labels=False)
    loss = total_loss(objective, [tiny_batch(PICTURES, labels=False)])
    loss.backward()  # type: ignore[no-untyped-call]
    losses, grads = zip(*(rank[f"{kind}, {layout}"] for rank in found(world)), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss.detach())
    for of_rank in grads:
        torch.testing.assert_close(of_rank, gradients(objective), atol=ATOL[kind], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_with_cached_gradients_train_as_one_process(found: Found, world: int, kind: Kind) -> None:
    objective = tiny_objective(kind, labels=True)
    loss = total_loss(objective, [tiny_batch(PICTURES)])
    loss.backward()  # type: ignore[no-untyped-call]
    losses, grads = zip(*(rank[f"{kind}, cached"] for rank in found(world)), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss.detach())
    for of_rank in grads:
        torch.testing.assert_close(of_rank, gradients(objective), atol=ATOL[kind], rtol=1e-6)


@pytest.mark.parametrize("world", WORLDS)
def test_rows_come_in_the_order_of_ranks_and_gradients_return_summed(found: Found, world: int) -> None:
    ranks = [rank["rows"] for rank in found(world)]
    expected = torch.cat([torch.arange(3.0 * rank).reshape(rank, 3) + 10 * rank for rank in range(world)])
    keys = torch.cat([torch.arange(rank + 1) + 100 * rank for rank in range(world)])
    for number, rank in enumerate(ranks):
        torch.testing.assert_close(rank["all"], expected)
        assert torch.equal(rank["keys"], keys)
        weights = sum(range(1, world + 1))  # every rank's loss weighs each row by 1 + its number
        torch.testing.assert_close(rank["gradient"], torch.full((number, 3), float(weights)))


@pytest.mark.parametrize("world", WORLDS)
def test_the_ring_sends_each_gradient_home(found: Found, world: int) -> None:
    rows = [ring_rows(rank) for rank in range(world)]
    text_key = torch.arange(8).repeat(world)
    total = torch.tensor(0.0)
    for rank, (image, _, scale, bias) in enumerate(rows):
        text = torch.cat([leaves[1] for leaves in rows])
        loss = siglip_loss(image, text, torch.arange(4) + 4 * rank, text_key, scale, bias)
        torch.testing.assert_close(found(world)[rank]["ring"]["loss"], loss.detach())
        assert found(world)[rank]["ring"]["again"] == found(world)[rank]["ring"]["loss"]
        total = total + (rank + 1) * loss
    total.backward()  # type: ignore[no-untyped-call]
    for leaves, of_rank in zip(rows, found(world), strict=True):
        for leaf, gradient in zip(leaves, of_rank["ring"]["gradients"], strict=True):
            torch.testing.assert_close(gradient, leaf.grad, atol=1e-6, rtol=1e-5)


def test_the_ring_holds_the_rows_of_one_rank(found: Found) -> None:
    rows = 4 + 8  # of width 32 in float32, with a key of 8 bytes each, and two numbers
    assert {rank["ring"]["bytes"] for world in WORLDS for rank in found(world)} == {rows * (32 * 4 + 8) + 2 * 4}
    assert [rank["world"] for world in WORLDS for rank in found(world)] == [2] * 2 + [3] * 3
