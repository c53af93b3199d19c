import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dmedge.training.batch import TextChunk, split_batch
from dmedge.training.grad_cache import cached_backward
from tests.tiny_towers import Kind, TinyObjective, gradients, tiny_batch, total_loss

KINDS: tuple[Kind, ...] = ("infonce", "siglip", "matryoshka")


def cached(
    objective: nn.Module,
    parts: int,
    pictures: int = 64,
    *,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    backward: Callable[[Tensor], object] = torch.Tensor.backward,
    no_sync: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, Tensor]:
    batch = tiny_batch(pictures)
    return cached_backward(objective, batch, parts, autocast=autocast, backward=backward, no_sync=no_sync)


def whole(objective: nn.Module, pictures: int = 64) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of the batch in one piece; the gradients are taken off the parameters."""
    loss = total_loss(objective, [tiny_batch(pictures)])
    loss.backward()  # type: ignore[no-untyped-call]
    taken = gradients(objective)
    objective.zero_grad()
    return loss.detach(), taken


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    assert any(gradient.abs().max() > 1e-2 for gradient in expected.values())
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("parts", "pictures"), [(8, 64), (1, 64), (4, 10), (64, 5)], ids=["8", "1", "uneven", "singles"]
)
def test_parts_give_the_gradients_of_the_whole_batch(kind: Kind, parts: int, pictures: int) -> None:
    objective = TinyObjective(kind).double()  # float32 rounds sums of another order as each processor does
    loss, expected = whole(objective, pictures)
    losses = cached(objective, parts, pictures)
    assert_same(gradients(objective), expected, atol=1e-12)
    assert losses.keys() == {kind, "local/labels"}
    torch.testing.assert_close(torch.stack(list(losses.values())).sum(), loss)
    assert not any(value.requires_grad for value in losses.values())


@pytest.mark.parametrize("kind", KINDS)
def test_both_passes_drop_the_same_units(kind: Kind) -> None:
    objective = TinyObjective(kind, dropout=0.5)
    torch.manual_seed(5)
    total_loss(objective, split_batch(tiny_batch(), 8)).backward()  # type: ignore[no-untyped-call]
    expected, after = gradients(objective), torch.rand(3)
    objective.zero_grad()
    torch.manual_seed(5)
    cached(objective, 8)
    assert_same(gradients(objective), expected)
    assert torch.equal(torch.rand(3), after)  # the run goes on as after one pass


def test_gradients_add_up_as_backward_adds_them() -> None:
    objective = TinyObjective()
    _, expected = whole(objective)
    for _ in range(2):
        cached(objective, 4)
    assert_same(gradients(objective), {name: 2 * gradient for name, gradient in expected.items()})


def test_scaled_backward_scales_gradients_once() -> None:
    objective = TinyObjective("siglip")
    _, expected = whole(objective)
    cached(objective, 4, backward=lambda loss: (loss * 1024).backward())  # type: ignore[no-untyped-call]
    assert_same({name: gradient / 1024 for name, gradient in gradients(objective).items()}, expected)


def test_only_the_last_part_is_synchronised() -> None:
    events = []

    @contextmanager
    def no_sync() -> Iterator[None]:
        events.append("alone")
        yield
        events.append("end")

    def backward(loss: Tensor) -> None:
        events.append("backward")
        loss.backward()  # type: ignore[no-untyped-call]

    cached(TinyObjective(), 3, backward=backward, no_sync=no_sync)
    assert events == ["alone", "backward", "end"] * 2 + ["backward"]


def test_wrapped_modules_are_called_through_their_wrapper() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, *args: object) -> object:
            self.calls += 1
            return self.module(*args)

    objective = TinyObjective()
    _, expected = whole(objective)
    wrapper = Wrapper(objective)
    cached(wrapper, 4)
    assert wrapper.calls == 8
    assert_same(gradients(wrapper), expected)


def test_autocast_reaches_both_passes() -> None:
    objective = TinyObjective()
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    with autocast():
        loss = total_loss(objective, [tiny_batch()])
    loss.backward()  # type: ignore[no-untyped-call]
    expected = gradients(objective)
    objective.zero_grad()
    losses = cached(objective, 8, autocast=autocast)
    assert_same(gradients(objective), expected, atol=4e-3)  # bfloat16 keeps 8 bits
    torch.testing.assert_close(torch.stack(list(losses.values())).sum(), loss.detach(), atol=1e-4, rtol=0)


def test_running_averages_count_each_part_once() -> None:
    objective = TinyObjective(norm=nn.BatchNorm1d)
    expected = TinyObjective(norm=nn.BatchNorm1d)
    expected.load_state_dict(objective.state_dict())
    for part in split_batch(tiny_batch(), 4):
        expected(part)
    cached(objective, 4)
    norm = objective.image[1]
    assert isinstance(norm, nn.BatchNorm1d) and norm.track_running_stats
    assert norm.num_batches_tracked == 4
    for (name, found), buffer in zip(objective.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(found, buffer, msg=name)


def test_batch_normalisation_sees_parts_in_both_passes() -> None:
    objective = TinyObjective(norm=nn.BatchNorm1d)
    total_loss(objective, split_batch(tiny_batch(), 4)).backward()  # type: ignore[no-untyped-call]
    expected = gradients(objective)
    objective.zero_grad()
    cached(objective, 4)
    assert_same(gradients(objective), expected)


def test_a_part_without_texts_comes_first() -> None:
    batch = tiny_batch(8)
    batch = replace(batch, chunks=tuple(_only(chunk, chunk.key < 14) for chunk in batch.chunks))  # of two pictures
    objective = TinyObjective()
    total_loss(objective, [batch]).backward()  # type: ignore[no-untyped-call]
    expected = gradients(objective)
    objective.zero_grad()
    seen = []
    objective.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0].chunks)))
    cached_backward(objective, batch, 4, autocast=nullcontext, backward=torch.Tensor.backward, no_sync=nullcontext)
    assert seen == [0, 0, 0, 2] * 2
    assert_same(gradients(objective), expected)


def _only(chunk: TextChunk, rows: Tensor) -> TextChunk:
    return TextChunk(chunk.ids[rows], chunk.mask[rows], chunk.key[rows])


def test_local_losses_need_no_joint_one() -> None:
    class LocalOnly(TinyObjective):
        def joint(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
            return {}

    objective = LocalOnly()
    loss, expected = whole(objective)
    losses = cached(objective, 8)
    torch.testing.assert_close(losses, {"local/labels": loss})
    assert_same(gradients(objective), expected)


def test_joint_with_a_parameter_of_its_own_is_refused() -> None:
    class Leaking(TinyObjective):
        def joint(self, encoded: dict[str, Tensor]) -> dict[str, Tensor]:
            return super().joint({**encoded, "scale": self.logit_scale.exp()})

    with pytest.raises(ValueError, match=r"joint uses a parameter \[\] that forward did not return"):
        cached(Leaking(), 4)


def peak_activations(run: Callable[[], object], parameters: list[nn.Parameter]) -> int:
    """Most bytes that autograd holds at one time for the backward pass, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    live, peak = 0, 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    def release(size: int) -> None:
        nonlocal live
        live -= size

    def pack(tensor: Tensor) -> Held:
        nonlocal live, peak
        held = Held(tensor)
        if tensor.untyped_storage().data_ptr() not in weights:
            size = tensor.nelement() * tensor.element_size()
            live, peak = live + size, max(peak, live + size)
            weakref.finalize(held, release, size)
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        run()
    return peak


def test_memory_is_that_of_a_part() -> None:
    objective = TinyObjective(width=512)  # towers that outweigh the logits of the joint loss, as real ones do
    parameters = list(objective.parameters())
    one, eight = (peak_activations(partial(cached, objective, parts), parameters) for parts in (1, 8))
    assert 0 < eight <= one / 4
