// SPDX-License-Identifier: Apache-2.0
package dmedge

private const val LONGEST = 50 // times the short side, of a picture that is resized by its short side

/**
 * A picture to the pixels that the image program takes, as preprocessor_config.json describes them.
 *
 * @throws BundleException the description is not one that this code knows
 */
class Preprocess(config: Map<String, Any?>) {
    val size = config["size"].asInt()
    private val background = config["background"].asList().map { it.asInt() }.toIntArray()
    private val fit = config["fit"] as String
    private val filter = Filter.named(config["resample"] as String)
    private val shortestEdge = config["shortest_edge"]

    /** Bytes [size, size, 3]. */
    operator fun invoke(picture: Picture): ByteArray {
        val rgb = picture.flatten(background)
        return when (fit) {
            "squash" -> rgb.resize(size, size, filter).data
            "pad-centre" -> pad(rgb)
            "crop-centre" -> crop(rgb, shortestEdge.asInt())
            else -> throw BundleException("preprocessing has fit $fit; this code does not know it")
        }
    }

    private fun pad(rgb: Rgb): ByteArray {
        val scale = size.toDouble() / maxOf(rgb.width, rgb.height)
        val wide = maxOf(1, Math.rint(rgb.width * scale).toInt()) // half to even
        val high = maxOf(1, Math.rint(rgb.height * scale).toInt())
        val square = ByteArray(size * size * 3) { background[it % 3].toByte() }
        rgb.resize(wide, high, filter).paste(0, 0, square, size, (size - wide) / 2, (size - high) / 2, wide, high)
        return square
    }

    private fun crop(rgb: Rgb, edge: Int): ByteArray {
        val short = minOf(rgb.width, rgb.height)
        val middle = rgb.crop(minOf(rgb.width, LONGEST * short), minOf(rgb.height, LONGEST * short))
        fun scaled(side: Int) = if (side == short) edge else (edge.toLong() * side / short).toInt()
        val resized = middle.resize(scaled(middle.width), scaled(middle.height), filter)
        val square = ByteArray(size * size * 3)
        val across = Overlap(resized.width, size)
        val down = Overlap(resized.height, size)
        resized.paste(across.from, down.from, square, size, across.to, down.to, across.length, down.length)
        return square
    }
}

/** Where the middle of a `side` lies in a `size`, and what of the side that is; an odd pixel goes after a crop. */
private class Overlap(side: Int, size: Int) {
    val from = maxOf(0, side - size) / 2
    val to = (maxOf(0, size - side) + 1) / 2
    val length = minOf(side, size)
}
