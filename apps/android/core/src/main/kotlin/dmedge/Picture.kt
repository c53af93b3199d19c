// SPDX-License-Identifier: Apache-2.0
package dmedge

/**
 * A decoded picture: rows of four bytes a pixel, red, green, blue and alpha, which is not multiplied in.
 */
class Picture(val width: Int, val height: Int, val rgba: ByteArray) {
    /** Upright, by the orientation 1 to 8 of EXIF. */
    fun upright(orientation: Int): Picture {
        if (orientation !in 2..8) return this
        val isTurned = orientation >= 5
        val (wide, high) = if (isTurned) height to width else width to height
        val found = ByteArray(rgba.size)
        for (y in 0 until high) {
            for (x in 0 until wide) {
                val (fromX, fromY) = source(orientation, x, y)
                rgba.copyInto(found, 4 * (y * wide + x), 4 * (fromY * width + fromX), 4 * (fromY * width + fromX) + 4)
            }
        }
        return Picture(wide, high, found)
    }

    private fun source(orientation: Int, x: Int, y: Int): Pair<Int, Int> = when (orientation) {
        2 -> width - 1 - x to y
        3 -> width - 1 - x to height - 1 - y
        4 -> x to height - 1 - y
        5 -> y to x
        6 -> y to height - 1 - x
        7 -> width - 1 - y to height - 1 - x
        else -> width - 1 - y to x
    }

    /** On a plain background. */
    internal fun flatten(background: IntArray): Rgb {
        val found = ByteArray(width * height * 3)
        for (pixel in 0 until width * height) {
            val alpha = rgba[4 * pixel + 3].toInt() and 255
            for (channel in 0 until 3) {
                val value = rgba[4 * pixel + channel].toInt() and 255
                val rounded = 128 * (value * alpha + background[channel] * (255 - alpha)) + 0x4000
                found[3 * pixel + channel] = ((rounded shr 8) + rounded shr 8 shr 7).toByte() // a division by 255
            }
        }
        return Rgb(width, height, found)
    }
}

/** Three bytes a pixel. */
internal class Rgb(val width: Int, val height: Int, val data: ByteArray) {
    /** The rectangle from (left, top), written into `square` of `size` pixels a side at (x, y). */
    fun paste(left: Int, top: Int, square: ByteArray, size: Int, x: Int, y: Int, wide: Int, high: Int) {
        for (row in 0 until high) {
            val from = 3 * ((top + row) * width + left)
            data.copyInto(square, 3 * ((y + row) * size + x), from, from + 3 * wide)
        }
    }

    /** The middle. */
    fun crop(wide: Int, high: Int): Rgb {
        if (wide == width && high == height) return this
        val found = ByteArray(wide * high * 3)
        paste((width - wide) / 2, (height - high) / 2, found, wide, 0, 0, wide, high)
        return Rgb(wide, high, found)
    }
}
