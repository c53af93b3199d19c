"""The conformance pack: inputs in all their oddity, and what torch makes of them.

`dmedge.evidence.parity` defines the files, and compares any runtime with them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dmedge.data.emoji import TRAIN_STYLES, load_pack
from dmedge.data.languages import script_of
from dmedge.evidence.parity import CASES, GOLDEN, golden_key
from dmedge.manifest import Runtime
from dmedge.model.checkpoint import Checkpoint, checkpoint_programs
from dmedge.runtime.wire import Array

TILES = ("1F34E", "1F431")  # apple and cat face: pictures like those trained on
ODD_TEXTS = ("", "a", "RED apple", "café manzana 林檎", "🍎", "red apple " * 200)
FUSED = 4  # pairs of a picture and a short text
_EXIF_ORIENTATION, _ROTATED = 0x0112, 6


def write_conformance(folder: Path, checkpoint: Checkpoint, tolerances: Mapping[Runtime, Mapping[str, float]]) -> None:
    """Write pictures, texts, and golden inputs and outputs of every program, computed by torch at batch 1.

    Args:
        folder: to create.
        checkpoint: in evaluation mode; its own numbers are the golden ones, rounding to int8 included.
        tolerances: runtime -> program -> greatest error, relative to the largest golden value.
    """
    (folder / "images").mkdir(parents=True)
    images = _write_images(folder)
    texts = [*_texts_by_script().values(), *ODD_TEXTS]
    golden = _golden(checkpoint, [folder / name for name in images], texts)
    programs = [program.name for program in checkpoint_programs(checkpoint.model.config)]
    limits = {runtime: {name: found[name] for name in programs} for runtime, found in tolerances.items()}
    cases = {"tolerances": limits, "images": images, "texts": texts}
    (folder / CASES).write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)


def _write_images(folder: Path) -> list[str]:
    """Pictures that trip a careless decoder: not square, rotated by EXIF, grey, see-through, tiny."""
    ramp = _ramp(90, 40)
    clear = np.dstack([ramp, np.arange(90, dtype=np.uint8)[None].repeat(40, 0) * 2])
    pictures = {
        "wide.png": Image.fromarray(ramp),
        "tall.png": Image.fromarray(ramp.transpose(1, 0, 2).copy()),
        "grey.png": Image.fromarray(ramp[:, :, 0]),
        "grey-16bit.png": Image.fromarray(ramp[:, :, 0].astype(np.uint16) * 257),
        "alpha.png": Image.fromarray(clear),
        "palette.png": Image.fromarray(ramp).quantize(16),
        "pixel.png": Image.new("RGB", (1, 1), (200, 30, 60)),
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


def _texts_by_script() -> dict[str, str]:
    """One name in every script of the embedded languages, each of another emoji."""
    pack = load_pack()
    texts: dict[str, str] = {}
    for number, locale in enumerate(pack.locales):
        names = [name for name in pack.names(locale) if name is not None]
        texts.setdefault(script_of(locale), names[number * 17 % len(names)])
    return texts


def _golden(checkpoint: Checkpoint, images: Sequence[Path], texts: Sequence[str]) -> dict[str, Array]:
    """Inputs and outputs of every case, by their name in golden.npz."""
    pixels = [(_pixels(checkpoint, path),) for path in images]
    tokens = [checkpoint.tokenizer.batch([text]) for text in texts]
    cases: dict[str, Sequence[Sequence[Array]]] = {"encode_image": pixels, "encode_text": tokens}
    golden: dict[str, Array] = {}
    for program in checkpoint_programs(checkpoint.model.config):
        if program.name == "fuse":
            cases["fuse"] = _fuse_cases(checkpoint, pixels, tokens)
        for case, inputs in enumerate(cases[program.name]):
            arrays = (*inputs, *_run(checkpoint, program.name, inputs))
            for spec, array in zip((*program.inputs, *program.outputs), arrays, strict=True):
                golden[golden_key(program.name, case, spec.name)] = array
    return golden


def _pixels(checkpoint: Checkpoint, path: Path) -> Array:
    with Image.open(path) as image:
        return checkpoint.preprocess(image)[None]


def _fuse_cases(
    checkpoint: Checkpoint, pixels: Sequence[Sequence[Array]], tokens: Sequence[Sequence[Array]]
) -> Sequence[Sequence[Array]]:
    """The pairs with the strongest match logits; one near zero has no relative error worth the name."""
    patches = [_run(checkpoint, "encode_image", inputs)[1] for inputs in pixels]
    texts = [(_run(checkpoint, "encode_text", inputs)[1], inputs[1]) for inputs in tokens[:FUSED]]
    pairs = [(patch, *text) for patch in patches for text in texts]
    return sorted(pairs, key=lambda pair: -abs(float(_run(checkpoint, "fuse", pair)[0][0])))[:FUSED]


@torch.inference_mode()
def _run(checkpoint: Checkpoint, program: str, inputs: Sequence[Array]) -> list[Array]:
    outputs = getattr(checkpoint.model, program)(*(torch.from_numpy(array) for array in inputs))
    return [output.numpy() for output in outputs]
