"""How long the search page takes from a key to the drawn list, in headless Chromium.

Run it with `python benchmarks/web_search.py SITE`, where SITE is a folder that `dmedge app web --out` wrote. Queries go
in turns; the middle and the 90th percentile are printed as JSON.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from dmedge.devices.browser import find_chromium
from dmedge.devices.loopback import LoopbackServer
from dmedge.environment import host_facts
from dmedge.flow.web_app import HEADERS

READY_MS = 120_000
QUERIES = (
    "ramen",
    "red apple",
    "красное яблоко",
    "लाल सेब",
    "ラーメン",
    "تفاحة حمراء",
    "a smiling cat face with heart eyes",
    "umbrella",
    "hello how are you",
)
LOAD = """async () => {
  const { Engine } = await import("./rpc.mjs");
  window.engine = new Engine();
  const { items, threads } = await engine.ask("load");
  return { pictures: items.length, threads };
}"""
SEARCH = "(text) => engine.ask('search', { text, top: 48, scope: 'all' })"
TYPE = """async (text) => {
  await new Promise((done) => setTimeout(done, 300)); // as between keys, for what the query before left to draw
  const [field, status] = ["query", "status"].map((id) => document.getElementById(id));
  const listed = new Promise((done) => {
    const observer = new MutationObserver(() => (observer.disconnect(), done(performance.now())));
    observer.observe(status, { childList: true });
  });
  const begun = performance.now();
  field.value = text;
  field.dispatchEvent(new InputEvent("input"));
  const listMs = (await listed) - begun;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); // the frame that shows it is drawn
  return { listMs, drawnMs: performance.now() - begun };
}"""


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="folder of the page")
    parser.add_argument("--rounds", type=int, default=12, help="of all queries")
    options = parser.parse_args()
    server = LoopbackServer({"/": options.site}, headers=HEADERS)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium())
        page = browser.new_context(service_workers="block").new_page()
        page.goto(server.url)
        page.wait_for_selector("body[data-ready=yes]", timeout=READY_MS)
        typed = [page.evaluate(TYPE, text) for text in turns(options.rounds)]
        facts = page.evaluate(LOAD)
        found = [page.evaluate(SEARCH, text) for text in turns(options.rounds)]
        browser.close()
    server.close()
    samples = {name: [one[name] for one in found] for name in ("encodeMs", "rankMs")}
    samples |= {name: [one[name] for one in typed] for name in ("listMs", "drawnMs")}
    warm = {name: percentiles(all_ms[len(QUERIES) :]) for name, all_ms in samples.items()}  # the first round warms up
    print(json.dumps({"cpu": host_facts()["cpu"], **facts, "n": len(found) - len(QUERIES), **warm}, indent=2))


def turns(rounds: int) -> Iterable[str]:
    """Every query once in each round, after one that warms up."""
    return [text for _ in range(rounds + 1) for text in QUERIES]


def percentiles(samples_ms: Sequence[float]) -> dict[str, float]:
    """The middle and the 90th percentile."""
    return {f"p{share}_ms": round(float(np.percentile(samples_ms, share)), 1) for share in (50, 90)}


if __name__ == "__main__":
    main()
