// SPDX-License-Identifier: Apache-2.0
import Foundation

/// A picture of an index, and how well it fits.
public struct Match: Identifiable, Sendable {
    public let id: Int  // its row
    public let name: String
    public let char: String?
    public let score: Float
}

/// Pictures that `dmedge index` embedded in int8: a row is its codes times its scale.
public struct Index {
    private let items: [Table]
    private let codes: [Int8]
    private let scales: [Float]
    private let dims: [Int]?
    private let isLeading: Bool

    /// - Parameter bundleDigest: of the bundle that embeds the queries; scores of another encoder mean nothing
    /// - Throws: `BundleError`, where another bundle made the index, or its rows are not int8
    public init(_ artifact: Artifact, bundleDigest: String) throws {
        guard (artifact.manifest["parents"] as? Table)?["bundle"] as? String == bundleDigest else {
            throw BundleError("another bundle made the index; make it by this one")
        }
        guard artifact.names.contains("scales.npy") else { throw BundleError("the index is float32; expected int8") }
        items = try artifact.json("items.json") as? [Table] ?? []
        isLeading = artifact.summary["selection"] as? String == "leading"
        codes = try numbers(artifact, "vectors.npy", dtype: "|i1").map(Int8.init(bitPattern:))
        scales = words(try numbers(artifact, "scales.npy", dtype: "<f4")).map(Float.init(bitPattern:))
        let hasDims = artifact.names.contains("dims.npy")
        dims = hasDims ? words(try numbers(artifact, "dims.npy", dtype: "<i4")).map { Int($0) } : nil
    }

    public var count: Int { scales.count }

    /// The best pictures for an embedding, best first; of equal ones the earlier row.
    public func best(_ embedding: [Float], count: Int) -> [Match] {
        let found = scores(embedding)
        let rows = found.indices.sorted { (found[$0], $1) > (found[$1], $0) }.prefix(count)
        return rows.map {
            Match(id: $0, name: items[$0]["name"] as? String ?? "", char: items[$0]["char"] as? String, score: found[$0])
        }
    }

    /// The score of every picture: its scale times the dot product of its codes with the query.
    public func scores(_ embedding: [Float]) -> [Float] {
        let query = select(embedding)
        return scales.indices.map { row in
            var sum: Float = 0
            for i in query.indices { sum += Float(codes[row * query.count + i]) * query[i] }
            return sum * scales[row]
        }
    }

    /// The numbers that are kept of an embedding, of unit length again if they lead, as in training.
    private func select(_ embedding: [Float]) -> [Float] {
        let kept = dims.map { $0.map { embedding[$0] } } ?? embedding
        if !isLeading { return kept }
        let length = Float(kept.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot())
        return kept.map { $0 / length }
    }
}

/// Bytes of an array that numpy saved, row by row.
private func numbers(_ artifact: Artifact, _ name: String, dtype: String) throws -> [UInt8] {
    let content = [UInt8](try artifact.data(name))
    let start = 10 + Int(content[8]) + 256 * Int(content[9])  // magic, version, length of the header
    let header = String(decoding: content[10..<start], as: UTF8.self)
    guard content[6] == 1, header.contains("'\(dtype)'"), header.contains("'fortran_order': False") else {
        throw BundleError("\(name): header \(header); expected \(dtype), row by row; make the index again")
    }
    return Array(content[start...])
}

private func words(_ bytes: [UInt8]) -> [UInt32] {
    (0..<bytes.count / 4).map { littleEndian(bytes, at: 4 * $0) }
}
