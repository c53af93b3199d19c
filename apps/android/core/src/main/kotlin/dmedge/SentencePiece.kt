// SPDX-License-Identifier: Apache-2.0
package dmedge

import java.nio.ByteBuffer
import java.nio.ByteOrder

internal const val NORMAL = 1 // types of a piece
internal const val UNKNOWN = 2
internal const val USER_DEFINED = 4
internal const val BYTE = 6
private const val UNIGRAM = 1 // type of a model

internal class Piece(val text: String, val score: Float, val type: Int)

/** What is needed of a sentencepiece.ModelProto. */
internal class SentencePieceModel(content: ByteArray) {
    val pieces = ArrayList<Piece>()
    var charsmap: ByteArray = ByteArray(0)
    var addsPrefix = true
    var removesExtraSpaces = true

    init {
        forEachField(content) { field, value ->
            when (field) {
                1 -> pieces.add(readPiece(value.bytes))
                2 -> forEachField(value.bytes) { inner, found ->
                    if (inner == 3 && found.number != UNIGRAM.toLong()) {
                        throw BundleException("tokenizer.model: model type ${found.number}; expected 1, unigram")
                    }
                }
                3 -> forEachField(value.bytes) { inner, found ->
                    when (inner) {
                        2 -> charsmap = found.bytes
                        3 -> addsPrefix = found.number != 0L
                        4 -> removesExtraSpaces = found.number != 0L
                    }
                }
            }
        }
    }

    private fun readPiece(content: ByteArray): Piece {
        var text = ""
        var score = 0f
        var type = NORMAL
        forEachField(content) { field, value ->
            when (field) {
                1 -> text = String(value.bytes, Charsets.UTF_8)
                2 -> score = ByteBuffer.wrap(value.bytes).order(ByteOrder.LITTLE_ENDIAN).float
                3 -> type = value.number.toInt()
            }
        }
        return Piece(text, score, type)
    }
}

private class Value(val number: Long, val bytes: ByteArray)

private val NO_BYTES = ByteArray(0)

/** Hands out the fields of a protocol buffer: a number, or the bytes of anything else. */
private fun forEachField(content: ByteArray, take: (Int, Value) -> Unit) {
    var at = 0
    fun varint(): Long {
        var value = 0L
        var shift = 0
        while (true) {
            val byte = content[at++].toLong()
            value = value or ((byte and 127) shl shift)
            if (byte >= 0) return value
            shift += 7
        }
    }
    while (at < content.size) {
        val key = varint().toInt()
        val wire = key and 7
        if (wire == 0) {
            take(key ushr 3, Value(varint(), NO_BYTES))
        } else {
            val size = if (wire == 2) varint().toInt() else if (wire == 5) 4 else 8
            take(key ushr 3, Value(0, content.copyOfRange(at, at + size)))
            at += size
        }
    }
}
