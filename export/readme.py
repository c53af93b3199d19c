"""The README of a bundle: what is in it, and the lines that load it."""

from collections.abc import Mapping, Sequence

from dmedge.devices.npm import ONNXRUNTIME_WEB
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

_SWIFT_EXECUTORCH = """
## Swift, ExecuTorch

With the Swift package `https://github.com/pytorch/executorch`, branch `swiftpm-1.5.1`, its products `executorch`,
`backend_xnnpack`, `kernels_optimized` and `kernels_quantized`, and the linker flag `-all_load`:

```swift
import ExecuTorch

let module = Module(filePath: bundle.appendingPathComponent("programs/model.pte").path)

func encodeText(_ ids: [Int32]) throws -> [Float] {{  // at most {context_length} ids
    let mask = [Int32](repeating: 1, count: ids.count)
    let shape = [1, ids.count]
    let embedding: Tensor<Float> = try module.execute(
        "encode_text", [Tensor<Int32>(ids, shape: shape), Tensor<Int32>(mask, shape: shape)])[0].tensor()!
    return embedding.scalars()
}}

func encodeImage(_ rgb: [UInt8]) throws -> [Float] {{
    let pixels = Tensor<UInt8>(rgb, shape: [1, {size}, {size}, 3])
    let embedding: Tensor<Float> = try module.execute("encode_image", [pixels])[0].tensor()!
    return embedding.scalars()
}}
```
"""

_SWIFT_COREML = """
## Swift, Core ML

Needs iOS 17, or iOS 18 for weights in int4. Xcode compiles a package that is added to an app; `MLModel.compileModel`
does so on the device. Core ML has no uint8 arrays: its `encode_image` takes the same numbers, 0 to 255, as float32.

```swift
import CoreML

func load(_ name: String) async throws -> MLModel {{
    let package = bundle.appendingPathComponent("programs/\\(name).mlpackage")
    return try MLModel(contentsOf: await MLModel.compileModel(at: package))
}}

func embedding(_ model: MLModel, _ inputs: [String: MLMultiArray]) throws -> [Float] {{
    let outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: inputs))
    return MLShapedArray<Float>(outputs.featureValue(for: "embedding")!.multiArrayValue!).scalars
}}

func encodeText(_ model: MLModel, _ ids: [Int32]) throws -> [Float] {{  // at most {context_length} ids
    let row = MLShapedArray<Int32>(scalars: ids, shape: [1, ids.count])
    let mask = MLShapedArray<Int32>(repeating: 1, shape: [1, ids.count])
    return try embedding(model, ["ids": MLMultiArray(row), "mask": MLMultiArray(mask)])
}}

func encodeImage(_ model: MLModel, _ rgb: [UInt8]) throws -> [Float] {{
    let pixels = MLShapedArray<Float>(scalars: rgb.map(Float.init), shape: [1, {size}, {size}, 3])
    return try embedding(model, ["pixels": MLMultiArray(pixels)])
}}
```

The packages were read back and computed operation by operation in torch, not by Core ML, and this code was not
compiled: run `conformance/` on a device before you rely on them.
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

_WEB = """
## JavaScript, onnxruntime-web

`dmedge.mjs` and the two modules beside it load this folder in a browser, with nothing to build. Put the folder on your
web server, and beside it, as `ort/`, these files of the npm package `onnxruntime-web` {ort_version}: `{ort_files}`.

```html
<script type="module">
import * as ort from "./ort/ort.wasm.min.mjs";
import {{ openBundle }} from "./bundle/dmedge.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
const model = await openBundle({{ ort }});
const picture = await (await fetch("./bundle/conformance/images/wide.png")).blob();
const query = await model.encodeText("red apple");
const found = await model.encodeImage(picture); // a file, an ImageBitmap, or RGBA pixels
const score = query.embedding.reduce((sum, value, i) => sum + value * found.embedding[i], 0);
</script>
```

The loader checks the sha256 of every file that it reads, tokenizes as SentencePiece does and resizes as Pillow does, to
the last bit. More than one thread, as in `openBundle({{ ort, threads: 2 }})`, needs a page served with
`Cross-Origin-Opener-Policy: same-origin` and `Cross-Origin-Embedder-Policy: require-corp`; any other page uses one.
"""

SNIPPETS: Mapping[tuple[str, EngineName], str] = {
    ("android", "xnnpack"): _ANDROID,
    ("ios", "xnnpack"): _SWIFT_EXECUTORCH,
    ("ios", "coreml"): _SWIFT_COREML,
    ("web", "onnxruntime-web"): _WEB,
    ("linux-arm64", "onnxruntime"): _PYTHON_ONNX,
    ("linux-arm64", "xnnpack"): _PYTHON_EXECUTORCH,
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
    facts = {
        "size": config.image_size,
        "context_length": config.context_length,
        "embed_dim": config.embed_dim,
        "ort_version": ONNXRUNTIME_WEB.version,
        "ort_files": "`, `".join(ONNXRUNTIME_WEB.files),
    }
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
