"""The README of a bundle: what is in it, and the lines that load it."""

from collections.abc import Mapping, Sequence

from dmedge.export.engines import ENGINES, EngineName
from dmedge.model.config import ModelConfig

_COMMON = """# An image-text model for {target}

Exported by dmedge in {precision}.

| File | What it is |
|---|---|
| `programs/` | {files} |
| `manifest.json` | inputs, outputs, shapes, precision of every module, sha256 of every file |
| {vocabulary}; text of any length, at most {context_length} tokens are read |
| `preprocessor_config.json` | how a picture becomes {size} x {size} pixels |
| `labels.json` | names of the classes |
{answers}| `conformance/` | pictures and texts with what every program must answer; run it on your device |
| `LICENSES/` | what the data and this tool ask of you |

- `encode_image(pixels) -> embedding, patches` takes uint8 [1, {size}, {size}, 3], RGB.
- `encode_text(ids, mask) -> embedding, tokens` takes int32 [1, L], 1 <= L <= {context_length}; mask is 1 on tokens.
{fuse}
Embeddings are float32 [1, {embed_dim}] of unit length: their dot product is the score of a picture for a text.
"""

_FUSE = """- `fuse(patches, tokens, mask) -> {outputs}` takes what the encoders returned: one number for how well
  they fit{heads}.
"""

_ANDROID = """
## Kotlin

With `implementation("org.pytorch:executorch-android:1.5.1")`, and the bundle's files copied out of the assets:

```kotlin
val module = Module.load(File(bundle, "programs/model.pte").path)

fun encodeText(ids: IntArray): FloatArray {{
    val shape = longArrayOf(1, ids.size.toLong())
    val mask = IntArray(ids.size) {{ 1 }}
    return module.execute(
        "encode_text",
        EValue.from(Tensor.fromBlob(ids, shape)),
        EValue.from(Tensor.fromBlob(mask, shape)),
    )[0].toTensor().dataAsFloatArray
}}

fun encodeImage(rgb: ByteArray): FloatArray =
    module.execute("encode_image", EValue.from(Tensor.fromBlobUnsigned(rgb, longArrayOf(1, {size}, {size}, 3))))[0]
        .toTensor().dataAsFloatArray
```
"""

_PYTHON_ONNX = """
## Python, onnxruntime

With `pip install onnxruntime {package}`, in this folder:

```python
import numpy as np, onnxruntime
{imports}

options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")
text = onnxruntime.InferenceSession("programs/encode_text.onnx", options)
image = onnxruntime.InferenceSession("programs/encode_image.onnx", options)
{tokenizer}

{encode}
query = text.run(["embedding"], {{"ids": ids, "mask": mask}})[0]
pixels = np.full((1, {size}, {size}, 3), 255, np.uint8)  # a picture, preprocessed
score = query @ image.run(["embedding"], {{"pixels": pixels}})[0].T
```

Feed one text at a time to an int8 program: its activations have one range for all that a call carries.
Without that option the sums of an int8 program saturate silently on x86 without VNNI, and its answers are wrong;
the conformance pack shows whether they are.
"""

_PYTHON_EXECUTORCH = """
## Python, ExecuTorch

With `pip install executorch torch {package}`, in this folder:

```python
import numpy as np, torch
{imports}
from executorch.runtime import Runtime

program = Runtime.get().load_program("programs/model.pte")
encode_text, encode_image = program.load_method("encode_text"), program.load_method("encode_image")
{tokenizer}

{encode}
query = encode_text.execute([torch.from_numpy(ids), torch.from_numpy(mask)])[0]
pixels = torch.full((1, {size}, {size}, 3), 255, dtype=torch.uint8)  # a picture, preprocessed
score = query @ encode_image.execute([pixels])[0].T
```
"""

SNIPPETS: Mapping[tuple[str, EngineName], str] = {
    ("android", "xnnpack"): _ANDROID,
    ("linux-x86_64", "onnxruntime"): _PYTHON_ONNX,
    ("linux-x86_64", "xnnpack"): _PYTHON_EXECUTORCH,
}

_OWN_TOKENIZER: Mapping[str, str] = {
    "vocabulary": "`tokenizer.model` | SentencePiece vocabulary",
    "package": "sentencepiece",
    "imports": "import sentencepiece",
    "tokenizer": 'tokenizer = sentencepiece.SentencePieceProcessor("tokenizer.model")',
    "encode": 'ids = np.array([tokenizer.encode("red apple")[:{context_length}]], np.int32)\nmask = np.ones_like(ids)',
}
_IMPORTED_TOKENIZER: Mapping[str, str] = {
    "vocabulary": "{files} | the tokenizer of the model that was imported, and what its own code does around it",
    "package": "'dmedge[imported]'",
    "imports": "from dmedge.artifact import load_artifact\nfrom dmedge.data.hf_tokenizer import open_tokenizer",
    "tokenizer": 'tokenizer = open_tokenizer(load_artifact("."), {context_length})',
    "encode": 'ids, mask = tokenizer.batch(["red apple"])',
}


def bundle_readme(
    target: str, engines: Sequence[EngineName], precision: str, config: ModelConfig, tokenizer: Sequence[str]
) -> str:
    """Text of README.md.

    Args:
        target: where the bundle runs.
        engines: that carry its programs; each has its lines of code.
        precision: in words.
        config: of the model.
        tokenizer: its files.
    """
    facts = {"size": config.image_size, "context_length": config.context_length, "embed_dim": config.embed_dim}
    lines = _OWN_TOKENIZER if tokenizer == ("tokenizer.model",) else _IMPORTED_TOKENIZER
    named = ", ".join(f"`{name}`" for name in tokenizer)
    words = {key: line.format(files=named, **facts) for key, line in lines.items()}
    files = "; ".join(ENGINES[engine].description for engine in engines)
    fuse = _fuse(config) if config.fusion != "none" else ""
    answers = "| `answers.json` | what the answer head chooses from |\n" if config.answers else ""
    head = _COMMON.format(target=target, precision=precision, files=files, fuse=fuse, answers=answers, **facts, **words)
    return head + "".join(SNIPPETS[target, engine].format(**facts, **words) for engine in engines)


def _fuse(config: ModelConfig) -> str:
    """What the fusion gives, by the heads that it has."""
    heads = {"classes": (config.classes, "each class"), "answers": (config.answers, "each answer")}
    found = {name: words for name, (count, words) in heads.items() if count}
    return _FUSE.format(
        outputs=", ".join(["match", *found]), heads="".join(f", and one for {words}" for words in found.values())
    )
