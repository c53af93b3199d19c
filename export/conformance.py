"""Writes the conformance pack: inputs in all their oddity, and what torch makes of them.

`dmedge.evidence.pack` defines the files, `dmedge.evidence.parity` compares any runtime with them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dmedge.data.emoji import TRAIN_STYLES, load_pack
from dmedge.evidence.pack import CASES, FOLDER, GOLDEN, SCORES, golden_key
from dmedge.export.texts import golden_texts
from dmedge.export.variants import takes
from dmedge.manifest import Program, Runtime
from dmedge.model.checkpoint import Checkpoint
from dmedge.runtime.wire import Array

TILES = ("1F34E", "1F431")  # apple and cat face: pictures like those trained on
FUSED = 4  # pairs of a picture and a short text
WHOLE = 3  # cases of an encoder with all outputs; the others hold the first one, which is the small one
LARGE = (2400, 1600)  # pixels of a picture as phones take them, but in stripes, which pack well
_EXIF_ORIENTATION, _ROTATED = 0x0112, 6


def write_conformance(
    root: Path,
    checkpoint: Checkpoint,
    programs: Sequence[Program],
    tolerances: Mapping[Runtime, Mapping[str, float]],
) -> None:
    """Write pictures, texts, and golden inputs and outputs of every program, computed by torch at batch 1.

    Args:
        root: of the bundle.
        checkpoint: in evaluation mode; its own numbers are the golden ones, rounding to int8 included.
        programs: of the bundle, as torch runs them.
        tolerances: runtime -> program -> greatest error, as `dmedge.evidence.parity` counts it.
    """
    folder = root / FOLDER
    (folder / "images").mkdir(parents=True)
    images = _write_images(folder) if takes(programs, "pixels") else []
    texts = golden_texts(checkpoint.tokenizer) if takes(programs, "ids") else []
    pixels = [(_pixels(checkpoint, folder / name),) for name in images]
    tokens = [checkpoint.tokenizer.batch([text]) for text in texts]
    golden: dict[str, Array] = {}
    outputs: dict[str, list[list[Array]]] = {}
    pairs: list[tuple[int, int]] = []
    for program in programs:  # the encoders come before the fusion, which takes what they gave
        whole, cases = WHOLE, _cases_of(program.name, pixels, tokens)
        if program.name == "fuse":
            whole, pairs = FUSED, _strongest_pairs(checkpoint, outputs, tokens)
            patches, features = ([row[1] for row in outputs[name]] for name in ("encode_image", "encode_text"))
            cases = [(patches[image], features[text], tokens[text][1]) for image, text in pairs]
        elif program.name == "fuse_pair":
            whole, pairs = len(cases), _all_pairs(images, texts)
        outputs[program.name] = _add_cases(golden, checkpoint, program, cases, whole=whole)
    if {"encode_image", "encode_text"} <= outputs.keys():
        image_rows, text_rows = (
            np.concatenate([row[0] for row in outputs[name]]) for name in ("encode_image", "encode_text")
        )
        golden[SCORES] = text_rows @ image_rows.T
    limits = {runtime: _limits(found, programs) for runtime, found in tolerances.items()}
    table = {"tolerances": limits, "images": images, "texts": texts, "pairs": pairs}
    (folder / CASES).write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)


def _cases_of(
    program: str, pixels: Sequence[Sequence[Array]], tokens: Sequence[Sequence[Array]]
) -> Sequence[Sequence[Array]]:
    """Inputs of every case of a program that starts from pictures, texts, or both."""
    if program == "encode_text":
        return tokens
    if program == "fuse_pair":
        return [(*pixels[image], *tokens[text]) for image, text in _all_pairs(pixels, tokens)]
    return pixels


def _all_pairs(images: Sequence[object], texts: Sequence[object]) -> list[tuple[int, int]]:
    """Pairs that hold every picture and every text: both lists side by side, the shorter one again and again."""
    return [(case % len(images), case % len(texts)) for case in range(max(len(images), len(texts)))]


def _limits(found: Mapping[str, float], programs: Sequence[Program]) -> dict[str, float]:
    """Of every program and, with both encoders, of the scores, in which the errors of both embeddings add up."""
    limits = {program.name: found[program.name] for program in programs}
    if {"encode_image", "encode_text"} <= limits.keys():
        limits[SCORES] = found["encode_image"] + found["encode_text"]
    return limits


def _write_images(folder: Path) -> list[str]:
    """Pictures that trip a careless decoder: of every shape, rotated by EXIF, grey, see-through, tiny, large."""
    ramp = _ramp(90, 40)
    clear = np.dstack([ramp, np.arange(90, dtype=np.uint8)[None].repeat(40, 0) * 2])
    pictures = {
        "square.png": Image.fromarray(_ramp(100, 100)),
        "wide.png": Image.fromarray(ramp),
        "tall.png": Image.fromarray(ramp.transpose(1, 0, 2).copy()),
        "grey.png": Image.fromarray(ramp[:, :, 0]),
        "grey-16bit.png": Image.fromarray(ramp[:, :, 0].astype(np.uint16) * 257),
        "alpha.png": Image.fromarray(clear),
        "palette.png": Image.fromarray(ramp).quantize(16),
        "pixel.png": Image.new("RGB", (1, 1), (200, 30, 60)),
        "large.png": Image.fromarray(_stripes(*LARGE)),
    }
    pack = load_pack()
    place = {emoji.hexcode.upper(): i for i, emoji in enumerate(pack.emoji)}
    for style, hexcode in zip(TRAIN_STYLES, TILES, strict=False):
        pictures[f"{style}-{hexcode.lower()}.png"] = Image.fromarray(pack.images(style)[0][place[hexcode]])
    for name, picture in pictures.items():
        picture.save(folder / "images" / name)
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _ROTATED
    Image.fromarray(ramp).save(folder / "images/exif.jpg", exif=exif, quality=95, subsampling=0)
    return [f"images/{name}" for name in (*pictures, "exif.jpg")]


def _ramp(width: int, height: int) -> NDArray[np.uint8]:
    """Three smooth ramps in as many directions, so that no flip or swap goes unseen."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, (x + 255 - y) / 2], axis=2).round().astype(np.uint8)


