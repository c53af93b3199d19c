"""Code for the README of a bundle: for every engine of a target the lines that load each program and run it.

The pieces of one language are put together in the order of `ORDER`; those that a variant has no use for are left out.
Braces are doubled, since the texts go through `str.format`.
"""

from collections.abc import Mapping

from dmedge.export.engines import EngineName

ORDER = ("head", "ids", "pixels", "encode_text", "encode_image", "both", "fuse_pair", "classify", "end")
Pieces = Mapping[str, str]

_ANDROID: Pieces = {
    "head": """
## Kotlin

With `implementation("org.pytorch:executorch-android:1.5.1")`, and the bundle's files copied out of the assets:

```kotlin
val module = Module.load(File(bundle, "programs/model.pte").path)
""",
    "encode_text": """
fun encodeText(ids: IntArray): FloatArray {{
    val shape = longArrayOf(1, ids.size.toLong())
    val mask = IntArray(ids.size) {{ 1 }}
    return module.execute(
        "encode_text",
        EValue.from(Tensor.fromBlob(ids, shape)),
        EValue.from(Tensor.fromBlob(mask, shape)),
    )[0].toTensor().dataAsFloatArray
}}
""",
    "encode_image": """
fun encodeImage(rgb: ByteArray): FloatArray =
    module.execute("encode_image", EValue.from(Tensor.fromBlobUnsigned(rgb, longArrayOf(1, {size}, {size}, 3))))[0]
        .toTensor().dataAsFloatArray
""",
    "fuse_pair": """
fun fusePair(rgb: ByteArray, ids: IntArray): List<FloatArray> {{  // {outputs}
    val shape = longArrayOf(1, ids.size.toLong())
    return module.execute(
        "fuse_pair",
        EValue.from(Tensor.fromBlobUnsigned(rgb, longArrayOf(1, {size}, {size}, 3))),
        EValue.from(Tensor.fromBlob(ids, shape)),
        EValue.from(Tensor.fromBlob(IntArray(ids.size) {{ 1 }}, shape)),
    ).map {{ it.toTensor().dataAsFloatArray }}
}}
""",
    "classify": """
fun classify(rgb: ByteArray): FloatArray =  // a score for each of labels.json
    module.execute("classify", EValue.from(Tensor.fromBlobUnsigned(rgb, longArrayOf(1, {size}, {size}, 3))))[0]
        .toTensor().dataAsFloatArray
""",
    "end": """```
""",
}

_SWIFT_EXECUTORCH: Pieces = {
    "head": """
## Swift, ExecuTorch

With the Swift package `https://github.com/pytorch/executorch`, branch `swiftpm-1.5.1`, its products `executorch`,
`backend_xnnpack`, `kernels_optimized` and `kernels_quantized`, and the linker flag `-all_load`:

```swift
import ExecuTorch

let module = Module(filePath: bundle.appendingPathComponent("programs/model.pte").path)
""",
    "encode_text": """
func encodeText(_ ids: [Int32]) throws -> [Float] {{  // at most {context_length} ids
    let mask = [Int32](repeating: 1, count: ids.count)
    let shape = [1, ids.count]
    let embedding: Tensor<Float> = try module.execute(
        "encode_text", [Tensor<Int32>(ids, shape: shape), Tensor<Int32>(mask, shape: shape)])[0].tensor()!
    return embedding.scalars()
}}
""",
    "encode_image": """
func encodeImage(_ rgb: [UInt8]) throws -> [Float] {{
    let pixels = Tensor<UInt8>(rgb, shape: [1, {size}, {size}, 3])
    let embedding: Tensor<Float> = try module.execute("encode_image", [pixels])[0].tensor()!
    return embedding.scalars()
}}
""",
    "fuse_pair": """
func fusePair(_ rgb: [UInt8], _ ids: [Int32]) throws -> [[Float]] {{  // {outputs}
    let mask = [Int32](repeating: 1, count: ids.count)
    let shape = [1, ids.count]
    let outputs = try module.execute(
        "fuse_pair",
        [Tensor<UInt8>(rgb, shape: [1, {size}, {size}, 3]), Tensor<Int32>(ids, shape: shape),
         Tensor<Int32>(mask, shape: shape)])
    return outputs.map {{ value -> [Float] in (value.tensor()! as Tensor<Float>).scalars() }}
}}
""",
    "classify": """
func classify(_ rgb: [UInt8]) throws -> [Float] {{  // a score for each of labels.json
    let pixels = Tensor<UInt8>(rgb, shape: [1, {size}, {size}, 3])
    let scores: Tensor<Float> = try module.execute("classify", [pixels])[0].tensor()!
    return scores.scalars()
}}
""",
    "end": """```
""",
}

