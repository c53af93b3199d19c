"""What zeros buy in the runtimes of phones, beside what smaller matrices buy.

Run it with `python benchmarks/sparsity.py`. Three float32 bundles of the shipped checkpoint are timed against the
dense one, in turns: one where nine of ten weights of every layer are zero, scattered; and two without half of the
inner channels, hidden units and heads. Accuracy plays no part here: the weights that go are the smallest, and
nothing recovers.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from training_speed import RESULTS

from dmedge.artifact import Artifact, load_artifact, new_artifact
from dmedge.compress.importance import tower_units
from dmedge.compress.prune import prune
from dmedge.environment import host_facts, tool_versions
from dmedge.evidence.latency import Case, measure, paired_ratio
from dmedge.export.bundle import export_bundle
from dmedge.export.config import ExportConfig
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs, load_checkpoint, save_checkpoint
from dmedge.runtime.session import open_session

ZEROS, TAKEN = 0.9, 0.5


def with_zeros(checkpoint: Checkpoint) -> Checkpoint:
    """The smallest weights of every linear and convolution set to zero."""
    model = deepcopy(checkpoint.model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                size = module.weight.abs()
                module.weight.mul_(size >= size.flatten().kthvalue(round(ZEROS * size.numel())).values)
    return replace(checkpoint, model=model)


def with_fewer_units(checkpoint: Checkpoint) -> Checkpoint:
    """Half of the units inside every module gone."""
    importance = {name: torch.rand(own.count) for name, own in tower_units(checkpoint.model).items()}
    return prune(checkpoint, importance, TAKEN, "layer")


VARIANTS: dict[str, Callable[[Checkpoint], Checkpoint]] = {
    f"{ZEROS:.0%} zeros": with_zeros,
    f"{TAKEN:.0%} of the units gone": with_fewer_units,
}


def write(checkpoint: Checkpoint, out: Path, parent: Artifact) -> Artifact:
    """A checkpoint on disk, as export wants it."""
    with new_artifact(out) as draft:
        save_checkpoint(draft.path, checkpoint)
        return draft.finish(
            kind="checkpoint",
            stage="benchmark",
            config={},
            parents={"parent": parent.digest},
            programs=checkpoint_programs(checkpoint.model.config),
            precision={"*": "float32"},
            languages=parent.manifest.languages,
            summary={},
        )


def cases(checkpoint: Checkpoint) -> list[Case]:
    """One random picture and one text of 12 tokens."""
    rng = np.random.default_rng(0)
    config = checkpoint.model.config
    pixels = rng.integers(0, 256, (1, config.image_size, config.image_size, 3)).astype(np.uint8)
    ids = rng.integers(3, config.vocab_size, (1, 12)).astype(np.int32)
    inputs = {"encode_image": [[pixels]], "encode_text": [[ids, np.ones_like(ids)]]}
    return [Case(name, name, given, given) for name, given in inputs.items()]


def main() -> None:
    """Print and store a ratio per target, variant and program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.manual_seed(0)
    parent = load_artifact(Path("emoji"), kind="checkpoint")
    dense = load_checkpoint(parent)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        checkpoints = {"dense": write(dense, place / "dense", parent)}
        for number, (name, make) in enumerate(VARIANTS.items()):
            checkpoints[name] = write(make(dense), place / f"variant-{number}", parent)
        for target in ("android", "linux-x86_64"):
            bundles = {
                name: export_bundle(made, ExportConfig(target=target), place / f"{made.name}-{target}")
                for name, made in checkpoints.items()
            }
            base = open_session(bundles["dense"])
            for name in VARIANTS:
                session = open_session(bundles[name])
                for case in cases(dense):
                    ratio = paired_ratio(measure(session, base, case, rounds=options.rounds))
                    row = {"target": target, "variant": name, "program": case.name}
                    rows.append(row | {"ratio": ratio.value, "low": ratio.low, "high": ratio.high})
                    print(f"{target:14} {name:24} {case.name:14} {ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f})")
                session.close()
            base.close()
    RESULTS.mkdir(exist_ok=True)
    table = {"host": host_facts(), "tools": tool_versions(), "rounds": options.rounds, "rows": rows}
    (RESULTS / "sparsity.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
