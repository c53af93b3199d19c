// SPDX-License-Identifier: Apache-2.0
package dmedge

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.sqrt

/** A picture of an index, and how well it fits. */
class Match(val row: Int, val name: String, val char: String?, val score: Float)

/**
 * Pictures that `dmedge index` embedded in int8: a row is its codes times its scale.
 *
 * @param bundleDigest of the bundle that embeds the queries; scores of another encoder mean nothing
 * @throws BundleException another bundle made the index, or its rows are not int8
 */
class Index(artifact: Artifact, bundleDigest: String) {
    private val items = artifact.json("items.json").asList().map { it.asObject() }
    private val codes: ByteArray
    private val scales: FloatArray
    private val dims: IntArray?
    private val isLeading = artifact.summary["selection"] == "leading"
    private val width: Int

    init {
        val made = artifact.manifest["parents"].asObject()["bundle"] as String
        if (made != bundleDigest) throw BundleException("the index was made by bundle ${made.take(12)}; make it by this one")
        if ("scales.npy" !in artifact.names) throw BundleException("the index is float32; expected int8; make it again")
        codes = Npy(artifact.bytes("vectors.npy"), "|i1").bytes()
        scales = Npy(artifact.bytes("scales.npy"), "<f4").floats()
        dims = if ("dims.npy" in artifact.names) Npy(artifact.bytes("dims.npy"), "<i4").ints() else null
        width = codes.size / scales.size
    }

    val size: Int get() = scales.size

    /** The best pictures for an embedding, best first; of equal ones the earlier row. */
    fun best(embedding: FloatArray, count: Int): List<Match> {
        val found = scores(embedding)
        val rows = found.indices.sortedByDescending { found[it] }.take(count)
        return rows.map { Match(it, items[it]["name"] as String, items[it]["char"] as String?, found[it]) }
    }

    /** The score of every picture: its scale times the dot product of its codes with the query. */
    fun scores(embedding: FloatArray): FloatArray {
        val query = select(embedding)
        return FloatArray(size) { row ->
            var sum = 0f
            for (i in 0 until width) sum += codes[row * width + i] * query[i]
            sum * scales[row]
        }
    }

    /** The numbers that are kept of an embedding, of unit length again if they lead, as in training. */
    private fun select(embedding: FloatArray): FloatArray {
        val kept = if (dims == null) embedding else FloatArray(dims.size) { embedding[dims[it]] }
        if (!isLeading) return kept
        val length = sqrt(kept.sumOf { it.toDouble() * it }).toFloat()
        return FloatArray(kept.size) { kept[it] / length }
    }
}

/** An array that numpy saved, row by row. */
private class Npy(content: ByteArray, dtype: String) {
    private val data: ByteBuffer

    init {
        val buffer = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN)
        val start = 10 + buffer.getShort(8) // magic, version, length of the header
        val header = String(content, 10, start - 10, Charsets.US_ASCII)
        if (content[6] != 1.toByte() || "'$dtype'" !in header || "'fortran_order': False" !in header) {
            throw BundleException("an array with header $header; expected $dtype, row by row; make the index again")
        }
        buffer.position(start)
        data = buffer.slice().order(ByteOrder.LITTLE_ENDIAN)
    }

    fun bytes() = ByteArray(data.remaining()).also { data.get(it) }

    fun floats() = FloatArray(data.remaining() / 4).also { data.asFloatBuffer().get(it) }

    fun ints() = IntArray(data.remaining() / 4).also { data.asIntBuffer().get(it) }
}