def _stripes(width: int, height: int) -> NDArray[np.uint8]:
    """Stripes 3 pixels wide in red, 5 high in green, a coarse step in blue: without antialiasing they leave moire."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, :, 0] = np.where(np.arange(width) // 3 % 2, 230, 20)[None]
    picture[:, :, 1] = np.where(np.arange(height) // 5 % 2, 200, 60)[:, None]
    picture[:, : width // 3, 2] = 180
    return picture


def _add_cases(
    golden: dict[str, Array],
    checkpoint: Checkpoint,
    program: Program,
    cases: Sequence[Sequence[Array]],
    *,
    whole: int,
) -> list[list[Array]]:
    """Run every case, keep what the pack holds of it in `golden`, and return all outputs."""
    results = [_run(checkpoint, program.name, inputs) for inputs in cases]
    for case, (inputs, outputs) in enumerate(zip(cases, results, strict=True)):
        kept = len(outputs) if case < whole else 1
        specs = (*program.inputs, *program.outputs[:kept])
        for spec, array in zip(specs, (*inputs, *outputs[:kept]), strict=True):
            golden[golden_key(program.name, case, spec.name)] = array
    return results


def _pixels(checkpoint: Checkpoint, path: Path) -> Array:
    with Image.open(path) as image:
        return checkpoint.preprocess(image)[None]


def _strongest_pairs(
    checkpoint: Checkpoint, outputs: Mapping[str, Sequence[Sequence[Array]]], tokens: Sequence[Sequence[Array]]
) -> list[tuple[int, int]]:
    """The pairs with the strongest match logits; one near zero has no relative error worth the name."""

    def strength(pair: tuple[int, int]) -> float:
        image, text = pair
        inputs = (outputs["encode_image"][image][1], outputs["encode_text"][text][1], tokens[text][1])
        return abs(float(_run(checkpoint, "fuse", inputs)[0][0]))

    pairs = [(image, text) for image in range(len(outputs["encode_image"])) for text in range(FUSED)]
    return sorted(pairs, key=strength, reverse=True)[:FUSED]


@torch.inference_mode()
def _run(checkpoint: Checkpoint, program: str, inputs: Sequence[Array]) -> list[Array]:
    outputs = getattr(checkpoint.model, program)(*(torch.from_numpy(array) for array in inputs))
    return [output.numpy() for output in outputs]
