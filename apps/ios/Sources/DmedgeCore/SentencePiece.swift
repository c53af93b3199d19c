// SPDX-License-Identifier: Apache-2.0
import Foundation

enum PieceType {
    static let normal = 1, unknown = 2, userDefined = 4, byte = 6
}

struct Piece {
    var text: [UInt8] = []  // UTF-8: a String would take different spellings of a letter for the same
    var score: Float = 0
    var type = PieceType.normal
}

/// What is needed of a sentencepiece.ModelProto.
struct SentencePieceModel {
    var pieces: [Piece] = []
    var charsmap: [UInt8] = []
    var addsPrefix = true
    var removesExtraSpaces = true

    init(_ content: Data) throws {
        for (field, value) in fields([UInt8](content)) {
            switch field {
            case 1: pieces.append(SentencePieceModel.piece(value.bytes))
            case 2:
                for (inner, found) in fields(value.bytes) where inner == 3 && found.number != 1 {
                    throw BundleError("tokenizer.model: model type \(found.number); expected 1, unigram")
                }
            case 3: readNormalizer(value.bytes)
            default: break
            }
        }
    }

    private mutating func readNormalizer(_ content: [UInt8]) {
        for (field, value) in fields(content) {
            switch field {
            case 2: charsmap = value.bytes
            case 3: addsPrefix = value.number != 0
            case 4: removesExtraSpaces = value.number != 0
            default: break
            }
        }
    }

    private static func piece(_ content: [UInt8]) -> Piece {
        var found = Piece()
        for (field, value) in fields(content) {
            switch field {
            case 1: found.text = value.bytes
            case 2: found.score = Float(bitPattern: littleEndian(value.bytes, at: 0))
            case 3: found.type = value.number
            default: break
            }
        }
        return found
    }
}

func littleEndian(_ bytes: [UInt8], at place: Int) -> UInt32 {
    (0..<4).reduce(0) { $0 | UInt32(bytes[place + $1]) << (8 * UInt32($1)) }
}

/// Fields of a protocol buffer: a number, or the bytes of anything else.
private func fields(_ content: [UInt8]) -> [(Int, (number: Int, bytes: [UInt8]))] {
    var found: [(Int, (number: Int, bytes: [UInt8]))] = []
    var at = 0
    func varint() -> Int {
        var (value, shift) = (0, 0)
        while true {
            let byte = content[at]
            at += 1
            value |= Int(byte & 127) << shift
            if byte < 128 { return value }
            shift += 7
        }
    }
    while at < content.count {
        let key = varint()
        if key & 7 == 0 {
            found.append((key >> 3, (varint(), [])))
        } else {
            let size = key & 7 == 2 ? varint() : key & 7 == 5 ? 4 : 8
            found.append((key >> 3, (0, Array(content[at..<at + size]))))
            at += size
        }
    }
    return found
}
