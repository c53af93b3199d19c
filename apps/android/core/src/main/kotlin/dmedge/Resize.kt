// SPDX-License-Identifier: Apache-2.0
package dmedge

import kotlin.math.abs
import kotlin.math.sin

private const val PRECISION = 22 // bits behind the point of a weight: 32, less 8 of a pixel and 2 to spare

/**
 * How pixels are weighed; the support grows with the factor by which a picture shrinks, which is antialiasing.
 *
 * Source: Pillow, src/libImaging/Resample.c.
 */
internal class Filter(val support: Double, val weight: (Double) -> Double) {
    companion object {
        /** Takes one pixel, and weighs none. */
        val NEAREST = Filter(0.0) { 1.0 }

        fun named(name: String): Filter = when (name) {
            "bilinear-antialiased" -> Filter(1.0) { maxOf(0.0, 1 - abs(it)) }
            "bicubic-antialiased" -> Filter(2.0, ::bicubic)
            "lanczos-antialiased" -> Filter(3.0) { if (it >= -3 && it < 3) sinc(it) * sinc(it / 3) else 0.0 }
            "nearest" -> NEAREST
            else -> throw BundleException("preprocessing has resample $name; this code does not know it")
        }
    }
}

private fun bicubic(x: Double): Double {
    val a = -0.5
    val t = abs(x)
    return if (t < 1) ((a + 2) * t - (a + 3)) * t * t + 1 else if (t < 2) (((t - 5) * t + 8) * t - 4) * a else 0.0
}

private fun sinc(x: Double): Double = if (x == 0.0) 1.0 else sin(x * Math.PI) / (x * Math.PI)

/** To the last bit as Pillow 13 resizes. */
internal fun Rgb.resize(wide: Int, high: Int, filter: Filter): Rgb {
    if (filter === Filter.NEAREST) return nearest(wide, high)
    fun across(from: Rgb) = if (wide == from.width) from else from.resample(wide, from.height, filter)
    fun down(from: Rgb) = if (high == from.height) from else from.resample(from.width, high, filter)
    // The order decides how the first pass rounds.
    val isDownFirst = height > high && height - high > 2 * (width - wide)
    return if (isDownFirst) across(down(this)) else down(across(this))
}

/** Rows to `wide`, or else columns to `high`, with weights in fixed point. */
private fun Rgb.resample(wide: Int, high: Int, filter: Filter): Rgb {
    val isAcross = wide != width
    val (length, wanted, lines) = if (isAcross) Triple(width, wide, high) else Triple(height, high, wide)
    val (next, line) = if (isAcross) 3 to 3 * width else 3 * width to 3 // bytes to the next of a line, to the next line
    val (nextTo, lineTo) = if (isAcross) 3 to 3 * wide else 3 * wide to 3
    val found = ByteArray(wide * high * 3)
    for (place in 0 until wanted) {
        val (first, weights) = weightsOf(place, length, wanted, filter)
        for (row in 0 until lines) {
            for (channel in 0 until 3) {
                var sum = 1 shl PRECISION - 1
                var at = row * line + first * next + channel
                for (weight in weights) {
                    sum += (data[at].toInt() and 255) * weight
                    at += next
                }
                found[row * lineTo + place * nextTo + channel] = (sum shr PRECISION).coerceIn(0, 255).toByte()
            }
        }
    }
    return Rgb(wide, high, found)
}

/** Of one output pixel: the first input pixel it reads, and the weights of that and the following ones. */
private fun weightsOf(place: Int, length: Int, wanted: Int, filter: Filter): Pair<Int, IntArray> {
    val scale = length.toDouble() / wanted
    val blur = maxOf(1.0, scale)
    val support = filter.support * blur
    val centre = (place + 0.5) * scale
    val first = maxOf(0, (centre - support + 0.5).toInt())
    val end = minOf(length, (centre + support + 0.5).toInt())
    val weights = DoubleArray(end - first) { filter.weight((it + first - centre + 0.5) * (1 / blur)) }
    val total = weights.sum().let { if (it == 0.0) 1.0 else it }
    val fixed = IntArray(weights.size) {
        (weights[it] / total * (1 shl PRECISION) + if (weights[it] < 0) -0.5 else 0.5).toInt()
    }
    return first to fixed
}

private fun Rgb.nearest(wide: Int, high: Int): Rgb {
    val found = ByteArray(wide * high * 3)
    val columns = places(width, wide)
    places(height, high).forEachIndexed { y, row ->
        columns.forEachIndexed { x, column ->
            val from = 3 * (row * width + column)
            data.copyInto(found, 3 * (y * wide + x), from, from + 3)
        }
    }
    return Rgb(wide, high, found)
}

private fun places(length: Int, wanted: Int): IntArray {
    val step = length.toDouble() / wanted
    var at = step * 0.5
    return IntArray(wanted) { minOf(length - 1, at.toInt()).also { at += step } }
}
