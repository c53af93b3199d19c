"""Which data a figure was measured on, and whether the artifact had seen it before."""

import hashlib

import numpy as np

from dmedge.data.evalset import EvalSet


def data_digest(data: EvalSet) -> str:
    """sha256 over every pixel, text, language and match of the set, in order."""
    hasher = hashlib.sha256()
    for image in data.images:
        pixels = np.asarray(image)
        hasher.update(repr((pixels.shape, pixels.dtype.str)).encode() + pixels.tobytes())
    for text, language, match in zip(data.texts, data.languages, data.text_image.tolist(), strict=True):
        hasher.update(repr((text, language, match)).encode())
    hasher.update(repr(data.clusters).encode())
    return hasher.hexdigest()
