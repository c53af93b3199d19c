"""Third parties that log and warn while they work, held back; their errors still come through."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

NOISY = ("torch", "torch.__trace", "torchao", "executorch", "onnxscript", "onnx_ir", "coremltools", "root")


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block only errors of the noisy libraries are logged, and nothing is warned."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
