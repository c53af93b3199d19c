// SPDX-License-Identifier: Apache-2.0

private let space = UInt8(32)
let pieceSpace = Array("\u{2581}".utf8)  // how a space is written in pieces

/// Rewrites text by the rules of the vocabulary, and its spaces as U+2581; all of it UTF-8.
///
/// Source: sentencepiece, src/normalizer.cc.
struct Normalizer {
    private let rules: Rules?
    private let addsPrefix: Bool
    private let removesExtraSpaces: Bool

    init(_ model: SentencePieceModel) {
        rules = model.charsmap.isEmpty ? nil : Rules(model.charsmap)
        (addsPrefix, removesExtraSpaces) = (model.addsPrefix, model.removesExtraSpaces)
    }

    func callAsFunction(_ text: String) -> [UInt8] {
        let input = Array(text.utf8)
        var at = 0
        if removesExtraSpaces {
            while at < input.count {
                let (size, result) = prefix(input, at)
                if result != [space] { break }
                at += size
            }
        }
        if at == input.count { return [] }
        var normal = addsPrefix ? pieceSpace : []
        var isAfterSpace = removesExtraSpaces
        while at < input.count {
            let (size, rewritten) = prefix(input, at)
            let result = isAfterSpace ? rewritten.drop { $0 == space } : rewritten[...]
            for byte in result { normal += byte == space ? pieceSpace : [byte] }
            if let last = result.last { isAfterSpace = removesExtraSpaces && last == space }
            at += size
        }
        while removesExtraSpaces && normal.suffix(pieceSpace.count).elementsEqual(pieceSpace) {
            normal.removeLast(pieceSpace.count)
        }
        return normal
    }

    /// The next rule that applies, or else the next character: how many bytes it covers, and what becomes of them.
    private func prefix(_ input: [UInt8], _ at: Int) -> (Int, [UInt8]) {
        if let found = rules?.longest(input, at) { return found }
        let size = characterSize(input[at])
        return (size, Array(input[at..<at + size]))
    }
}

/// Bytes of a character of UTF-8, by its first.
func characterSize(_ first: UInt8) -> Int {
    first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4
}

/// A double-array trie (darts-clone) of the rules, followed by the results, each ending in a zero.
private struct Rules {
    private let units: [UInt32]
    private let results: ArraySlice<UInt8>

    init(_ charsmap: [UInt8]) {
        let size = Int(littleEndian(charsmap, at: 0))
        units = (0..<size / 4).map { littleEndian(charsmap, at: 4 + 4 * $0) }
        results = charsmap[(4 + size)...]
    }

    func longest(_ input: [UInt8], _ start: Int) -> (Int, [UInt8])? {
        var found: (size: Int, result: Int)?
        var place = below(0)
        for at in start..<input.count {
            place ^= Int(input[at])
            let unit = units[place]
            if unit & 0x8000_00FF != UInt32(input[at]) { break }  // no such branch
            place = below(place)
            if unit >> 8 & 1 == 1 { found = (at + 1 - start, Int(units[place] & 0x7FFF_FFFF)) }
        }
        guard let (size, from) = found else { return nil }
        return (size, Array(results[(results.startIndex + from)...].prefix { $0 != 0 }))
    }

    private func below(_ place: Int) -> Int {
        place ^ Int((units[place] >> 10) << ((units[place] & 0x200) >> 6))
    }
}