_SWIFT_COREML: Pieces = {
    "head": """
## Swift, Core ML

Needs iOS 17, or iOS 18 for weights in int4. Xcode compiles a package that is added to an app; `MLModel.compileModel`
does so on the device. Core ML has no uint8 arrays: its programs take the pixels, 0 to 255, as float32.

```swift
import CoreML

func load(_ name: String) async throws -> MLModel {{
    let package = bundle.appendingPathComponent("programs/\\(name).mlpackage")
    return try MLModel(contentsOf: await MLModel.compileModel(at: package))
}}

func run(_ model: MLModel, _ inputs: [String: MLMultiArray], _ output: String) throws -> [Float] {{
    let outputs = try model.prediction(from: MLDictionaryFeatureProvider(dictionary: inputs))
    return MLShapedArray<Float>(outputs.featureValue(for: output)!.multiArrayValue!).scalars
}}
""",
    "ids": """
func text(_ ids: [Int32]) -> [String: MLMultiArray] {{  // at most {context_length} ids
    let row = MLShapedArray<Int32>(scalars: ids, shape: [1, ids.count])
    let mask = MLShapedArray<Int32>(repeating: 1, shape: [1, ids.count])
    return ["ids": MLMultiArray(row), "mask": MLMultiArray(mask)]
}}
""",
    "pixels": """
func picture(_ rgb: [UInt8]) -> [String: MLMultiArray] {{
    ["pixels": MLMultiArray(MLShapedArray<Float>(scalars: rgb.map(Float.init), shape: [1, {size}, {size}, 3]))]
}}
""",
    "encode_text": """
// with load("encode_text"): run(model, text(ids), "embedding")
""",
    "encode_image": """
// with load("encode_image"): run(model, picture(rgb), "embedding")
""",
    "fuse_pair": """
// with load("fuse_pair"), for each of {outputs}:
// run(model, picture(rgb).merging(text(ids)) {{ first, _ in first }}, "match")
""",
    "classify": """
// with load("classify"), a score for each of labels.json: run(model, picture(rgb), "scores")
""",
    "end": """```

The packages were read back and computed operation by operation in torch, not by Core ML, and this code was not
compiled: run `conformance/` on a device before you rely on them.
""",
}

_PYTHON_ONNX: Pieces = {
    "head": """
## Python, onnxruntime

With `pip install onnxruntime{packages}`, in this folder:

```python
import numpy as np, onnxruntime
{imports}
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")
""",
    "ids": """{tokenizer}
{encode}
""",
    "pixels": """pixels = np.full((1, {size}, {size}, 3), 255, np.uint8)  # a picture, preprocessed
""",
    "encode_text": """
text = onnxruntime.InferenceSession("programs/encode_text.onnx", options)
query = text.run(["embedding"], {{"ids": ids, "mask": mask}})[0]
""",
    "encode_image": """
image = onnxruntime.InferenceSession("programs/encode_image.onnx", options)
found = image.run(["embedding"], {{"pixels": pixels}})[0]
""",
    "both": """
score = query @ found.T
""",
    "fuse_pair": """
program = onnxruntime.InferenceSession("programs/fuse_pair.onnx", options)
{outputs}, = program.run(None, {{"pixels": pixels, "ids": ids, "mask": mask}})
""",
    "classify": """
program = onnxruntime.InferenceSession("programs/classify.onnx", options)
scores = program.run(["scores"], {{"pixels": pixels}})[0]  # one for each of labels.json
""",
    "end": """```

Feed one text at a time to an int8 program: its activations have one range for all that a call carries.
Without that option the sums of an int8 program saturate silently on x86 without VNNI, and its answers are wrong;
the conformance pack shows whether they are.
""",
}

