// SPDX-License-Identifier: Apache-2.0
package dmedge

import android.util.Base64
import androidx.test.platform.app.InstrumentationRegistry
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import org.pytorch.executorch.Tensor

/** What torch computed when the bundle was exported, replayed on this device. */
class ConformanceTest {
    private val instrumentation = InstrumentationRegistry.getInstrumentation()
    private val bundle =
        unpack(instrumentation.targetContext.assets, "bundle", "bundle", instrumentation.targetContext.filesDir)
    private val cases = bundle.json("conformance/cases.json").asObject()
    private val vectors = instrumentation.context.assets.open("vectors.json").use {
        parseJson(String(it.readBytes(), Charsets.UTF_8)).asObject()
    }
    private val model = Model(bundle)

    @Test
    fun vectorsAreThoseOfTheBundle() = assertEquals(bundle.digest, vectors["bundle"])

    @Test
    fun everyPictureHasTheGoldenPixels() = cases["images"].asList().forEachIndexed { case, name ->
        val picture = decodePicture(bundle.bytes("conformance/$name"))
        assertArrayEquals("$name", golden("pixels", case).buffer.array(), model.pixels(picture))
    }

    @Test
    fun everyTextHasTheGoldenTokens() = cases["texts"].asList().forEachIndexed { case, text ->
        assertArrayEquals("$text", golden("ids", case).ints(), model.tokenIds(text as String))
    }

    @Test
    fun everyProgramIsWithinItsTolerance() {
        val tolerances = cases["tolerances"].asObject()["executorch"].asObject()
        for (program in bundle.manifest["programs"].asList().map { it.asObject() }) {
            if (program["runtime"] == "executorch") replay(program, tolerances[program["name"]] as Double)
        }
    }

    private fun replay(program: Map<String, Any?>, tolerance: Double) {
        val name = program["name"] as String
        val (inputs, outputs) = listOf("inputs", "outputs").map { side ->
            program[side].asList().map { it.asObject()["name"] as String }
        }
        var case = 0
        while (find("$name/$case/${inputs[0]}") != null) {
            val found = model.run(name, *inputs.map { find("$name/$case/$it")!!.tensor() }.toTypedArray())
            outputs.forEachIndexed { place, output ->
                val want = find("$name/$case/$output")?.floats() // large ones stand there for a few cases only
                val scale = vectors["scales"].asObject()["$name/$output"] as Double?
                if (want != null) assertTrue("$name $case $output", errorOf(want, found[place], scale) <= tolerance)
            }
            case++
        }
        assertTrue("$name has golden cases", case > 0)
    }

    /** The greatest absolute difference over the greatest absolute golden value, or over `scale`. */
    private fun errorOf(want: FloatArray, found: FloatArray, scale: Double?): Double {
        if (want.size != found.size || found.any { !it.isFinite() }) return Double.POSITIVE_INFINITY
        val largest = scale ?: want.maxOf { abs(it) }.toDouble().let { if (it > 0) it else 1.0 }
        return want.indices.maxOf { abs(want[it].toDouble() - found[it]) } / largest
    }

    private fun golden(tensor: String, case: Int): Golden {
        val holders = listOf("encode_image", "encode_text", "classify", "fuse_pair")
        return holders.firstNotNullOf { find("$it/$case/$tensor") }
    }

    private fun find(key: String) = vectors["arrays"].asObject()[key]?.let { Golden(it.asObject()) }

    private class Golden(table: Map<String, Any?>) {
        private val shape = table["shape"].asList().map { it.asInt().toLong() }.toLongArray()
        private val dtype = table["dtype"] as String
        val buffer: ByteBuffer =
            ByteBuffer.wrap(Base64.decode(table["base64"] as String, Base64.DEFAULT)).order(ByteOrder.LITTLE_ENDIAN)

        fun ints() = IntArray(buffer.capacity() / 4) { buffer.getInt(4 * it) }

        fun floats() = FloatArray(buffer.capacity() / 4) { buffer.getFloat(4 * it) }

        fun tensor(): Tensor = when (dtype) {
            "uint8" -> Tensor.fromBlobUnsigned(buffer.array(), shape)
            "int32" -> Tensor.fromBlob(ints(), shape)
            else -> Tensor.fromBlob(floats(), shape)
        }
    }
}
