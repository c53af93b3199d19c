// SPDX-License-Identifier: Apache-2.0
/** What is running, what it weighs, how quick it is here, and whether it computes what it should. */

/** The panel of details. `facts` is what a machine reads of it. */
export class Details {
  #measured = null;
  #conformance = null;
  #queries = []; // ms of what the user typed

  constructor(dialog, engine, loaded) {
    Object.assign(this, { dialog, engine, loaded });
    this.#part("#measure").onclick = () => this.measure();
    this.#part("#conform").onclick = () => this.conform();
    this.#part("#copy").onclick = (event) => copyText(JSON.stringify(this.facts(), null, 2), event.target);
  }

  open() {
    this.#show();
    this.dialog.showModal();
    if (!this.#measured) this.measure();
  }

  /** A query took this long, from the key to the ranked list. */
  noteQuery(ms) {
    this.#queries = [...this.#queries.slice(-199), ms];
  }

  async measure() {
    const button = this.#part("#measure");
    button.disabled = true;
    button.textContent = "Measuring…";
    this.#measured = await this.engine.ask("measure");
    button.disabled = false;
    button.textContent = "Measure again";
    this.#show();
  }

  async conform() {
    const [button, status] = [this.#part("#conform"), this.#part("#conform-status")];
    button.disabled = true;
    status.className = "quiet";
    try {
      this.#conformance = await this.engine.ask("conform", null, ({ done, total }) => {
        status.textContent = `${done} of ${total} cases…`;
      });
      const { conforms, failures } = this.#conformance;
      status.className = conforms ? "good" : "bad";
      status.textContent = conforms ? "This device computes what was exported." : `Differs: ${failures[0]}`;
    } catch (error) {
      status.className = "bad";
      status.textContent = error.message;
    }
    button.disabled = false;
    this.#showConformance();
  }

  /** Everything as plain JSON. */
  facts() {
    const { site, manifests, loadMs, checkMs, checkedFiles, checkedBytes } = this.loaded;
    const { threads, isIsolated, runtime, provider, why } = this.loaded;
    const { bundle, index } = manifests;
    return {
      bundle: {
        digest: site.bundle.digest,
        target: bundle.target,
        precision: bundle.summary.precision,
        parameters: bundle.summary.parameters,
        program_bytes: site.bundle.program_bytes,
        total_bytes: site.bundle.total_bytes,
        verdict: site.bundle.verdict,
      },
      index: {
        digest: site.index.digest,
        pictures: index.summary.pictures,
        dtype: index.summary.dtype,
        dims: index.summary.dims,
        total_bytes: site.index.total_bytes,
        kept_of_exact: index.summary.kept_of_exact,
      },
      site: {
        version: site.version,
        total_bytes: site.total_bytes,
        checked_files: checkedFiles,
        checked_bytes: checkedBytes,
      },
      device: {
        user_agent: navigator.userAgent,
        hardware_threads: navigator.hardwareConcurrency ?? null,
        memory_gb: navigator.deviceMemory ?? null,
        cross_origin_isolated: isIsolated,
        runtime,
        provider,
        provider_reason: why,
        threads,
      },
      measured_here: {
        when: new Date().toISOString(),
        check_files_ms: Math.round(checkMs),
        load_ms: Math.round(loadMs),
        ...this.#measured,
        typed_queries: this.#typed(),
      },
      conformance: this.#conformance,
    };
  }

  #typed() {
    const sorted = [...this.#queries].sort((a, b) => a - b);
    if (!sorted.length) return { n: 0, p50_ms: null };
    return { n: sorted.length, p50_ms: Number(sorted[Math.floor(sorted.length / 2)].toFixed(2)) };
  }

  #show() {
    const { bundle, index, site, device, measured_here: measured } = this.facts();
    const kept = index.kept_of_exact.text;
    const count = (number) => number.toLocaleString("en");
    const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
    const alone = device.cross_origin_isolated ? "" : "; page is not isolated, so 1";
    fill(this.#part("#facts-model"), {
      Bundle: [bundle.digest.slice(0, 16), bundle.digest],
      Verdict: [bundle.verdict, "", bundle.verdict === "pass" ? "good" : bundle.verdict === "fail" ? "bad" : ""],
      Precision: [`${bundle.precision}, ${count(bundle.parameters)} parameters`],
      Index: [index.digest.slice(0, 16), index.digest],
      Pictures: [`${count(index.pictures)}, ${count(index.dims)} numbers each in ${index.dtype}`],
      "Of the exact search": [`recall@1 ${kept.recall_at_1}, recall@10 ${kept.recall_at_10} (${kept.n} texts)`],
    });
    fill(this.#part("#facts-files"), {
      Programs: [megabytes(bundle.program_bytes)],
      Bundle: [megabytes(bundle.total_bytes)],
      Index: [megabytes(index.total_bytes)],
      "Whole site": [megabytes(site.total_bytes)],
      Checked: [`${site.checked_files} files by sha256, ${megabytes(site.checked_bytes)}`],
    });
    fill(this.#part("#facts-device"), {
      Query: [latency(measured.text)],
      "Picture program": [latency(measured.picture)],
      "What you typed": [measured.typed_queries.n ? latency(measured.typed_queries) : "nothing yet"],
      Loading: [`${seconds(measured.load_ms)}, of it ${seconds(measured.check_files_ms)} for fetching and checking`],
      Runtime: [`${device.runtime}: ${device.provider_reason}`],
      Threads: [`${device.threads} of ${device.hardware_threads ?? "?"}${alone}`],
    });
  }

  #showConformance() {
    const table = this.#part("#conform-table");
    if (!this.#conformance) return;
    table.hidden = false;
    table.tBodies[0].replaceChildren(
      ...this.#conformance.rows.map(({ name, n, error, tolerance }) => {
        const row = document.createElement("tr");
        for (const text of [name, String(n), Number.isFinite(error) ? short(error) : "differs", short(tolerance)]) {
          row.append(Object.assign(document.createElement("td"), { textContent: text }));
        }
        row.className = error <= tolerance ? "" : "bad";
        return row;
      }),
    );
  }

  #part(selector) {
    return this.dialog.querySelector(selector);
  }
}

/** Put text on the clipboard, and say so on the button. */
export async function copyText(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "This browser does not let the page copy";
  }
  setTimeout(() => (button.textContent = before), 1600);
}

/** @param {Record<string, [string, string?, string?]>} rows name -> text, title, class */
function fill(list, rows) {
  list.replaceChildren(
    ...Object.entries(rows).flatMap(([name, [text, title = "", style = ""]]) => [
      Object.assign(document.createElement("dt"), { textContent: name }),
      Object.assign(document.createElement("dd"), { textContent: text, title, className: style }),
    ]),
  );
}

function latency(found) {
  if (!found || found.p50_ms === null) return "measuring…";
  const tail = found.p90_ms ? `, p90 ${found.p90_ms} ms` : "";
  return `p50 ${found.p50_ms} ms${tail} (n ${found.n})`;
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function short(number) {
  return number === 0 ? "0" : number < 0.001 ? number.toExponential(1) : number.toPrecision(2);
}
