"""What one pair costs each family, timed in turns: on a machine that others use too, nothing else can be compared."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dmedge.export.quiet import quiet
from dmedge.study.cells import Cell, Done, Result
from dmedge.study.contestants import FAMILIES, IMAGE_SIZE, Dmedge
from dmedge.study.context import Study
from dmedge.study.scores import clustered

REFERENCE = "dmedge"
OWN = "dmedge, its own way"
ROUNDS, WARM, TOKENS = 60, 5, 8


def run_turns(study: Study) -> Done:
    """Latency of a pair, batch 1, one thread, in PyTorch; weights do not matter to it."""
    has_concepts = study.members.shape[1] > 0
    settings = {"rounds": ROUNDS, "tokens": TOKENS, "families": [*FAMILIES, *([OWN] if has_concepts else [])]}
    settings |= study.source.settings

    def run(folder: Path) -> Result:
        torch.manual_seed(study.config.seed)
        vocab_size, classes = study.checkpoint.tokenizer.vocab_size, study.members.shape[0]
        with quiet():  # transformers wakes libraries that say what they lack
            models = {name: make(vocab_size, classes).eval() for name, make in FAMILIES.items()}
            if has_concepts:
                models[OWN] = Dmedge(vocab_size, classes, study.members).eval()
        times = in_turns(models)
        return {
            name: {
                "pair_ms": float(np.median(own)),
                "ratio": clustered(own / times[REFERENCE], np.arange(len(own))).to_json(),
            }
            for name, own in times.items()
        }

    return study.run(Cell("pair-latency", settings, run))


@torch.no_grad()
def in_turns(models: dict[str, nn.Module]) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """[ROUNDS] milliseconds of every model, each of them once in every round, forwards and backwards by turns."""
    pixels = torch.zeros(1, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    ids, mask = torch.ones(1, TOKENS, dtype=torch.int32), torch.ones(1, TOKENS, dtype=torch.int32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found: dict[str, list[float]] = {name: [] for name in models}
        for number in range(WARM + ROUNDS):
            for name in list(models) if number % 2 else reversed(list(models)):
                found[name].append(_milliseconds(models[name], (pixels, ids, mask)))
    finally:
        torch.set_num_threads(threads)
    return {name: np.array(samples[WARM:]) for name, samples in found.items()}


def _milliseconds(model: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    model(*inputs)  # the run after another model pays for cold caches
    began = time.perf_counter()
    model(*inputs)
    return (time.perf_counter() - began) * 1000
