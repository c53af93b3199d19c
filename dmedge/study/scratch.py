"""Cells of the comparison: every family trained from scratch on the same pairs, in the same order."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dmedge.data.transforms import Preprocess
from dmedge.export.quiet import quiet
from dmedge.logs import progress
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.contestants import CONTEXT, FAMILIES, IMAGE_SIZE, Dmedge, Outputs
from dmedge.study.context import Study
from dmedge.study.features import token_ids
from dmedge.study.scores import clustered, figures_of
from dmedge.study.task import Doubles, Ints, Pairs, Part, Pictures
from dmedge.study.turns import OWN
from dmedge.training.batches import pad
from dmedge.training.warm_start import factorise

CONTRASTIVE_WEIGHT = 0.5  # of the loss that teaches which picture a text belongs to; the class has 1
WARMUP_SHARE, WEIGHT_DECAY, CLIP = 0.1, 0.05, 1.0
LOGIT_SCALE = 20.0  # of the contrastive loss
SEARCHES = 200  # texts that look for their picture among the candidates


@dataclass(frozen=True, eq=False)
class Inputs:
    """Pairs as a contestant reads them."""

    pairs: Pairs
    pixels: Tensor  # uint8 [M, S, S, 3]
    ids: list[list[int]]  # of every pair
    shown: Tensor  # [N] number of what the picture shows
    told: Tensor  # [N] number of what the text is of; equal numbers belong together

    def draw(self, rows: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B, S, S, 3], token ids and mask [B, L] of some pairs."""
        return self.pixels[torch.from_numpy(self.pairs.picture[rows])], *pad([self.ids[row] for row in rows])


def contestant_inputs(study: Study, pairs: Pairs) -> Inputs:
    """Shrink the pictures and tokenise the texts of `pairs`."""
    longest = min(study.source.longest(study.checkpoint), CONTEXT - 1)
    ids = [row[:longest] for row in token_ids(study.checkpoint, pairs.texts)]
    owner = pairs.cluster if pairs.owner is None else pairs.owner
    shown, told = (torch.from_numpy(study.source.concepts(cluster)) for cluster in (pairs.cluster, owner))
    return Inputs(pairs, _shrunk(pairs.pictures), ids, shown, told)


def _shrunk(pictures: Pictures) -> Tensor:
    """Pictures of one size shrunk; others made square as well, as `Preprocess` does it, and opened one by one."""
    if not isinstance(pictures, np.ndarray):
        preprocess = Preprocess(IMAGE_SIZE)
        return torch.from_numpy(np.stack([preprocess(picture) for picture in pictures]))
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    parts = [
        F.interpolate(part.float(), (IMAGE_SIZE,) * 2, mode="bilinear", antialias=True) for part in torch.split(x, 2048)
    ]
    return torch.cat([part.round().clamp(0, 255).byte() for part in parts]).permute(0, 2, 3, 1).contiguous()


def run_comparison(study: Study) -> dict[str, Done]:
    """Train and judge every family, and dmedge once more with what it usually starts from, where there are concepts."""
    inputs = cache(lambda part: contestant_inputs(study, study.train if part == "train" else study.test))
    makers = _makers(study)
    if study.members.shape[1]:
        makers[OWN] = lambda: _warm(study, inputs("train"))
    return {name: study.run(_cell(study, name, make, inputs)) for name, make in makers.items()}


def _makers(study: Study) -> dict[str, Callable[[], nn.Module]]:
    classes, vocab_size = study.members.shape[0], study.checkpoint.tokenizer.vocab_size
    return {name: partial(make, vocab_size, classes) for name, make in FAMILIES.items()}


def _warm(study: Study, inputs: Inputs) -> nn.Module:
    """Dmedge with a concept for everything shown, its token embeddings factorised from the training pairs."""
    vocab_size = study.checkpoint.tokenizer.vocab_size
    model = Dmedge(vocab_size, study.members.shape[0], study.members)
    width = model.model.config.text_width
    rows, anchors = factorise(tuple(inputs.ids), inputs.shown.numpy(), vocab_size, width, study.config.seed)
    with torch.no_grad():
        token, projection = model.model.text.token, model.model.text_projection
        assert isinstance(token, nn.Embedding) and isinstance(projection, nn.Linear) and model.model.head is not None
        token.weight.copy_(rows)
        projection.weight.copy_(torch.eye(width))
        projection.bias.zero_()
        model.model.head.keys.weight[: len(anchors)].copy_(anchors)
    return model


def _cell(study: Study, name: str, make: Callable[[], nn.Module], inputs: Callable[[Part], Inputs]) -> Cell:
    config = study.config
    settings = {
        **study.task_settings(),
        "family": name,
        "steps": config.scratch_steps,
        "batch_size": config.scratch_batch,
        "learning_rate": config.scratch_learning_rate,
        "candidates": config.candidates,
    }

    def run(folder: Path) -> Result:
        torch.manual_seed(config.seed)
        with quiet():  # transformers wakes libraries that say what they lack
            model = make()
        seconds = _train(model, inputs("train"), study, name)
        model.eval()
        test = inputs("test")
        logits = logits_of(model, test)
        right = test.pairs.right(logits.argmax(1))
        return {
            "train_seconds": round(seconds, 1),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "token_parameters": study.checkpoint.tokenizer.vocab_size * _width_of_tokens(model),
            **figures_of(test.pairs, logits),
            "accuracy_interval": clustered(right, test.pairs.cluster).to_json(),
            **(_searched(study, model, test) if study.source.describes else {}),
            "flops": operations(model, _longest(test)),
        }

    return Cell(f"scratch-{name.lower().replace(',', '').replace(' ', '-')}", settings, run)


