"""Imported models and the plain way to export them: transformers' own exporters with their settings as they are.

Int8 is what the runtimes' own guides say of transformers: onnxruntime's `quantize_dynamic`, and XNNPACK's quantizer
with dynamic ranges, per channel, on linear layers. Weights are random: this says how fast and how true, not how good.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.exporters.exporter_executorch import ExecutorchConfig, ExecutorchExporter
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter
from transformers.exporters.quantizers import PT2EQuantizer

from benchmarks.plain_subject import FILES, Plain, Row, Subject
from dmedge.artifact import Artifact
from dmedge.compress.recipe import CompressConfig
from dmedge.model.hf_import import import_checkpoint
from dmedge.runtime.wire import Array
from tests import tiny_hf

VOCABULARY, SIZE, PATCH, SAMPLES, LENGTH, CONTEXT = 30_000, 224, 16, 8, 12, 64
BODY: Mapping[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
}
MEAN = STD = 0.5  # of all pictures here


class PlainImage(nn.Module):
    """The image half of an original, from scaled floats to an embedding."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.encoder, self.projection = original.vision_model, getattr(original, "visual_projection", nn.Identity())

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map [B, 3, H, W] to [B, D]."""
        return F.normalize(self.projection(self.encoder(pixel_values=pixel_values).pooler_output), dim=-1)


class PlainText(nn.Module):
    """The text half of an original, without a mask: what the original makes of one cannot be calibrated by PT2E."""

    def __init__(self, original: Any) -> None:
        super().__init__()
        self.encoder, self.projection = original.text_model, getattr(original, "text_projection", nn.Identity())

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map [B, L] to [B, D]."""
        output = self.encoder(input_ids=input_ids)
        return F.normalize(self.projection(output.pooler_output), dim=-1)


def imported_subjects(place: Path) -> Iterator[Subject]:
    """A CLIP, a SigLIP and a ViT with BERT of two layers in each tower."""
    vision = {"image_size": SIZE, "patch_size": PATCH, **BODY}
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, **BODY}
    square = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3, "size": {"height": SIZE, "width": SIZE}}
    processor = transformers.ViTImageProcessorPil(**square)

    tokenizer = _of_context(tiny_hf.clip_tokenizer())
    ends = {"bos_token_id": len(tokenizer) - 2, "eos_token_id": len(tokenizer) - 1}
    clip = transformers.CLIPConfig(text_config=text | ends, vision_config=vision, projection_dim=256)
    yield _subject("clip", transformers.CLIPModel(clip), place, processor, tokenizer, end=ends["eos_token_id"])

    tokenizer = _of_context(tiny_hf.siglip2_tokenizer())
    siglip = transformers.SiglipConfig(text_config=text, vision_config=vision)
    yield _subject("siglip", transformers.SiglipModel(siglip), place, processor, tokenizer, end=1, length=CONTEXT)

    tokenizer = _of_context(tiny_hf.bert_tokenizer())
    both = transformers.VisionTextDualEncoderConfig(
        vision_config={"model_type": "vit", **vision}, text_config={"model_type": "bert", **text}, projection_dim=256
    )
    model = transformers.VisionTextDualEncoderModel(both)
    yield _subject("vit-bert", model, place, processor, tokenizer, end=3)


def _of_context(tokenizer: Any) -> Any:
    tokenizer.model_max_length = CONTEXT
    return tokenizer


def _subject(
    name: str, model: Any, place: Path, processor: Any, tokenizer: Any, *, end: int, length: int = LENGTH
) -> Subject:
    original = tiny_hf.make_random_(model).requires_grad_(False)
    for part in (original, processor, tokenizer):
        part.save_pretrained(place / name)

    def checkpoint(out: Path) -> Artifact:
        return import_checkpoint(place / name, out)

    rng = np.random.default_rng(0)
    pixels = [_picture(rng) for _ in range(SAMPLES)]
    ids = rng.integers(4, 400, (SAMPLES, 1, length)).astype(np.int32)
    ids[:, :, LENGTH - 1 :] = end
    scaled = [((picture.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2).copy() for picture in pixels]
    rows: dict[str, list[Row]] = {
        "encode_image": [{"pixel_values": x} for x in scaled],
        "encode_text": [{"input_ids": row.astype(np.int64)} for row in ids],
    }
    return Subject(
        name,
        checkpoint,
        CompressConfig(int8=True, ledger_texts=0, calibration_items=4),
        {"encode_image": PlainImage(original), "encode_text": PlainText(original)},
        {"encode_image": [[x] for x in pixels], "encode_text": [[row, np.ones_like(row)] for row in ids]},
        rows,
        {program: found[:1] for program, found in rows.items()},
        ("embedding",),
        CONTEXT,
        {"executorch": _write_pte, "onnxruntime": _write_onnx},
    )


def _picture(rng: np.random.Generator) -> Array:
    """Coloured blobs, uint8 [1, SIZE, SIZE, 3]."""
    coarse = torch.from_numpy(rng.random((1, 3, 7, 7), np.float32))
    smooth = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _write_pte(plain: Plain, folder: Path) -> tuple[str, ...]:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    quantizer = None
    if plain.precision == "int8":
        scheme = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        linears = XNNPACKQuantizer().set_operator_type(torch.ops.aten.linear.default, scheme)
        quantizer = PT2EQuantizer(linears, plain.calibration)
    config = ExecutorchConfig(dynamic_shapes=plain.shapes, quantizer=quantizer)
    program, _ = ExecutorchExporter().export_program(plain.module, dict(plain.example), config)
    ExecutorchExporter.save_program(program, folder / FILES["executorch"])
    return plain.outputs


def _write_onnx(plain: Plain, folder: Path) -> tuple[str, ...]:
    import onnx_ir
    from onnxruntime.quantization import quantize_dynamic

    program, _ = OnnxExporter().export_program(
        plain.module, dict(plain.example), OnnxConfig(dynamic_shapes=plain.shapes)
    )
    path = folder / FILES["onnxruntime"]
    onnx_ir.save(program, path)
    if plain.precision == "int8":
        quantize_dynamic(path, folder / "int8.onnx")
        (folder / "int8.onnx").replace(path)
    return tuple(str(value.name) for value in program.graph.outputs)
