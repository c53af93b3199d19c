"""The checkpoint that ships and the plain way to export it: what the guides of torch, ExecuTorch and onnxruntime show.

`torch.export`, then `to_edge_transform_and_lower` with the XNNPACK partitioner, or `torch.onnx.export`; every setting
as it comes. For int8 in ExecuTorch XNNPACK's quantizer by PT2E: pictures with fixed ranges everywhere, calibrated on
pictures, and texts with dynamic ranges, both per channel; in onnxruntime `quantize_dynamic` as it comes. Batch
normalisation is folded beforehand on both sides, and both take and give the same tensors.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import ExportedProgram

from benchmarks.plain_subject import FILES, Plain, Row, Subject
from dmedge.artifact import load_artifact
from dmedge.compress.recipe import CompressConfig
from dmedge.data.emoji import TEST_STYLE, TRAIN_STYLES, load_pack
from dmedge.model.checkpoint import Checkpoint, load_checkpoint
from dmedge.model.dual import DualEncoder
from dmedge.model.image import fold_batch_norm_

SAMPLES, CALIBRATION = 8, 64  # pictures and texts that are timed; that fixed ranges are fitted to


class PlainImage(nn.Module):
    """The image half as a module."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [B, H, W, 3] to an embedding [B, D] and patches [B, P, V]."""
        return self.model.encode_image(pixels)


class PlainText(nn.Module):
    """The text half as a module."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map int32 [B, L] ids and mask to an embedding [B, D] and tokens [B, L, W]."""
        return self.model.encode_text(ids, mask)


def own_subject(name: str) -> Subject:
    """A checkpoint that ships, with pictures of a style that was never trained on and names in as many languages."""
    artifact = load_artifact(name)
    checkpoint = load_checkpoint(artifact)
    fold_batch_norm_(checkpoint.model)
    rows = {"encode_image": _pictures(checkpoint, TEST_STYLE, SAMPLES), "encode_text": _names(checkpoint, SAMPLES)}
    return Subject(
        name,
        lambda out: artifact,
        CompressConfig(int8=True, ledger_texts=0),
        {"encode_image": PlainImage(checkpoint.model), "encode_text": PlainText(checkpoint.model)},
        {program: [list(row.values()) for row in found] for program, found in rows.items()},
        rows,
        {
            "encode_image": _pictures(checkpoint, TRAIN_STYLES[0], CALIBRATION),
            "encode_text": _names(checkpoint, CALIBRATION),
        },
        ("output_0", "output_1"),  # names that no inner value has
        checkpoint.model.config.context_length,
        {"executorch": _write_pte, "onnxruntime": _write_onnx},
    )


def _pictures(checkpoint: Checkpoint, style: str, count: int) -> list[Row]:
    """Drawn emoji at even distances."""
    tiles, is_drawn = load_pack().images(style)
    drawn = tiles[is_drawn]
    chosen = drawn[:: len(drawn) // count][:count]
    # stacked: an axis that `[None]` adds has a stride of 0, which ExecuTorch refuses
    return [{"pixels": np.stack([checkpoint.preprocess(Image.fromarray(tile))])} for tile in chosen]


def _names(checkpoint: Checkpoint, count: int) -> list[Row]:
    """Names of emoji, each in another language as far as they reach, at least two tokens long."""
    pack = load_pack()
    rows: list[Row] = []
    for number in range(count):
        names = [name for name in pack.names(pack.locales[number * 13 % len(pack.locales)]) if name is not None]
        ids, mask = checkpoint.tokenizer.batch([names[number * 101 % len(names)]])
        rows.append({"ids": ids, "mask": mask})
    return rows


@torch.no_grad()
def _write_pte(plain: Plain, folder: Path) -> tuple[str, ...]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    traced = _traced(plain.module, plain)
    if plain.precision == "int8":
        traced = _traced(_rounded(traced, plain), plain)
    lowered = to_edge_transform_and_lower(traced, partitioner=[XnnpackPartitioner()]).to_executorch()
    (folder / FILES["executorch"]).write_bytes(lowered.buffer)
    return plain.outputs


def _traced(module: nn.Module, plain: Plain) -> ExportedProgram:
    return torch.export.export(module, (), kwargs=dict(plain.example), dynamic_shapes=plain.shapes)


def _rounded(traced: ExportedProgram, plain: Plain) -> nn.Module:
    """The graph after PT2E: fixed ranges for pictures, dynamic ones for texts."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    scheme = get_symmetric_quantization_config(is_per_channel=True, is_dynamic="ids" in plain.example)
    prepared: Any = prepare_pt2e(traced.module(), XNNPACKQuantizer().set_global(scheme))
    for row in plain.calibration:
        prepared(**row)
    return convert_pt2e(prepared)  # type: ignore[no-any-return]


@torch.no_grad()
def _write_onnx(plain: Plain, folder: Path) -> tuple[str, ...]:
    from onnxruntime.quantization import quantize_dynamic

    path = folder / FILES["onnxruntime"]
    torch.onnx.export(
        plain.module,
        (),
        path,
        kwargs=dict(plain.example),
        dynamic_shapes=plain.shapes,
        output_names=list(plain.outputs),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    if plain.precision == "int8":
        quantize_dynamic(path, folder / "int8.onnx")
        (folder / "int8.onnx").replace(path)
    return plain.outputs
