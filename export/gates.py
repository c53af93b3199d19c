"""What a bundle must keep to come into being: finite weights, its plan, its size, the shares that were asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from dmedge.artifact import Program
from dmedge.errors import ExportError
from dmedge.export.counts import Counts
from dmedge.export.engines import Engine
from dmedge.export.plan import PlannedTensor
from dmedge.manifest import Runtime
from dmedge.model.checkpoint import Checkpoint

SIZE_MARGIN = 0.10  # of the planned bytes
# Besides tensors a file holds its graph, whose size the plan does not know. Measured, for each module with
# weights that a program runs, on the average of a bundle: 0.8 to 1.2 kB in ONNX, 0.6 to 1.7 kB in ExecuTorch, 2.0 to
# 2.5 kB in Core ML, whatever the widths.
GRAPH_BYTES_PER_MODULE = 2_500


def check_finite(model: nn.Module) -> None:
    """Look for weights that are no numbers.

    Raises:
        ExportError: there are some; the tensor is named.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise ExportError(
                f"{name}: {bad} of {tensor.numel()} weights are NaN or infinite; expected finite numbers; "
                "train or compress again from a checkpoint that is sound"
            )


def check_token_table(checkpoint: Checkpoint) -> None:
    """Look for the token table of a quantized model, which is most of its size, in float.

    Raises:
        ExportError: it is not int8.
    """
    if checkpoint.quantization is None:
        return
    rows = checkpoint.model.config.vocab_size
    for name, module in checkpoint.model.text.named_modules(prefix="text"):
        if isinstance(module, nn.Embedding) and module.num_embeddings == rows:
            raise ExportError(
                f"{name}: the token table of a quantized model is {module.weight.dtype}".replace("torch.", "")
                + f" ({module.weight.nbytes:,} bytes); expected int8_rows; compress again without --keep {name}"
            )


def check_size(
    root: Path, programs: Sequence[Program], planned: Mapping[str, Mapping[str, PlannedTensor]], engine: Engine
) -> dict[str, int]:
    """Compare the files of one engine with the bytes of the plan.

    Returns:
        for the manifest: bytes found and planned.

    Raises:
        ExportError: they are further apart than the margin and the graph explain.
    """
    total = want = modules = 0
    for file in dict.fromkeys(program.file for program in programs):
        own = [planned[program.name] for program in programs if program.file == file]
        tensors = {name: tensor for tensors in own for name, tensor in tensors.items()}  # stored once in a file
        want += sum(tensor.size_bytes(engine.float_bytes) for tensor in tensors.values())
        modules += sum(len({tensor.module for tensor in tensors.values()}) for tensors in own)
        total += _size(root / file)
    graph = GRAPH_BYTES_PER_MODULE * modules
    if not (1 - SIZE_MARGIN) * want <= total <= (1 + SIZE_MARGIN) * want + graph:
        raise ExportError(
            f"programs for {engine.runtime}: {total:,} bytes; expected {want:,} of tensors by the plan, within "
            f"{SIZE_MARGIN:.0%}, and at most {graph:,} of graph: a tensor is stored in another precision, or "
            "twice, or not at all; nothing was written: report this"
        )
    return {"program_bytes": total, "planned_bytes": want}


def _size(path: Path) -> int:
    """Of a file, or of all below a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def check_shares(
    counts: Mapping[str, Counts], runtime: Runtime, min_delegated: float | None, min_int8: float | None
) -> None:
    """Hold every program to the shares of multiply-accumulates that were asked for.

    Raises:
        ExportError: a program keeps less, or nothing was counted.
    """
    wanted = {"mac_share_delegated": min_delegated, "mac_share_int8": min_int8}
    words = {"mac_share_delegated": "delegated", "mac_share_int8": "int8"}
    for key, limit in wanted.items():
        if limit is None:
            continue
        if not counts:
            raise ExportError(f"{runtime}: nobody counted what is {words[key]} there; leave out --min-{words[key]}")
        for name, found in counts.items():
            share = found.to_json()[key]
            if share < limit:
                raise ExportError(
                    f"{name} for {runtime}: {share:.1%} of its multiply-accumulates are {words[key]}; expected "
                    f"{limit:.1%}; nothing was written: compress with fewer --keep, or lower --min-{words[key]}"
                )
