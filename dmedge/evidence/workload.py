"""What is timed: real pictures and texts, in the form that each side of a comparison takes."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from dmedge.data.evalset import EvalSet
from dmedge.evidence.latency import Case, Nanoseconds
from dmedge.runtime.encoder import Encoder
from dmedge.runtime.wire import Array

SAMPLES = 8  # pictures, and texts: spread evenly over the token lengths that the data has
LOOKED_AT = 2000  # texts whose length is counted
FRONT_RUNS = 400  # of decoding, and of tokenising

Inputs = Sequence[Array]


@dataclass(frozen=True, eq=False)
class Workload:
    """Pictures and texts to time programs with; none of what no program takes."""

    images: Sequence[Image.Image]
    texts: Sequence[str]
    longest: str  # real texts, joined until they fill the context


def draw_workload(data: EvalSet, encoder: Encoder) -> Workload:
    """Choose pictures at even distances, and texts at even quantiles of their length in tokens."""
    places = np.linspace(0, len(data.images) - 1, min(SAMPLES, len(data.images))).astype(int)
    images = [_picture(data.images[place]) for place in places.tolist()] if encoder.takes("pixels") else []
    if not encoder.takes("ids"):
        return Workload(images, [], "")
    rows = np.linspace(0, len(data.texts) - 1, min(LOOKED_AT, len(data.texts))).astype(int)
    texts = sorted((data.texts[row] for row in rows), key=lambda text: (len(encoder.tokenizer.encode(text)), text))
    quantiles = (np.arange(SAMPLES) + 0.5) / SAMPLES * len(texts)
    chosen = [texts[int(place)] for place in quantiles]
    longest = chosen[-1]
    while len(encoder.tokenizer.encode(longest)) < encoder.tokenizer.context_length:
        longest = f"{longest} {' '.join(chosen)}"
    return Workload(images, chosen, longest)


def _picture(image: Any) -> Image.Image:
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def image_inputs(workload: Workload, encoder: Encoder) -> list[Inputs]:
    """Pixels of every picture, as `encode_image` takes them."""
    return [[encoder.preprocess(image)[None]] for image in workload.images]


def text_inputs(workload: Workload, encoder: Encoder) -> list[Inputs]:
    """Ids and mask of every text, as `encode_text` takes them."""
    return [encoder.text_inputs(text) for text in workload.texts]


def program_inputs(workload: Workload, encoder: Encoder) -> Mapping[str, tuple[str, Sequence[Inputs]]]:
    """Case -> program and its inputs; those of the fusion are outputs of this side's own towers."""
    pixels, texts, names = image_inputs(workload, encoder), text_inputs(workload, encoder), encoder.program_names
    cases: dict[str, tuple[str, Sequence[Inputs]]] = {}
    if "encode_image" in names:
        cases["encode_image"] = ("encode_image", pixels)
    if "encode_text" in names:
        cases["encode_text"] = ("encode_text", texts)
        cases["encode_text_longest"] = ("encode_text", [encoder.text_inputs(workload.longest)])
    if "fuse" in names:
        patches = encoder.session.run_many("encode_image", pixels, outputs=(1,))
        tokens = encoder.session.run_many("encode_text", texts, outputs=(1,))
        pairs = zip(patches, tokens, texts, strict=False)
        cases["fuse"] = ("fuse", [[patch, token, text[1]] for (patch,), (token,), text in pairs])
    if "fuse_pair" in names:
        cases["fuse_pair"] = ("fuse_pair", [[*p, *t] for p, t in zip(pixels, texts, strict=False)])
    if "classify" in names:
        cases["classify"] = ("classify", pixels)
    return cases


def paired_cases(workload: Workload, artifact: Encoder, baseline: Encoder) -> list[Case]:
    """The cases that both sides have."""
    mine, theirs = program_inputs(workload, artifact), program_inputs(workload, baseline)
    return [Case(name, program, inputs, theirs[name][1]) for name, (program, inputs) in mine.items() if name in theirs]


def time_front_end(workload: Workload, encoder: Encoder) -> dict[str, Nanoseconds]:
    """Nanoseconds of what an app does before a program runs, in this process.

    Returns:
        "decode_resize": PNG bytes to pixels; "tokenise": text to ids; [FRONT_RUNS] each, where a program takes them.
    """
    files, texts = [_png(image) for image in workload.images], workload.texts
    steps: dict[str, Callable[[int], object]] = {}
    if files:
        steps["decode_resize"] = lambda i: encoder.preprocess(Image.open(io.BytesIO(files[i % len(files)])))
    if texts:
        steps["tokenise"] = lambda i: encoder.text_inputs(texts[i % len(texts)])
    return {name: _time(step) for name, step in steps.items()}


def _time(call: Callable[[int], object]) -> Nanoseconds:
    call(0)
    elapsed = np.empty(FRONT_RUNS, np.int64)
    for i in range(FRONT_RUNS):
        start = time.perf_counter_ns()
        call(i)
        elapsed[i] = time.perf_counter_ns() - start
    return elapsed


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
