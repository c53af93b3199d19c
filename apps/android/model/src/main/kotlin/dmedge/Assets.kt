// SPDX-License-Identifier: Apache-2.0
package dmedge

import android.content.res.AssetManager
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.media.ExifInterface
import java.io.ByteArrayInputStream
import java.io.File
import java.nio.ByteBuffer

/**
 * A bundle or an index of the assets as files, which programs are loaded from; every file is checked.
 *
 * @param folder in the assets, and below `parent`
 * @param kind "bundle" or "index"
 */
fun unpack(assets: AssetManager, folder: String, kind: String, parent: File): Artifact {
    val target = File(parent, folder)
    val manifest = assets.open("$folder/manifest.json").use { it.readBytes() }
    val known = File(target, "manifest.json")
    if (!known.isFile || !known.readBytes().contentEquals(manifest)) {
        target.deleteRecursively()
        for (name in parseJson(String(manifest, Charsets.UTF_8)).asObject()["files"].asObject().keys) {
            val place = File(target, name)
            place.parentFile?.mkdirs()
            assets.open("$folder/$name").use { from -> place.outputStream().use { from.copyTo(it) } }
        }
        known.writeBytes(manifest) // last: without it the folder counts for nothing
    }
    return Artifact(target, kind).also { it.checkAll() }
}

/**
 * A file as it is stored: upright, its colours as they are, alpha not multiplied in. Takes 8 bytes for each pixel.
 *
 * @throws BundleException Android does not decode it
 */
fun decodePicture(content: ByteArray): Picture {
    val options = BitmapFactory.Options()
    options.inPremultiplied = false
    options.inScaled = false
    options.inPreferredConfig = Bitmap.Config.ARGB_8888
    val bitmap = BitmapFactory.decodeByteArray(content, 0, content.size, options)
        ?: throw BundleException("no picture that Android decodes; choose another")
    val rgba = ByteBuffer.allocate(4 * bitmap.width * bitmap.height)
    bitmap.copyPixelsToBuffer(rgba) // in the order of the bytes, whatever the colour space
    val exif = ExifInterface(ByteArrayInputStream(content))
    val orientation = exif.getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
    return Picture(bitmap.width, bitmap.height, rgba.array()).upright(orientation).also { bitmap.recycle() }
}
