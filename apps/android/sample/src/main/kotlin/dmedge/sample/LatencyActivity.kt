// SPDX-License-Identifier: Apache-2.0
package dmedge.sample

import android.app.Activity
import android.os.Build
import android.os.Bundle
import android.widget.TextView
import dmedge.BundleFacts
import dmedge.Model
import dmedge.Picture
import dmedge.unpack
import kotlin.concurrent.thread

private const val WARM_UP = 5
private const val RUNS = 50

/** How long a text and a picture take on this very device, preprocessing included. */
class LatencyActivity : Activity() {
    override fun onCreate(savedState: Bundle?) {
        super.onCreate(savedState)
        val view = TextView(this).apply { fitsSystemWindows = true }
        setContentView(view)
        view.text = getString(R.string.measuring)
        thread {
            val lines = runCatching(::measure).getOrElse { listOf(it.toString()) }
            runOnUiThread { view.text = lines.joinToString("\n") }
        }
    }

    private fun measure(): List<String> = Model(unpack(assets, "bundle", "bundle", filesDir)).use { model ->
        val white = Picture(640, 480, ByteArray(4 * 640 * 480) { -1 })
        val jobs = mapOf(
            "encode_text" to { model.encodeText("red apple") },
            "encode_image" to { model.encodeImage(white) },
        )
        val rows = jobs.filterKeys { it in BundleFacts.PROGRAMS }.map { (name, job) -> timed(name, job) }
        listOf("${Build.MODEL}, ExecuTorch ${BundleFacts.MINIMUM_RUNTIME}, bundle ${BundleFacts.DIGEST.take(12)}") + rows
    }

    private fun timed(name: String, job: () -> FloatArray): String {
        repeat(WARM_UP) { job() }
        val milliseconds = List(RUNS) {
            val start = System.nanoTime()
            job()
            (System.nanoTime() - start) / 1e6
        }.sorted()
        val (middle, slow) = milliseconds[RUNS / 2] to milliseconds[RUNS * 9 / 10]
        return "%s: p50 %.2f ms, p90 %.2f ms of %d".format(name, middle, slow, RUNS)
    }
}
