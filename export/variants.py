"""A checkpoint cut down to a variant: its programs, and a model without what none of them runs."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmedge.artifact import Program, TensorSpec
from dmedge.errors import ExportError
from dmedge.export.plan import modules_run
from dmedge.export.prompts import Prompt, labels_of
from dmedge.model.checkpoint import WEIGHTS, Checkpoint, checkpoint_programs
from dmedge.model.config import ModelConfig
from dmedge.variants import VARIANTS, Variant


def variant_programs(config: ModelConfig, variant: Variant, labels: int = 0) -> tuple[Program, ...]:
    """The programs of a variant, as torch runs them.

    Args:
        config: of the model.
        variant: which of them.
        labels: of the variant `prompts`.

    Raises:
        ExportError: the model has no fusion, and the variant is nothing else.
    """
    known = {program.name: program for program in checkpoint_programs(config)}
    image, text = known["encode_image"], known["encode_text"]
    if variant == "fused":
        if "fuse" not in known:
            raise ExportError(
                "variant fused: the model was trained without fusion; expected one that fuses; "
                "export the variant dual, or train with another fusion than 'none'"
            )
        return (Program("fuse_pair", WEIGHTS, "torch", (*image.inputs, *text.inputs), known["fuse"].outputs),)
    if variant == "prompts":
        scores = TensorSpec("scores", ("batch", labels), "float32", (-1, 1))
        return (Program("classify", WEIGHTS, "torch", image.inputs, (scores, image.outputs[0])),)
    return tuple(known[name] for name in VARIANTS[variant] if name in known)


def cut_down(
    checkpoint: Checkpoint, variant: Variant, prompts: Sequence[Prompt] = ()
) -> tuple[Checkpoint, tuple[Program, ...]]:
    """The checkpoint of a variant and its programs; the model is that of `checkpoint`, which is changed.

    Args:
        checkpoint: in evaluation mode, without gradients.
        variant: what to keep.
        prompts: of the variant `prompts`; their embeddings are those of the text tower as it is in `checkpoint`,
            rounding to int8 included, and are stored as float32.

    Raises:
        ExportError: the model has no fusion, and the variant is nothing else.
    """
    labels = checkpoint.labels if variant in ("full", "fused") else ()
    if variant == "prompts":
        embeddings, labels = prompt_embeddings(checkpoint, prompts), labels_of(prompts)
        table = nn.Linear(embeddings.shape[1], len(labels), bias=False)
        table.weight = nn.Parameter(embeddings, requires_grad=False)
        checkpoint.model.prompts = table
    programs = variant_programs(checkpoint.model.config, variant, len(labels))
    if variant != "full":
        _drop_unused_(checkpoint.model, programs)
    kept = {name for name, _ in checkpoint.model.named_modules()}
    plan = checkpoint.quantization
    if plan is not None:
        plan = {module: scheme for module, scheme in plan.items() if module in kept}
    answers = checkpoint.answers if variant in ("full", "fused") else ()
    return replace(checkpoint, labels=labels, answers=answers, quantization=plan), programs


@torch.no_grad()
def prompt_embeddings(checkpoint: Checkpoint, prompts: Sequence[Prompt]) -> Tensor:
    """Embed every label: the mean of the embeddings of its texts, scaled to unit length.

    Texts run one at a time, as on a device, so that none depends on its neighbours.

    Returns:
        [C, D] float32, rows in the order of `labels_of`.
    """
    rows: dict[str, list[Tensor]] = {}
    for prompt in prompts:
        ids, mask = (torch.from_numpy(array) for array in checkpoint.tokenizer.batch([prompt.text]))
        rows.setdefault(prompt.label, []).append(checkpoint.model.encode_text(ids, mask)[0][0])
    return F.normalize(torch.stack([torch.stack(own).mean(0) for own in rows.values()]), dim=-1)


def _drop_unused_(model: nn.Module, programs: Sequence[Program]) -> None:
    """Take out the parts of a model that no program runs."""
    used = {name.partition(".")[0] for program in programs for name in modules_run(model, program)}
    for name, _ in list(model.named_children()):
        if name not in used:
            delattr(model, name)


def takes(programs: Sequence[Program], tensor: str) -> bool:
    """Whether a program has an input of that name: "pixels" or "ids"."""
    return any(spec.name == tensor for program in programs for spec in program.inputs)
