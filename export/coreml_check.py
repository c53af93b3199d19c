"""Whether the Core ML packages of a quantized checkpoint compute what its integers make of float activations.

The conformance pack holds what a checkpoint computes that rounds its activations as well, which Core ML does not do, so
its tolerance is wide. This comparison leaves rounding out on both sides, and is narrow.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dmedge.artifact import Program
from dmedge.errors import ExportError, require
from dmedge.evidence.pack import SCORES
from dmedge.evidence.parity import output_error
from dmedge.model.config import ModelConfig
from dmedge.model.dual import DualEncoder

TOLERANCE = 0.02  # relative to the largest value: float16 in place of float32
_LENGTHS = (1, 9)


def check_arithmetic(weights_only: DualEncoder, programs: tuple[Program, ...], packages: Mapping[str, Path]) -> float:
    """Compare packages with torch on random inputs.

    Args:
        weights_only: the model, with its weights decompressed and its activations left alone.
        programs: to compare; "fuse" after the encoders that feed it.
        packages: program -> its `.mlpackage`.

    Returns:
        the greatest error, relative to the largest value of an output.

    Raises:
        ExportError: it is too large.
    """
    interpreter = require("dmedge.runtime.mil_program", "coreml")
    loaded = {program.name: interpreter.MilProgram(packages[program.name]) for program in programs}
    worst = 0.0
    for length in _LENGTHS:
        known = _random_inputs(weights_only.config, length)
        for program in programs:
            inputs = [known[spec.name] for spec in program.inputs]
            with torch.inference_mode():
                wanted = getattr(weights_only, program.name)(*inputs)
                found = loaded[program.name].run({s.name: i for s, i in zip(program.inputs, inputs, strict=True)})
            known |= {spec.name: output for spec, output in zip(program.outputs, wanted, strict=True)}
            rows = zip(program.outputs, wanted, found, strict=True)
            errors = [_error(spec.name, want, got) for spec, want, got in rows if want.dim() > 1]  # no lone logit
            error = max(errors, default=0.0)
            if error > TOLERANCE:
                raise ExportError(
                    f"{program.name}: the Core ML package differs by {error:.3g} of the largest value from torch with "
                    f"the same weights; expected at most {TOLERANCE:g}; nothing was written: report this"
                )
            worst = max(worst, error)
    return worst


def _error(output: str, want: Tensor, got: Tensor) -> float:
    """Relative to the largest value; of the scores of prompts, which may all be small, to 1."""
    return output_error(want.numpy(), got.numpy(), 1.0 if output == SCORES else None)[0]


def _random_inputs(config: ModelConfig, length: int) -> dict[str, Tensor]:
    """Noise for the encoders, always the same; pixels as float32."""
    generator = torch.Generator().manual_seed(length)
    length = min(length, config.context_length)
    sides = (1, config.image_size, config.image_size, 3)
    return {
        "pixels": torch.randint(0, 256, sides, generator=generator).float(),
        "ids": torch.randint(0, config.vocab_size, (1, length), generator=generator, dtype=torch.int32),
        "mask": torch.ones(1, length, dtype=torch.int32),
    }
