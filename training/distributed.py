"""The contrastive losses over all ranks.

Convention: DDP and FSDP average the gradients of the ranks, so every loss here is scaled such that its mean over the
ranks is the loss of the whole batch. Nobody multiplies or divides by the number of ranks again. This is exact however
many images and texts each rank holds. A mean over one rank's own rows (classification, match, answers) is averaged
by rank instead: it equals the mean of the whole batch only where all ranks hold as many rows.

Every function here but `world_size` is a collective: all ranks call it, forward and backward, in the same order.
With one process, or none started, all are their plain counterparts.
"""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from dmedge.training.losses import Candidates, contrastive_loss, full_precision, siglip_loss, siglip_pair_sum


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, in the order of ranks, on every rank.

    Gradients are summed over the ranks: each row receives what all ranks' losses ask of it.

    Args:
        rows: [N, ...]; N may differ between ranks, the rest and the dtype may not.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows)  # type: ignore[no-untyped-call]


def gather_keys(key: Tensor) -> Tensor:
    """Concatenate the [N] keys of all ranks as `gather_rows` does, without a gradient."""
    return key if world_size() == 1 else _gather(key, _counts(len(key), device=key.device))


def gathered_contrastive_loss(
    image: Tensor, text: Tensor, image_key: Tensor, text_key: Tensor, scale: Tensor
) -> Tensor:
    """`contrastive_loss` of this rank's rows against those of all ranks.

    Its mean over the ranks is the loss of the whole batch, and averaged gradients are those of the whole batch.
    """
    if world_size() == 1:
        return contrastive_loss(image, text, image_key, text_key, scale)
    rows = gather_rows(full_precision(image)), gather_rows(full_precision(text))
    everyone = Candidates(*rows, gather_keys(image_key), gather_keys(text_key), world_size())
    return contrastive_loss(image, text, image_key, text_key, scale, everyone)


def siglip_ring_loss(
    image: Tensor, text: Tensor, image_key: Tensor, text_key: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """`siglip_loss` of this rank's images with the texts of all ranks, which pass from neighbour to neighbour.

    Its mean over the ranks is the loss of the whole batch, and averaged gradients are those of the whole batch.
    No rank ever holds more than two blocks of texts (with their gradients) and one block of logits; only the images
    and one block wait for the backward pass, which computes the logits again.

    Source: Zhai et al. 2023, arXiv:2303.15343, section 3.3.
    """
    if world_size() == 1:
        return siglip_loss(image, text, image_key, text_key, scale, bias)
    counts = _counts(len(image), len(text), device=image.device)
    embeddings = full_precision(image), full_precision(text)
    total = _RingPairSum.apply(*embeddings, image_key, text_key, scale, bias, [texts for _, texts in counts])  # type: ignore[no-untyped-call]
    return total * world_size() / max(sum(images for images, _ in counts), 1)  # type: ignore[no-any-return]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = _counts(len(rows), device=rows.device)
        ctx.start = sum(count for (count,) in counts[: dist.get_rank()])
        ctx.rows = len(rows)
        return _gather(rows, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.rows]


class _RingPairSum(torch.autograd.Function):
    """Sum over this rank's images and all ranks' texts.

    Forward, a block of texts goes to the next rank after each step, so rank r ends with the block of rank r + 1.
    Backward starts from there and goes the other way; a block carries its gradient along and both come home together.
    """

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        text: Tensor,
        image_key: Tensor,
        text_key: Tensor,
        scale: Tensor,
        bias: Tensor,
        counts: list[int],
    ) -> Tensor:
        rank, world = dist.get_rank(), dist.get_world_size()
        ctx.counts = counts  # texts of each rank
        total = siglip_pair_sum(image, text, image_key, text_key, scale, bias)
        for step in range(1, world):
            text, text_key = _pass_on([text, text_key], 1, counts[(rank - step) % world])
            total += siglip_pair_sum(image, text, image_key, text_key, scale, bias)
        ctx.save_for_backward(image, text, image_key, text_key, scale, bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rank, world = dist.get_rank(), dist.get_world_size()
        image, text, image_key, text_key, scale, bias = ctx.saved_tensors
        sums = [torch.zeros_like(tensor) for tensor in (image, text, scale, bias)]
        for step in range(world):
            if step:
                block = [text, text_key, sums[1]]
                text, text_key, sums[1] = _pass_on(block, -1, ctx.counts[(rank + 1 + step) % world])
            leaves = [tensor.detach().requires_grad_() for tensor in (image, text, scale, bias)]
            with torch.enable_grad():
                total = siglip_pair_sum(leaves[0], leaves[1], image_key, text_key, leaves[2], leaves[3])
            for sum_, part in zip(sums, torch.autograd.grad(total, leaves, gradient), strict=True):
                sum_ += part
        return sums[0], sums[1], None, None, sums[2], sums[3], None


def _pass_on(tensors: list[Tensor], step: int, rows: int) -> list[Tensor]:
    """Send tensors to the rank `step` further and return those of the rank `step` before, `rows` rows each."""
    rank, world = dist.get_rank(), dist.get_world_size()
    received = [tensor.new_empty(rows, *tensor.shape[1:]) for tensor in tensors]
    operations = []
    for tag, (own, other) in enumerate(zip(tensors, received, strict=True)):
        if own.numel():  # both sides know the counts, so nobody waits for an empty block
            operations.append(dist.P2POp(dist.isend, own.contiguous(), (rank + step) % world, tag=tag))
        if other.numel():
            operations.append(dist.P2POp(dist.irecv, other, (rank - step) % world, tag=tag))
    for work in dist.batch_isend_irecv(operations) if operations else ():
        work.wait()
    return received


def _counts(*counts: int, device: torch.device) -> list[list[int]]:
    """Return what each rank counts."""
    table = torch.empty(dist.get_world_size() * len(counts), dtype=torch.int64, device=device)
    dist.all_gather_single(table, torch.tensor(counts, device=device))
    return table.reshape(-1, len(counts)).tolist()


def _gather(rows: Tensor, counts: list[list[int]]) -> Tensor:
    """Concatenate [N, ...] rows of all ranks; shorter ones travel padded."""
    longest = max(max(count for (count,) in counts), 1)
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    table = rows.new_empty(len(counts) * longest, *rows.shape[1:])
    dist.all_gather_single(table, padded)
    return torch.cat([block[:count] for block, (count,) in zip(torch.split(table, longest), counts, strict=True)])
