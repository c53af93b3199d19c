// SPDX-License-Identifier: Apache-2.0
package dmedge

import java.nio.ByteBuffer
import java.nio.ByteOrder

internal const val SPACE = '\u2581' // how a space is written in pieces

/**
 * Rewrites text by the rules of the vocabulary, and its spaces as U+2581.
 *
 * Source: sentencepiece, src/normalizer.cc.
 */
internal class Normalizer(private val model: SentencePieceModel) {
    private val rules = if (model.charsmap.isEmpty()) null else Rules(model.charsmap)

    operator fun invoke(text: String): String {
        val input = text.toByteArray(Charsets.UTF_8)
        var at = 0
        if (model.removesExtraSpaces) {
            while (at < input.size) {
                val (size, result) = prefix(input, at)
                if (result != " ") break
                at += size
            }
        }
        if (at == input.size) return ""
        val normal = StringBuilder(if (model.addsPrefix) SPACE.toString() else "")
        var isAfterSpace = model.removesExtraSpaces
        while (at < input.size) {
            val (size, rewritten) = prefix(input, at)
            val result = if (isAfterSpace) rewritten.trimStart(' ') else rewritten
            if (result.isNotEmpty()) {
                normal.append(result.replace(' ', SPACE))
                isAfterSpace = model.removesExtraSpaces && result.endsWith(' ')
            }
            at += size
        }
        return if (model.removesExtraSpaces) normal.toString().trimEnd(SPACE) else normal.toString()
    }

    /** The next rule that applies, or else the next character: how many bytes it covers, and what becomes of them. */
    private fun prefix(input: ByteArray, at: Int): Pair<Int, String> {
        rules?.longest(input, at)?.let { return it }
        val first = input[at].toInt() and 255
        val size = if (first < 0x80) 1 else if (first < 0xE0) 2 else if (first < 0xF0) 3 else 4
        return size to String(input, at, size, Charsets.UTF_8)
    }
}

/** A double-array trie (darts-clone) of the rules, followed by the results, each ending in a zero. */
private class Rules(charsmap: ByteArray) {
    private val units: IntArray
    private val results: ByteArray
    private val decoded = HashMap<Int, String>() // results that were met

    init {
        val buffer = ByteBuffer.wrap(charsmap).order(ByteOrder.LITTLE_ENDIAN)
        val size = buffer.int
        units = IntArray(size / 4) { buffer.int }
        results = charsmap.copyOfRange(4 + size, charsmap.size)
    }

    fun longest(input: ByteArray, start: Int): Pair<Int, String>? {
        var found: Pair<Int, Int>? = null
        var place = below(0)
        for (at in start until input.size) {
            val byte = input[at].toInt() and 255
            place = place xor byte
            if (units[place] and 0x800000FF.toInt() != byte) break // no such branch
            val isEnd = units[place] ushr 8 and 1 == 1
            place = below(place)
            if (isEnd) found = at + 1 - start to (units[place] and 0x7FFFFFFF)
        }
        val (size, from) = found ?: return null
        return size to decoded.getOrPut(from) {
            var end = from
            while (results[end] != 0.toByte()) end++
            String(results, from, end - from, Charsets.UTF_8)
        }
    }

    private fun below(place: Int): Int = place xor (units[place] ushr 10 shl (units[place] and 0x200 ushr 6))
}
