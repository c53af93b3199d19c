"""Imported models as dmedge exports them beside the same weights exported the plain way, in turns.

Run it with `python -m benchmarks.plain_export`. The plain way is transformers' own exporters with their settings as
they are, and for int8 what the runtimes' own guides say: onnxruntime's `quantize_dynamic`, and XNNPACK's quantizer
with dynamic ranges, per channel, on linear layers. Both sides take one picture of 224 x 224 and texts of 12 tokens
(SigLIP's are filled up to 64), of any length at run time, on one thread. The plain programs are spared the scaling of
pixels, which happens before they are timed, and a mask. Parity is the greatest difference of an embedding from that
of the original in float32, and the least cosine. Weights are random: this says how fast and how true, not how good.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F
from transformers.exporters.exporter_executorch import ExecutorchConfig, ExecutorchExporter
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter
from transformers.exporters.quantizers import PT2EQuantizer

from dmedge.artifact import Artifact, Program, TensorSpec, new_artifact
from dmedge.compress.recipe import CompressConfig, compress_artifact
from dmedge.environment import host_facts, tool_versions
from dmedge.evidence.latency import Case, measure, paired_ratio
from dmedge.export.bundle import export_bundle
from dmedge.export.config import ExportConfig
from dmedge.export.quiet import quiet
from dmedge.manifest import Runtime
from dmedge.model.hf_import import import_checkpoint
from dmedge.runtime.session import Session, open_session
from dmedge.runtime.wire import Array
from tests import tiny_hf

RESULTS = Path(__file__).parent / "results"
VOCABULARY, SIZE, PATCH, SAMPLES, LENGTH, CONTEXT = 30_000, 224, 16, 8, 12, 64
BODY: Mapping[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
}
RUNTIMES: tuple[Runtime, ...] = ("executorch", "onnxruntime")
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


@dataclass(frozen=True, eq=False)
class Subject:
    """One original, its halves, and inputs in both forms."""

    name: str
    original: Any
    folder: Path
    halves: Mapping[str, nn.Module]
    ours: Mapping[str, list[list[Array]]]
    plain: Mapping[str, list[list[Array]]]


def subjects(place: Path) -> Iterator[Subject]:
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
    rng = np.random.default_rng(0)
    pixels = [_picture(rng) for _ in range(SAMPLES)]
    ids = rng.integers(4, 400, (SAMPLES, 1, length)).astype(np.int32)
    ids[:, :, LENGTH - 1 :] = end
    scaled = [((picture.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2).copy() for picture in pixels]
    return Subject(
        name,
        original,
        place / name,
        {"encode_image": PlainImage(original), "encode_text": PlainText(original)},
        {"encode_image": [[x] for x in pixels], "encode_text": [[row, np.ones_like(row)] for row in ids]},
        {
            "encode_image": [[x] for x in scaled],
            "encode_text": [[row.astype(np.int64)] for row in ids],
        },
    )


def _picture(rng: np.random.Generator) -> Array:
    """Coloured blobs, uint8 [1, SIZE, SIZE, 3]."""
    coarse = torch.from_numpy(rng.random((1, 3, 7, 7), np.float32))
    smooth = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def plain_bundle(subject: Subject, program: str, runtime: Runtime, precision: str, out: Path) -> Artifact:
    """One program of an original by transformers' exporters, in a directory that a session opens."""
    names = ["pixel_values"] if program == "encode_image" else ["input_ids"]
    inputs = dict(zip(names, map(torch.from_numpy, subject.plain[program][0]), strict=True))
    free = {1: Dim("length", min=2, max=CONTEXT)}
    shapes = {name: {} if name == "pixel_values" else free for name in names}
    with new_artifact(out) as draft:
        write = _plain_pte if runtime == "executorch" else _plain_onnx
        name = write(subject.halves[program].eval(), inputs, shapes, precision, draft.path)
        specs = tuple(
            TensorSpec(
                name,
                tuple("length" if axis in shapes[name] else size for axis, size in enumerate(tensor.shape)),
                str(tensor.dtype).removeprefix("torch."),
            )
            for name, tensor in inputs.items()
        )
        file = "model.pte" if runtime == "executorch" else "model.onnx"
        width = subject.halves[program](**inputs).shape[1]
        outputs = (TensorSpec(name, (1, width), "float32"),)
        programs = (Program("forward", file, runtime, specs, outputs),)
        return draft.finish(kind="bundle", stage="benchmark", config={}, programs=programs)


def _plain_pte(module: nn.Module, inputs: dict[str, Tensor], shapes: Any, precision: str, folder: Path) -> str:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    quantizer = None
    if precision == "int8":
        scheme = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        linears = XNNPACKQuantizer().set_operator_type(torch.ops.aten.linear.default, scheme)
        quantizer = PT2EQuantizer(linears, [dict(inputs)])
    config = ExecutorchConfig(dynamic_shapes=shapes, quantizer=quantizer)
    program, _ = ExecutorchExporter().export_program(module, dict(inputs), config)
    ExecutorchExporter.save_program(program, folder / "model.pte")
    return "embedding"


