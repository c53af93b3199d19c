// SPDX-License-Identifier: Apache-2.0
@_exported import DmedgeCore
import ExecuTorch
import Foundation

/// The bundle of this package, loaded. Embeddings have unit length: the dot product of two is the score of a picture
/// for a text.
///
/// A bundle may be of a variant with fewer programs: `BundleFacts.programs` names those that there are. Not for several
/// threads at once.
public final class Model {
    public let bundle: Artifact
    private let module: Module
    private let tokenizer: Tokenizer?
    private let preprocess: Preprocess?

    /// - Throws: `BundleError`, where the bundle was changed, or is not the one that this package was written for
    public init() throws {
        bundle = try Artifact(Model.asset("bundle"), kind: "bundle")
        guard bundle.digest == BundleFacts.digest else {
            throw BundleError("found bundle \(bundle.digest); expected \(BundleFacts.digest); run dmedge app ios")
        }
        try bundle.checkAll()
        module = Module(filePath: bundle.root.appendingPathComponent(BundleFacts.modelFile).path)
        let names = bundle.names
        tokenizer = names.contains("tokenizer.model")
            ? try Tokenizer(bundle.data("tokenizer.model"), contextLength: BundleFacts.contextLength) : nil
        preprocess = names.contains("preprocessor_config.json")
            ? try Preprocess(bundle.json("preprocessor_config.json")) : nil
    }

    /// A folder of `Assets`.
    public static func asset(_ name: String) -> URL {
        (Bundle.module.resourceURL ?? Bundle.module.bundleURL).appendingPathComponent("Assets/\(name)")
    }

    public func tokenIds(_ text: String) throws -> [Int32] {
        guard let tokenizer else { throw BundleError("this bundle reads no texts") }
        return tokenizer.encode(text)
    }

    /// Bytes [imageSize, imageSize, 3].
    public func pixels(_ picture: Picture) throws -> [UInt8] {
        guard let preprocess else { throw BundleError("this bundle reads no pictures") }
        return preprocess(picture)
    }

    /// An embedding, `embedDim` numbers.
    public func encodeText(_ text: String) throws -> [Float] { try run("encode_text", inputs(text))[0] }

    /// An embedding, `embedDim` numbers.
    public func encodeImage(_ picture: Picture) throws -> [Float] { try run("encode_image", inputs(picture))[0] }

    /// The variant prompts: a score for each of labels.json.
    public func classify(_ picture: Picture) throws -> [Float] { try run("classify", inputs(picture))[0] }

    /// The variant fused: the logit of the match, then those of the other heads.
    public func fusePair(_ picture: Picture, _ text: String) throws -> [[Float]] {
        try run("fuse_pair", inputs(picture) + inputs(text))
    }

    /// The outputs of one program, in the order of the manifest.
    public func run(_ program: String, _ inputs: [ValueConvertible]) throws -> [[Float]] {
        try module.execute(program, inputs).map { value in
            guard let tensor: Tensor<Float> = value.tensor() else { throw BundleError("\(program): no float32") }
            return tensor.scalars()
        }
    }

    private func inputs(_ picture: Picture) throws -> [ValueConvertible] {
        [Tensor<UInt8>(try pixels(picture), shape: [1, BundleFacts.imageSize, BundleFacts.imageSize, 3])]
    }

    private func inputs(_ text: String) throws -> [ValueConvertible] {
        let ids = try tokenIds(text)
        let shape = [1, ids.count]
        return [Tensor<Int32>(ids, shape: shape), Tensor<Int32>([Int32](repeating: 1, count: ids.count), shape: shape)]
    }
}