_PYTHON_EXECUTORCH: Pieces = {
    "head": """
## Python, ExecuTorch

With `pip install executorch torch{packages}`, in this folder:

```python
import numpy as np, torch
{imports}from executorch.runtime import Runtime

program = Runtime.get().load_program("programs/model.pte")
""",
    "ids": """{tokenizer}
{encode}
""",
    "pixels": """pixels = torch.full((1, {size}, {size}, 3), 255, dtype=torch.uint8)  # a picture, preprocessed
""",
    "encode_text": """
query = program.load_method("encode_text").execute([torch.from_numpy(ids), torch.from_numpy(mask)])[0]
""",
    "encode_image": """
found = program.load_method("encode_image").execute([pixels])[0]
""",
    "both": """
score = query @ found.T
""",
    "fuse_pair": """
fuse_pair = program.load_method("fuse_pair")
{outputs}, = fuse_pair.execute([pixels, torch.from_numpy(ids), torch.from_numpy(mask)])
""",
    "classify": """
scores = program.load_method("classify").execute([pixels])[0]  # one for each of labels.json
""",
    "end": """```
""",
}

_WEB: Pieces = {
    "head": """
## JavaScript, onnxruntime-web

`dmedge.mjs` and the modules beside it load this folder in a browser, with nothing to build. Put the folder on your
web server, and beside it, as `ort/`, these files of the npm package `onnxruntime-web` {ort_version}: `{ort_files}`.

```html
<script type="module">
import * as ort from "./ort/ort.wasm.min.mjs";
import {{ openBundle }} from "./bundle/dmedge.mjs";

ort.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
const model = await openBundle({{ ort }});
""",
    "pixels": """// a file, an ImageBitmap, or RGBA pixels
const picture = await (await fetch("./bundle/conformance/images/wide.png")).blob();
""",
    "encode_text": """const query = await model.encodeText("red apple");
""",
    "encode_image": """const found = await model.encodeImage(picture);
""",
    "both": """const score = query.embedding.reduce((sum, value, i) => sum + value * found.embedding[i], 0);
""",
    "fuse_pair": """const {{ {outputs} }} = await model.fusePair(picture, "red apple"); // logits
""",
    "classify": """const {{ label, scores }} = await model.classify(picture); // the best, and a score for each
""",
    "end": """</script>
```

The loader checks the sha256 of every file that it reads{tokenizes}, and resizes as Pillow does, to the last
bit. A method that this bundle has no program for is undefined. More than one thread, as in
`openBundle({{ ort, threads: 2 }})`, needs a page served with `Cross-Origin-Opener-Policy: same-origin` and
`Cross-Origin-Embedder-Policy: require-corp`; any other page uses one.
""",
}

SNIPPETS: Mapping[tuple[str, EngineName], Pieces] = {
    ("android", "xnnpack"): _ANDROID,
    ("ios", "xnnpack"): _SWIFT_EXECUTORCH,
    ("ios", "coreml"): _SWIFT_COREML,
    ("web", "onnxruntime-web"): _WEB,
    ("linux-arm64", "onnxruntime"): _PYTHON_ONNX,
    ("linux-arm64", "xnnpack"): _PYTHON_EXECUTORCH,
    ("linux-x86_64", "onnxruntime"): _PYTHON_ONNX,
    ("linux-x86_64", "xnnpack"): _PYTHON_EXECUTORCH,
}
