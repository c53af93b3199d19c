// SPDX-License-Identifier: Apache-2.0
import Foundation

/// Text to token ids, exactly as SentencePiece makes them: a unigram vocabulary with byte fallback.
///
/// Source: sentencepiece, src/unigram_model.cc (EncodeOptimized).
public struct Tokenizer {
    private let contextLength: Int
    private let normalize: Normalizer
    private let scores: [Float]
    private var ids: [[UInt8]: Int] = [:]  // of normal pieces
    private var byteIds = [Int](repeating: 0, count: 256)
    private var unknown = 0
    private var longest = 1  // piece, in bytes
    private let unknownScore: Float

    /// - Parameters:
    ///   - content: of tokenizer.model
    ///   - contextLength: most tokens of a text
    public init(_ content: Data, contextLength: Int) throws {
        let model = try SentencePieceModel(content)
        self.contextLength = contextLength
        normalize = Normalizer(model)
        scores = model.pieces.map(\.score)
        var least = Float.infinity
        for (id, piece) in model.pieces.enumerated() {
            switch piece.type {
            case PieceType.normal:
                ids[piece.text] = id
                longest = max(longest, piece.text.count)
                least = min(least, piece.score)
            case PieceType.byte:  // "<0xE2>"
                byteIds[Int(String(decoding: piece.text[3..<5], as: UTF8.self), radix: 16)!] = id
            case PieceType.unknown: unknown = id
            case PieceType.userDefined: throw BundleError("tokenizer.model: a user-defined piece; expected none")
            default: break
            }
        }
        unknownScore = least - 10  // below the least likely piece
    }

    /// Token ids; text that holds nothing becomes the unknown token.
    public func encode(_ text: String) -> [Int32] {
        var found: [Int] = []
        for (id, surface) in bestPath(normalize(text)) {
            found += id == unknown ? surface.map { byteIds[Int($0)] } : [id]
        }
        return found.isEmpty ? [Int32(unknown)] : found.prefix(contextLength).map { Int32($0) }
    }

    /// The most likely split into pieces (Viterbi, sums in float32), as pairs of an id and what it covers.
    private func bestPath(_ normal: [UInt8]) -> [(Int, ArraySlice<UInt8>)] {
        var best = [(score: Float, start: Int, id: Int)?](repeating: nil, count: normal.count + 1)  // what ends here
        best[0] = (0, 0, 0)
        func offer(_ end: Int, _ score: Float, _ start: Int, _ id: Int) {
            if let known = best[end], score <= known.score { return }
            best[end] = (score, start, id)
        }
        var start = 0
        while start < normal.count {
            let score = best[start]!.score
            let next = start + characterSize(normal[start])
            var hasSingle = false
            for end in next...max(next, min(normal.count, start + longest)) {
                guard let id = ids[Array(normal[start..<end])] else { continue }
                offer(end, scores[id] + score, start, id)
                hasSingle = hasSingle || end == next
            }
            if !hasSingle { offer(next, unknownScore + score, start, unknown) }
            start = next
        }
        var path: [(Int, ArraySlice<UInt8>)] = []
        var end = normal.count
        while end > 0 {
            let (_, from, id) = best[end]!
            path.append((id, normal[from..<end]))
            end = from
        }
        return path.reversed()
    }
}
