"""Cells of the comparison: every family trained from scratch on the same pairs, in the same order."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dmedge.export.quiet import quiet
from dmedge.logs import progress
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.contestants import CONTEXT, FAMILIES, IMAGE_SIZE, Dmedge, Outputs
from dmedge.study.context import Study
from dmedge.study.features import MOST_TOKENS, vocabulary
from dmedge.study.pairs import Ints, Pairs
from dmedge.study.scores import classification, clustered
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

    def draw(self, rows: Ints) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels [B, S, S, 3], token ids and mask [B, L] of some pairs."""
        return self.pixels[torch.from_numpy(self.pairs.picture[rows])], *pad([self.ids[row] for row in rows])


def contestant_inputs(study: Study, pairs: Pairs) -> Inputs:
    """Shrink the pictures and tokenise the texts of `pairs`."""
    x = torch.from_numpy(pairs.pictures).permute(0, 3, 1, 2)
    parts = [
        F.interpolate(part.float(), (IMAGE_SIZE,) * 2, mode="bilinear", antialias=True) for part in torch.split(x, 2048)
    ]
    pixels = torch.cat([part.round().clamp(0, 255).byte() for part in parts]).permute(0, 2, 3, 1).contiguous()
    ids = vocabulary(study.checkpoint).encode_all(pairs.texts)
    return Inputs(pairs, pixels, [row[: min(MOST_TOKENS, CONTEXT - 1)] for row in ids])


def run_comparison(study: Study) -> dict[str, Done]:
    """Train and judge every family, and dmedge once more with what it usually starts from."""
    makers = _makers(study)
    makers[OWN] = lambda: _warm(study, study.checkpoint.tokenizer.vocab_size)
    return {name: study.run(_cell(study, name, make)) for name, make in makers.items()}


def _makers(study: Study) -> dict[str, Callable[[], nn.Module]]:
    classes, vocab_size = study.members.shape[0], study.checkpoint.tokenizer.vocab_size
    return {name: partial(make, vocab_size, classes) for name, make in FAMILIES.items()}


def _warm(study: Study, vocab_size: int) -> nn.Module:
    """Dmedge with a concept for every emoji, its token embeddings factorised from the training pairs."""
    model = Dmedge(vocab_size, study.members.shape[0], study.members)
    inputs, width = contestant_inputs(study, study.train), model.model.config.text_width
    concept = _concepts(study.train)
    rows, anchors = factorise(tuple(inputs.ids), concept, vocab_size, width, study.config.seed)
    with torch.no_grad():
        token, projection = model.model.text.token, model.model.text_projection
        assert isinstance(token, nn.Embedding) and isinstance(projection, nn.Linear) and model.model.head is not None
        token.weight.copy_(rows)
        projection.weight.copy_(torch.eye(width))
        projection.bias.zero_()
        model.model.head.keys.weight[: len(anchors)].copy_(anchors)
    return model


def _concepts(pairs: Pairs) -> Ints:
    """[N] number of the emoji of each pair among those that may be trained on."""
    from dmedge.data.emoji import load_pack
    from dmedge.data.splits import is_unseen_emoji

    seen = [i for i, emoji in enumerate(load_pack().emoji) if not is_unseen_emoji(emoji.hexcode)]
    return np.searchsorted(np.array(seen, np.int64), pairs.cluster)


def _cell(study: Study, name: str, make: Callable[[], nn.Module]) -> Cell:
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
        seconds = _train(model, contestant_inputs(study, study.train), study, name)
        model.eval()
        test = contestant_inputs(study, study.test)
        predicted = predict(model, test)
        hits = search(model, test, config.candidates, config.seed)
        return {
            "train_seconds": round(seconds, 1),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "token_parameters": study.checkpoint.tokenizer.vocab_size * _width_of_tokens(model),
            **classification(study.test.label, predicted),
            "accuracy_interval": clustered(
                (predicted == study.test.label).astype(np.float64), study.test.cluster
            ).to_json(),
            "recall_at_1": float(hits.mean()),
            "searches": len(hits),
            "flops": operations(model, _longest(test)),
        }

    return Cell(f"scratch-{name.lower().replace(',', '').replace(' ', '-')}", settings, run)


def _width_of_tokens(model: nn.Module) -> int:
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return max((table.embedding_dim for table in tables if table.num_embeddings > 1000), default=0)


def _train(model: nn.Module, inputs: Inputs, study: Study, name: str) -> float:
    """Train in place; returns the seconds that it took."""
    config = study.config
    rng = np.random.default_rng([config.seed, 23])  # the same pairs in the same order for everyone
    optimizer = torch.optim.AdamW(model.parameters(), config.scratch_learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.scratch_learning_rate, config.scratch_steps, pct_start=WARMUP_SHARE
    )
    concept = torch.from_numpy(_concepts(inputs.pairs))
    began = time.perf_counter()
    with progress(name, config.scratch_steps) as advance:
        for _ in range(config.scratch_steps):
            rows = rng.integers(len(inputs.pairs), size=config.scratch_batch)
            loss = _loss(model, inputs.draw(rows), torch.from_numpy(inputs.pairs.label[rows]), concept[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            advance(1, f"loss {float(loss.detach()):.2f}")
    return time.perf_counter() - began


def _loss(model: nn.Module, drawn: tuple[Tensor, Tensor, Tensor], label: Tensor, concept: Tensor) -> Tensor:
    """Cross-entropy of the class, and what teaches which texts belong to which pictures."""
    pixels, ids, mask = drawn
    found: Outputs = model(pixels, ids, mask)
    loss = F.cross_entropy(found.classes, label)
    if found.image is None or found.text is None:  # one stream: matching pairs against strangers
        assert found.match is not None
        strange: Outputs = model(pixels, ids.roll(1, 0), mask.roll(1, 0))
        assert strange.match is not None
        logits = torch.cat([found.match, strange.match])
        target = torch.cat([torch.ones_like(found.match), (concept == concept.roll(1)).float()])
        return loss + CONTRASTIVE_WEIGHT * F.binary_cross_entropy_with_logits(logits, target)
    same = (concept[:, None] == concept[None]).float()
    target = same / same.sum(1, keepdim=True)
    logits = LOGIT_SCALE * found.image @ found.text.T
    both = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
    if isinstance(model, Dmedge) and model.model.head is not None:
        anchored = [model.model.concept_logits(side) for side in (found.image, found.text)]
        both = both + sum(F.cross_entropy(side, concept) for side in anchored)
    return loss + CONTRASTIVE_WEIGHT * both / 2


@torch.no_grad()
def predict(model: nn.Module, inputs: Inputs, batch_size: int = 256) -> Ints:
    """[N] classes that a contestant names."""
    found = []
    for start in range(0, len(inputs.pairs), batch_size):
        rows = np.arange(start, min(start + batch_size, len(inputs.pairs)))
        found.append(model(*inputs.draw(rows)).classes.argmax(1).numpy())
    return np.concatenate(found)


@torch.no_grad()
def search(model: nn.Module, inputs: Inputs, candidates: int, seed: int) -> NDArray[np.float64]:
    """Whether each of some texts scores its own picture above `candidates` - 1 others; ties lose."""
    rng = np.random.default_rng([seed, 31])
    pairs = inputs.pairs
    rows = rng.permutation(len(pairs))[:SEARCHES]
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