def _plain_onnx(module: nn.Module, inputs: dict[str, Tensor], shapes: Any, precision: str, folder: Path) -> str:
    import onnx_ir
    from onnxruntime.quantization import quantize_dynamic

    program, _ = OnnxExporter().export_program(module, dict(inputs), OnnxConfig(dynamic_shapes=shapes))
    onnx_ir.save(program, folder / "model.onnx")
    if precision == "int8":
        quantize_dynamic(folder / "model.onnx", folder / "int8.onnx")
        (folder / "int8.onnx").replace(folder / "model.onnx")
    return str(program.graph.outputs[0].name)


class As:
    """The session of a plain program under the name that ours has."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def time(self, _: str, inputs: Any, runs: int) -> Any:
        """See `Session.time`."""
        return self._session.time("forward", inputs, runs)


def parity(session: Session, program: str, inputs: list[list[Array]], wanted: Array) -> dict[str, float]:
    """Greatest difference from the original, and least cosine."""
    found = np.concatenate([session.run(program, row)[0] for row in inputs])
    return {"max_abs": float(np.abs(found - wanted).max()), "cosine": float((found * wanted).sum(1).min())}


@torch.inference_mode()
def original_embeddings(subject: Subject, program: str) -> Array:
    """Of every sample, float32 [SAMPLES, D]."""
    rows = [subject.halves[program](*map(torch.from_numpy, row)) for row in subject.plain[program]]
    return torch.cat(rows).numpy()


def compared(subject: Subject, precision: str, place: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each runtime and program."""
    checkpoint = import_checkpoint(subject.folder, place / f"{subject.name}-{precision}")
    if precision == "int8":
        settings = CompressConfig(int8=True, ledger_texts=0, calibration_items=4)
        checkpoint = compress_artifact(checkpoint, settings, place / f"{subject.name}-rounded")
    started = time.perf_counter()
    ours = export_bundle(checkpoint, ExportConfig(target="linux-x86_64"), place / f"{subject.name}-{precision}-ours")
    print(f"{subject.name} {precision}: bundle of both runtimes {time.perf_counter() - started:.0f} s", flush=True)
    for runtime in RUNTIMES:
        with open_session(ours, runtime=runtime) as session:
            for program in subject.halves:
                with quiet():
                    out = place / f"{subject.name}-{precision}-{runtime}-{program}"
                    plain = plain_bundle(subject, program, runtime, precision, out)
                with open_session(plain) as other:
                    case = Case(program, program, subject.ours[program], subject.plain[program])
                    paired = measure(session, As(other), case, rounds=rounds)  # type: ignore[arg-type]
                    wanted, ratio = original_embeddings(subject, program), paired_ratio(paired)
                    yield {
                        **{"model": subject.name, "precision": precision, "runtime": runtime, "program": program},
                        "ours_ms": float(np.median(paired.artifact_ns)) / 1e6,
                        "plain_ms": float(np.median(paired.baseline_ns)) / 1e6,
                        **{"ratio": ratio.value, "low": ratio.low, "high": ratio.high},
                        "ours": parity(session, program, subject.ours[program], wanted),
                        "plain": parity(other, "forward", subject.plain[program], wanted),
                        "bytes": {
                            "ours": sum(
                                {p.file: ours.manifest.files[p.file].size_bytes for p in session.programs}.values()
                            ),
                            "plain": sum(file.size_bytes for file in plain.manifest.files.values()),
                        },
                    }


def shown(row: Mapping[str, Any]) -> str:
    """One line of a table in Markdown."""
    sides = " | ".join(f"{row[side]['max_abs']:.1e} | {row[side]['cosine']:.5f}" for side in ("ours", "plain"))
    return (
        f"| {row['model']} | {row['precision']} | {row['runtime']} | {row['program']} | {row['ours_ms']:.2f} | "
        f"{row['plain_ms']:.2f} | {row['ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f}) | {sides} |"
    )


def main() -> None:
    """Print and store a ratio and both parities per model, precision, runtime and program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--models", default="clip,siglip,vit-bert")
    parser.add_argument("--precisions", default="float32,int8")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(Path(folder)):
            if subject.name not in options.models.split(","):
                continue
            for precision in options.precisions.split(","):
                for row in compared(subject, precision, Path(folder), options.rounds):
                    rows.append(row)
                    print(shown(row), flush=True)
    RESULTS.mkdir(exist_ok=True)
    table = {"host": host_facts(), "tools": tool_versions(), "rounds": options.rounds, "rows": rows}
    (RESULTS / "plain_export.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
