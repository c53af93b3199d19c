"""The fusion's own training: match and class, on frozen towers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.errors import DmedgeError
from dmedge.logs import progress
from dmedge.model.dual import DualEncoder
from dmedge.training.average import is_first_rank
from dmedge.training.batches import Batcher, pad
from dmedge.training.config import TrainConfig
from dmedge.training.data import Batch, TrainingData
from dmedge.training.engine import pick_precision
from dmedge.training.objective import Objective
from dmedge.training.optimizer import learning_rate, make_optimizer, set_learning_rate_
from dmedge.training.record_source import RecordSource

SEED_STEP = 1 << 40  # fusion batches never repeat those of the towers

FusionLoss = Callable[[DualEncoder, int], Tensor]  # of a model whose towers are frozen, and a step
BLANK_SHARE = 0.15  # of pairs that lose their picture, and as many that lose their text
MOST_TOKENS = 24  # of a text; a few long ones would make padding of all the others
BLANK_TEXT = [1]  # the unknown piece, which an empty query becomes


def mismatched_texts(data: TrainingData, batch: Batch, rng: np.random.Generator) -> NDArray[np.int64]:
    """For every image of a batch a text of another concept, half the time one easily confused with it."""
    order = np.argsort(data.class_siblings, kind="stable")
    groups = data.class_siblings[order]
    start = np.searchsorted(groups, data.class_siblings[batch.concepts], side="left")
    stop = np.searchsorted(groups, data.class_siblings[batch.concepts], side="right")
    sibling = order[start + (rng.random(len(start)) * (stop - start)).astype(np.int64)]
    stranger = rng.integers(data.concepts, size=len(sibling))
    other = np.where(rng.random(len(sibling)) < 0.5, sibling, stranger)
    other = np.where(other == batch.concepts, (other + 1) % data.concepts, other)
    languages = len(data.languages)
    first, last = data.first_text[other * languages], data.first_text[(other + 1) * languages]
    texts: NDArray[np.int64] = np.minimum(
        first + (rng.random(len(first)) * (last - first)).astype(np.int64), len(data.texts) - 1
    )
    return texts


def concept_fusion_loss(model: DualEncoder, batcher: Batcher, step: int) -> Tensor:
    """Binary cross-entropy of match and cross-entropy of class over one batch of pairs.

    Each image meets one of its own texts and one of another concept. Some matching pairs lose
    their picture or their text and must be classified from what is left, so neither is ignored.
    """
    device = model.logit_scale.device
    batch, rng, generator = batcher.draw(step)
    pixels = batcher.images(batch, rng, generator)
    owned = np.array([rng.choice(np.flatnonzero(batch.text_row == row)) for row in np.unique(batch.text_row)])
    matching = batcher.token_ids(batch.texts[owned], rng)
    mismatched = batcher.token_ids(mismatched_texts(batcher.data, batch, rng), rng)
    rows = torch.from_numpy(np.concatenate([batch.text_row[owned], np.arange(len(batch.concepts))]))
    blank = rng.random(len(matching))
    texts = [BLANK_TEXT if blank[i] < BLANK_SHARE else item for i, item in enumerate(matching)] + mismatched
    ids, mask = pad([text[:MOST_TOKENS] for text in texts])
    blank_row = len(pixels)  # a white picture, as an app would pass it
    rows[: len(matching)][torch.from_numpy(blank > 1 - BLANK_SHARE)] = blank_row
    ids, mask, rows = ids.to(device), mask.to(device), rows.to(device)
    with torch.no_grad():
        _, patches = model.encode_image(torch.cat([pixels, torch.full_like(pixels[:1], 255)]).to(device))
        _, tokens = model.encode_text(ids, mask)
    match, classes = (output.cpu() for output in model.fuse(patches[rows], tokens, mask))
    is_match = torch.zeros(len(texts))
    is_match[: len(matching)] = 1
    is_whole = torch.ones(len(texts), dtype=torch.bool)
    is_whole[: len(matching)] = torch.from_numpy((blank >= BLANK_SHARE) & (blank <= 1 - BLANK_SHARE))
    label = torch.from_numpy(batcher.data.classes[batch.concepts[batch.text_row[owned]]])
    class_loss = F.cross_entropy(classes[: len(matching)].float(), label)
    return F.binary_cross_entropy_with_logits(match[is_whole].float(), is_match[is_whole]) + class_loss


def record_fusion_loss(model: DualEncoder, source: RecordSource, step: int) -> Tensor:
    """Losses of match, and of the classes and answers that the data has, over one batch of records."""
    config = source.config
    weighted = replace(
        config,
        contrastive_weight=0.0,
        match_weight=config.match_weight or 1.0,
        class_weight=(config.class_weight or 1.0) if model.config.classes else 0.0,
        answer_weight=(config.answer_weight or 1.0) if model.config.answers else 0.0,
    )
    objective = Objective(model, weighted)
    losses = objective(source.batch(step, 0, 1).to(model.logit_scale.device))
    return torch.stack(list(losses.values())).sum()


def train_fusion(model: DualEncoder, loss_of: FusionLoss, config: TrainConfig) -> None:
    """Train the fusion of a bare model in place, after the towers, which stay as they are.

    It is short, so a run that is killed here makes it again from its start. Every rank does the same.
    """
    if model.fusion is None or config.fusion_steps == 0:
        return
    model.eval().requires_grad_(False)
    model.fusion.train().requires_grad_(True)
    for name in ("image_projection", "text_projection"):  # both sides start in one space
        own, tower = getattr(model.fusion, name), getattr(model, name)
        shapes = [{key: tensor.shape for key, tensor in part.state_dict().items()} for part in (own, tower)]
        if shapes[0] == shapes[1]:
            own.load_state_dict(tower.state_dict())
    optimizer = make_optimizer(model.fusion, config)
    device, precision = model.logit_scale.device.type, pick_precision(config)
    torch.manual_seed(config.seed)
    with progress("train fusion", total=config.fusion_steps, is_shown=is_first_rank()) as advance:
        for step in range(config.fusion_steps):
            set_learning_rate_(optimizer, learning_rate(step, config.fusion_steps, config))
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                loss = loss_of(model, SEED_STEP + step)
            if not torch.isfinite(loss):
                raise DmedgeError(
                    f"fusion step {step}: the loss is {float(loss.detach())}; expected a finite number; "
                    "run again with a smaller learning_rate, or with precision = 'float32'"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.fusion.parameters(), config.clip_norm)
            optimizer.step()
            advance(1, f"loss {float(loss.detach()):.2f}")
    model.eval().requires_grad_(False)
