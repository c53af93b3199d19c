// SPDX-License-Identifier: Apache-2.0
package dmedge

private const val UNKNOWN_PENALTY = 10f // below the least likely piece
private const val NONE = -1

/**
 * Text to token ids, exactly as SentencePiece makes them: a unigram vocabulary with byte fallback.
 *
 * Not for several threads at once.
 *
 * Source: sentencepiece, src/unigram_model.cc (EncodeOptimized).
 *
 * @param content of tokenizer.model
 * @param contextLength most tokens of a text
 */
class Tokenizer(content: ByteArray, private val contextLength: Int) {
    private val model = SentencePieceModel(content)
    private val normalize = Normalizer(model)
    private val ids = HashMap<String, Int>() // of normal pieces
    private val byteIds = IntArray(256)
    private val unknown = model.pieces.indexOfFirst { it.type == UNKNOWN }
    private val longest: Int // piece, in UTF-16 units
    private val unknownScore: Float

    init {
        model.pieces.forEachIndexed { id, piece ->
            when (piece.type) {
                NORMAL -> ids[piece.text] = id
                BYTE -> byteIds[piece.text.substring(3, 5).toInt(16)] = id // "<0xE2>"
                USER_DEFINED -> throw BundleException("tokenizer.model: user-defined piece ${piece.text}; expected none")
            }
        }
        longest = ids.keys.maxOf { it.length }
        unknownScore = ids.values.minOf { model.pieces[it].score } - UNKNOWN_PENALTY
    }

    /** Token ids; text that holds nothing becomes the unknown token. */
    fun encode(text: String): IntArray {
        val normal = normalize(wellFormed(text))
        val found = ArrayList<Int>()
        for ((id, surface) in bestPath(normal)) {
            if (id != unknown) found.add(id)
            else surface.toByteArray(Charsets.UTF_8).forEach { found.add(byteIds[it.toInt() and 255]) }
        }
        return if (found.isEmpty()) intArrayOf(unknown) else found.take(contextLength).toIntArray()
    }

    /** The most likely split into pieces (Viterbi, sums in float32), as pairs of an id and what it covers. */
    private fun bestPath(normal: String): List<Pair<Int, String>> {
        val scores = FloatArray(normal.length + 1) // of what ends here
        val starts = IntArray(normal.length + 1) { NONE }
        val pieces = IntArray(normal.length + 1)
        fun offer(end: Int, score: Float, start: Int, id: Int) {
            if (starts[end] != NONE && score <= scores[end]) return
            scores[end] = score
            starts[end] = start
            pieces[end] = id
        }
        var start = 0
        while (start < normal.length) {
            val next = start + Character.charCount(normal.codePointAt(start))
            var hasSingle = false
            for (end in next..minOf(normal.length, start + longest)) {
                val id = ids[normal.substring(start, end)] ?: continue
                offer(end, model.pieces[id].score + scores[start], start, id)
                hasSingle = hasSingle || end == next
            }
            if (!hasSingle) offer(next, unknownScore + scores[start], start, unknown)
            start = next
        }
        val path = ArrayList<Pair<Int, String>>()
        var end = normal.length
        while (end > 0) {
            path.add(pieces[end] to normal.substring(starts[end], end))
            end = starts[end]
        }
        return path.asReversed()
    }
}

/** Half a pair of surrogates has no UTF-8. */
private fun wellFormed(text: String): String {
    val found = StringBuilder(text.length)
    var at = 0
    while (at < text.length) {
        val code = text.codePointAt(at)
        if (code in 0xD800..0xDFFF) found.append('?') else found.appendCodePoint(code)
        at += Character.charCount(code)
    }
    return found.toString()
}
