// SPDX-License-Identifier: Apache-2.0
import Dmedge
import ExecuTorch
import XCTest

/// What torch computed when the bundle was exported, replayed on this device.
final class ConformanceTests: XCTestCase {
    private var model: Model!
    private var cases: Table = [:]
    private var vectors: Table = [:]

    override func setUpWithError() throws {
        model = try Model()
        cases = try model.bundle.json("conformance/cases.json") as? Table ?? [:]
        let url = try XCTUnwrap(Bundle.module.resourceURL).appendingPathComponent("Golden/vectors.json")
        vectors = try JSONSerialization.jsonObject(with: Data(contentsOf: url)) as? Table ?? [:]
    }

    func testVectorsAreThoseOfTheBundle() {
        XCTAssertEqual(vectors["bundle"] as? String, model.bundle.digest)
    }

    func testEveryPictureHasTheGoldenPixels() throws {
        for (place, name) in (cases["images"] as? [String] ?? []).enumerated() {
            let picture = try Picture(decoding: model.bundle.data("conformance/\(name)"))
            XCTAssertEqual(try model.pixels(picture), golden("pixels", place)?.bytes, name)
        }
    }

    func testEveryTextHasTheGoldenTokens() throws {
        for (place, text) in (cases["texts"] as? [String] ?? []).enumerated() {
            XCTAssertEqual(try model.tokenIds(text), golden("ids", place)?.ids, text)
        }
    }

    func testEveryProgramIsWithinItsTolerance() throws {
        let tolerances = (cases["tolerances"] as? Table)?["executorch"] as? [String: Double] ?? [:]
        for program in model.bundle.manifest["programs"] as? [Table] ?? []
        where program["runtime"] as? String == "executorch" {
            let name = try XCTUnwrap(program["name"] as? String)
            try replay(program, name, tolerance: XCTUnwrap(tolerances[name]))
        }
    }

    private func replay(_ program: Table, _ name: String, tolerance: Double) throws {
        let (inputs, outputs) = (names(program["inputs"]), names(program["outputs"]))
        var place = 0
        while find("\(name)/\(place)/\(inputs[0])") != nil {
            let found = try model.run(name, inputs.map { try XCTUnwrap(find("\(name)/\(place)/\($0)")).input })
            for (output, values) in zip(outputs, found) {
                guard let want = find("\(name)/\(place)/\(output)")?.floats else { continue }  // large ones: a few cases
                let scale = (vectors["scales"] as? [String: Double])?["\(name)/\(output)"]
                XCTAssertLessThanOrEqual(errorOf(want, values, scale), tolerance, "\(name) \(place) \(output)")
            }
            place += 1
        }
        XCTAssertGreaterThan(place, 0, "\(name) has golden cases")
    }

    private func names(_ specs: Any?) -> [String] {
        (specs as? [Table] ?? []).compactMap { $0["name"] as? String }
    }

    /// The greatest absolute difference over the greatest absolute golden value, or over `scale`.
    private func errorOf(_ want: [Float], _ found: [Float], _ scale: Double?) -> Double {
        guard want.count == found.count, found.allSatisfy(\.isFinite) else { return .infinity }
        let largest = Double(want.map(abs).max() ?? 0)
        let greatest = zip(want, found).map { abs(Double($0) - Double($1)) }.max() ?? 0
        return greatest / (scale ?? (largest > 0 ? largest : 1))
    }

    private func golden(_ tensor: String, _ place: Int) -> Golden? {
        let holders = ["encode_image", "encode_text", "classify", "fuse_pair"]
        return holders.lazy.compactMap { self.find("\($0)/\(place)/\(tensor)") }.first
    }

    private func find(_ key: String) -> Golden? {
        ((vectors["arrays"] as? Table)?[key] as? Table).map(Golden.init)
    }
}

private struct Golden {
    let bytes: [UInt8]
    private let shape: [Int]
    private let dtype: String

    init(_ table: Table) {
        bytes = [UInt8](Data(base64Encoded: table["base64"] as? String ?? "") ?? Data())
        (shape, dtype) = (table["shape"] as? [Int] ?? [], table["dtype"] as? String ?? "")
    }

    var ids: [Int32] { words.map { Int32(bitPattern: $0) } }
    var floats: [Float] { words.map(Float.init(bitPattern:)) }

    var input: ValueConvertible {
        switch dtype {
        case "uint8": return Tensor<UInt8>(bytes, shape: shape)
        case "int32": return Tensor<Int32>(ids, shape: shape)
        default: return Tensor<Float>(floats, shape: shape)
        }
    }

    private var words: [UInt32] {
        (0..<bytes.count / 4).map { at in (0..<4).reduce(0) { $0 | UInt32(bytes[4 * at + $1]) << (8 * UInt32($1)) } }
    }
}
