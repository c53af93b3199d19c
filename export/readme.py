"""The README of a bundle: what is in it, and the lines that load it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dmedge.artifact import Program
from dmedge.devices.npm import ONNXRUNTIME_WEB
from dmedge.export.engines import ENGINES, EngineName
from dmedge.export.readme_code import ORDER, SNIPPETS
from dmedge.model.checkpoint import Checkpoint
from dmedge.variants import Variant

__all__ = ["SNIPPETS", "About", "bundle_readme"]

_TITLES: Mapping[Variant, str] = {
    "full": "An image-text model for {target}",
    "dual": "An image encoder and a text encoder for {target}",
    "image-only": "An image encoder for {target}",
    "text-only": "A text encoder for {target}",
    "fused": "A model of pictures with texts for {target}",
    "prompts": "A classifier of pictures for {target}",
}
_HEAD = """# {title}

Exported by dmedge in {precision}{variant}.

| File | What it is |
|---|---|
| `programs/` | {files} |
| `manifest.json` | inputs, outputs, shapes, precision of every module, sha256 of every file |
{rows}| `conformance/` | {golden} with what every program must answer; run it on your device |
| `LICENSES/` | what the data and this tool ask of you |

"""
_ROWS = {
    "ids": "| {vocabulary}; text of any length, at most {context_length} tokens are read |\n",
    "tokenizers": "| `tokenizer.json` | the same vocabulary for Hugging Face's library `tokenizers` |\n",
    "pixels": "| `preprocessor_config.json` | how a picture becomes {size} x {size} pixels |\n",
    "classes": "| `labels.json` | names of the classes |\n",
    "answers": "| `answers.json` | what the answer head chooses from |\n",
    "labels": "| `labels.json` | the {labels} labels, in the order of the scores |\n"
    "| `prompts.json` | the texts of every label; their embeddings are in the program |\n",
}
_PROGRAMS = {
    "encode_image": "- `encode_image(pixels) -> embedding, patches` takes uint8 [1, {size}, {size}, 3], RGB.\n",
    "encode_text": "- `encode_text(ids, mask) -> embedding, tokens` takes int32 [1, L], 1 <= L <= {context_length}; "
    "mask is 1 on tokens.\n",
    "fuse": "- `fuse(patches, tokens, mask) -> {outputs}` takes what the encoders returned: one number for how well\n"
    "  they fit{heads}.\n",
    "fuse_pair": "- `fuse_pair(pixels, ids, mask) -> {outputs}` takes uint8 [1, {size}, {size}, 3], RGB, and\n"
    "  int32 [1, L], 1 <= L <= {context_length}; mask is 1 on tokens: one number for how well they fit{heads}.\n",
    "classify": "- `classify(pixels) -> scores, embedding` takes uint8 [1, {size}, {size}, 3], RGB, and gives a score "
    "for each\n  label: the dot product of two vectors of unit length. The greatest is the answer.\n",
}
_EMBEDDINGS = """
Embeddings are float32 [1, {embed_dim}] of unit length: their dot product is the score of a picture for a text.
"""
_ONE_SIDE = """
Embeddings are float32 [1, {embed_dim}] of unit length. They fit those of the other encoder of the same checkpoint: the
dot product of two is the score of a picture for a text.
"""

_OWN_TOKENIZER: Mapping[str, str] = {
    "vocabulary": "`tokenizer.model` | SentencePiece vocabulary",
    "packages": " sentencepiece",
    "imports": "import sentencepiece\n",
    "tokenizer": 'tokenizer = sentencepiece.SentencePieceProcessor("tokenizer.model")',
    "encode": 'ids = np.array([tokenizer.encode("red apple")[:{context_length}]], np.int32)\nmask = np.ones_like(ids)',
    "tokenizes": ", tokenizes as SentencePiece does",
}
_IMPORTED_TOKENIZER: Mapping[str, str] = {
    "vocabulary": "{files} | the tokenizer of the model that was imported, and what its own code does around it",
    "packages": " 'dmedge[imported]'",
    "imports": "from dmedge.artifact import load_artifact\nfrom dmedge.data.hf_tokenizer import open_tokenizer\n",
    "tokenizer": 'tokenizer = open_tokenizer(load_artifact("."), {context_length})',
    "encode": 'ids, mask = tokenizer.batch(["red apple"])',
    "tokenizes": ", gives the ids of the original tokenizer",
}
_NO_TOKENIZER: Mapping[str, str] = dict.fromkeys(_OWN_TOKENIZER, "")


@dataclass(frozen=True, eq=False)
class About:
    """What a README is about."""

    target: str
    variant: Variant
    engines: Sequence[EngineName]  # each has its lines of code
    precision: str  # in words
    checkpoint: Checkpoint
    programs: Sequence[Program]
    tokenizer: Sequence[str]  # its files, none where no program reads text


def bundle_readme(about: About) -> str:
    """Text of README.md."""
    config, names = about.checkpoint.model.config, [program.name for program in about.programs]
    facts = {
        "size": config.image_size,
        "context_length": config.context_length,
        "embed_dim": config.embed_dim,
        "labels": len(about.checkpoint.labels),
        "outputs": ", ".join(_logits(about)),
        "heads": _heads(about),
        "ort_version": ONNXRUNTIME_WEB.version,
        "ort_files": "`, `".join(ONNXRUNTIME_WEB.files),
    }
    facts |= {key: line.format(files=_quoted(about.tokenizer), **facts) for key, line in _tokenizer(about).items()}
    uses = _uses(about)
    head = _HEAD.format(
        title=_TITLES[about.variant].format(target=about.target),
        precision=about.precision,
        variant="" if about.variant == "full" else f", variant {about.variant}",
        files="; ".join(ENGINES[engine].description for engine in about.engines),
        rows="".join(row.format(**facts) for use, row in _ROWS.items() if use in uses),
        golden=" and ".join(word for use, word in (("pixels", "pictures"), ("ids", "texts")) if use in uses),
    )
    text = head + "".join(_PROGRAMS[name].format(**facts) for name in names)
    if len({"encode_image", "encode_text"} & set(names)) == 1:
        text += _ONE_SIDE.format(**facts)
    elif "encode_image" in names:
        text += _EMBEDDINGS.format(**facts)
    parts = {"head", "end", *names, *uses}
    for engine in about.engines:
        pieces = SNIPPETS[about.target, engine]
        text += "".join(pieces[part].format(**facts) for part in ORDER if part in parts and part in pieces)
    return text


def _uses(about: About) -> set[str]:
    """What the bundle reads and gives: the keys of `_ROWS`, and "both" where it scores pictures for texts."""
    names = {program.name for program in about.programs}
    uses = {spec.name for program in about.programs if program.name != "fuse" for spec in program.inputs}
    outputs = {spec.name for program in about.programs for spec in program.outputs}
    uses |= {"labels"} if "classify" in names else set()
    uses |= {"tokenizers"} if {"tokenizer.model", "tokenizer.json"} <= set(about.tokenizer) else set()
    uses |= {"both"} if {"encode_image", "encode_text"} <= names else set()
    uses |= {"classes"} if about.variant in ("full", "fused") else set()
    return uses | (outputs & {"answers"})


def _tokenizer(about: About) -> Mapping[str, str]:
    if not about.tokenizer:
        return _NO_TOKENIZER
    return _OWN_TOKENIZER if "tokenizer.model" in about.tokenizer else _IMPORTED_TOKENIZER


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _logits(about: About) -> list[str]:
    """Outputs of the fusion."""
    programs = [program for program in about.programs if program.name in ("fuse", "fuse_pair")]
    return [spec.name for program in programs for spec in program.outputs]


def _heads(about: About) -> str:
    """What the fusion gives beside the match, by the heads that it has."""
    words = {"classes": "each class", "answers": "each answer"}
    return "".join(f", and one for {words[name]}" for name in _logits(about) if name in words)
