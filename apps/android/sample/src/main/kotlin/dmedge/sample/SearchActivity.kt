// SPDX-License-Identifier: Apache-2.0
package dmedge.sample

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.text.Editable
import android.text.TextWatcher
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.EditText
import android.widget.LinearLayout
import android.widget.ListView
import dmedge.Index
import dmedge.Model
import dmedge.unpack
import java.util.concurrent.Executors

private const val TOP = 20

/** Finds the pictures of assets/index for a text, as it is typed. */
class SearchActivity : Activity() {
    private val worker = Executors.newSingleThreadExecutor() // a model is for one thread
    private lateinit var model: Model
    private lateinit var index: Index
    private lateinit var rows: ArrayAdapter<String>

    override fun onCreate(savedState: Bundle?) {
        super.onCreate(savedState)
        rows = ArrayAdapter(this, android.R.layout.simple_list_item_1)
        val query = EditText(this).apply { hint = getString(R.string.query) }
        val latency = Button(this).apply { text = getString(R.string.latency) }
        latency.setOnClickListener { startActivity(Intent(this, LatencyActivity::class.java)) }
        val page = LinearLayout(this).apply { orientation = LinearLayout.VERTICAL }
        listOf(query, latency, ListView(this).apply { adapter = rows }).forEach(page::addView)
        page.fitsSystemWindows = true
        setContentView(page)
        work {
            val bundle = unpack(assets, "bundle", "bundle", filesDir)
            model = Model(bundle)
            index = Index(unpack(assets, "index", "index", filesDir), bundle.digest)
            listOf(getString(R.string.ready, index.size))
        }
        query.addTextChangedListener(object : TextWatcher {
            override fun beforeTextChanged(text: CharSequence, start: Int, count: Int, after: Int) = Unit
            override fun onTextChanged(text: CharSequence, start: Int, before: Int, count: Int) = Unit
            override fun afterTextChanged(text: Editable) = search(text.toString())
        })
    }

    private fun search(text: String) = work {
        index.best(model.encodeText(text), TOP).map { "%.3f  %s %s".format(it.score, it.char ?: "", it.name) }
    }

    /** Show the lines that `job` makes, or why it made none. */
    private fun work(job: () -> List<String>) = worker.execute {
        val lines = runCatching(job).getOrElse { listOf(it.toString()) }
        runOnUiThread {
            rows.clear()
            rows.addAll(lines)
        }
    }

    override fun onDestroy() {
        super.onDestroy()
        worker.execute { if (::model.isInitialized) model.close() }
        worker.shutdown()
    }
}