def _searched(study: Study, model: nn.Module, inputs: Inputs) -> Result:
    hits = search(model, inputs, study.config.candidates, study.config.seed)
    return {"recall_at_1": float(hits.mean()), "searches": len(hits)}


def _width_of_tokens(model: nn.Module) -> int:
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return max((table.embedding_dim for table in tables if table.num_embeddings > 1000), default=0)


def one_cycle(optimizer: torch.optim.Optimizer, rate: float, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """A learning rate that warms up for a share of `steps` and falls for the others; a step longer where it must be.

    Of a warm-up of exactly one step torch makes a division by zero.
    """
    length = steps + (steps * WARMUP_SHARE == 1)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, length, pct_start=WARMUP_SHARE)


def _train(model: nn.Module, inputs: Inputs, study: Study, name: str) -> float:
    """Train in place; returns the seconds that it took."""
    config = study.config
    rng = np.random.default_rng([config.seed, 23])  # the same pairs in the same order for everyone
    optimizer = torch.optim.AdamW(model.parameters(), config.scratch_learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = one_cycle(optimizer, config.scratch_learning_rate, config.scratch_steps)
    weight = CONTRASTIVE_WEIGHT if study.source.describes else 0.0
    began = time.perf_counter()
    with progress(name, config.scratch_steps) as advance:
        for _ in range(config.scratch_steps):
            rows = rng.integers(len(inputs.pairs), size=config.scratch_batch)
            found: Outputs = model(*inputs.draw(rows))
            loss = inputs.pairs.loss(found.classes, rows)
            if weight:
                loss = loss + weight * _belonging(model, found, inputs, rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            advance(1, f"loss {float(loss.detach()):.2f}")
    return time.perf_counter() - began


def _belonging(model: nn.Module, found: Outputs, inputs: Inputs, rows: Ints) -> Tensor:
    """What teaches which texts belong to which pictures."""
    shown, told = inputs.shown[rows], inputs.told[rows]
    if found.image is None or found.text is None:  # one stream: matching pairs against strangers
        assert found.match is not None
        pixels, ids, mask = inputs.draw(rows)
        strange: Outputs = model(pixels, ids.roll(1, 0), mask.roll(1, 0))
        assert strange.match is not None
        logits = torch.cat([found.match, strange.match])
        target = torch.cat([(shown == told).float(), (shown == told.roll(1)).float()])
        return F.binary_cross_entropy_with_logits(logits, target)
    same = (shown[:, None] == told[None]).float()
    logits = LOGIT_SCALE * found.image @ found.text.T
    both = F.cross_entropy(logits, _shares(same)) + F.cross_entropy(logits.T, _shares(same.T))
    if isinstance(model, Dmedge) and model.model.head is not None:
        anchored = [model.model.concept_logits(side) for side in (found.image, found.text)]
        both = both + sum(F.cross_entropy(side, shown) for side in anchored)
    return both / 2


def _shares(same: Tensor) -> Tensor:
    """Rows that sum to 1; what belongs to nothing in the batch asks nothing."""
    return same / same.sum(1, keepdim=True).clamp(min=1)


@torch.no_grad()
def logits_of(model: nn.Module, inputs: Inputs, batch_size: int = 256) -> NDArray[np.float32]:
    """[N, C] class logits of a contestant."""
    found = []
    for start in range(0, len(inputs.pairs), batch_size):
        rows = np.arange(start, min(start + batch_size, len(inputs.pairs)))
        found.append(model(*inputs.draw(rows)).classes.numpy())
    return np.concatenate(found)


@torch.no_grad()
def search(model: nn.Module, inputs: Inputs, candidates: int, seed: int) -> Doubles:
    """Whether each of some texts of a picture's own scores its own picture above `candidates` - 1 others; ties lose."""
    rng = np.random.default_rng([seed, 31])
    pairs = inputs.pairs
    rows = rng.permutation(len(pairs))
    rows = rows[pairs.is_own[rows]][:SEARCHES]
    count = min(candidates, len(pairs.pictures))
    hits = []
    for row in rows:
        own = pairs.picture[row]
        others = rng.permutation(np.setdiff1d(np.arange(len(pairs.pictures)), [own]))[: count - 1]
        pixels = inputs.pixels[torch.from_numpy(np.concatenate([[own], others]))]
        ids, mask = pad([inputs.ids[row]])
        found = model(pixels, ids.expand(count, -1), mask.expand(count, -1))
        score = found.match if found.image is None or found.text is None else (found.image * found.text).sum(-1)
        hits.append(float(score[0] > score[1:].max()))
    return np.array(hits)


@torch.no_grad()
def operations(model: nn.Module, drawn: tuple[Tensor, Tensor, Tensor]) -> int:
    """Floating-point operations of one pair."""
    with FlopCounterMode(display=False) as counter:
        model(*drawn)
    return int(counter.get_total_flops())


def _longest(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The pair whose text has most tokens."""
    return inputs.draw(np.array([int(np.argmax([len(row) for row in inputs.ids]))]))
