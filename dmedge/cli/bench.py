"""dmedge bench: bundles in turns with their full-precision twins."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmedge.artifact import Artifact
from dmedge.cli.budget import budget_option, read_budget, recipe_option
from dmedge.cli.common import DATA_HELP, ArtifactParam, default_artifact, json_option, out_option
from dmedge.cli.tables import text_table
from dmedge.cli.verify import (
    baseline_option,
    budget_table,
    fail_on_any,
    junit_option,
    print_proofs,
    print_proofs_json,
    runner_option,
    runtime_option,
)

if TYPE_CHECKING:
    from dmedge.flow.prove_each import Proof


@click.command()
@click.argument("bundles", type=ArtifactParam("bundle"), nargs=-1)
@baseline_option
@click.option("--device", default="local", show_default=True, help="Where to run, as dmedge devices lists it.")
@runner_option
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one run.")
@click.option(
    "--more-threads",
    type=click.IntRange(1),
    multiple=True,
    help="Time programs with so many threads as well; may be given several times.",
)
@runtime_option
@click.option(
    "--rounds", type=click.IntRange(2), default=20, show_default=True, help="Turns A B B A per program and repeat."
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Each in new processes.")
@click.option(
    "--cool",
    "cool_c",
    type=float,
    metavar="CELSIUS",
    help="A repeat waits until the device is no warmer [default: 3 above its start].",
)
@click.option(
    "--cooldown",
    "cooldown_s",
    type=click.FloatRange(0, 3600),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="It waits so long at most; 0 for not at all.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, 240, min_open=True),
    help="Then run the slowest program so long without pause.",
)
@click.option("--roofline", is_flag=True, help="Measure what the runtime can reach, and how near programs come.")
@click.option("--profile", is_flag=True, help="Name the ten slowest operators of each program as well.")
@click.option("--data", default="emoji", show_default=True, help=DATA_HELP)
@recipe_option
@budget_option
@junit_option
@out_option
@json_option
def bench(
    bundles: tuple[Artifact, ...],
    baseline: Artifact | None,
    recipe: str | None,
    limits: tuple[str, ...],
    runner: Path | None,
    junit: Path | None,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Time BUNDLES, each in turns with the fp32 bundle for the same target.

    The newest under runs/ is timed unless some are named. An fp32 bundle is exported once and kept. The evidence of
    each is written beside it, or into --out; several end in one table.
    """
    from dmedge.config import load_config
    from dmedge.flow.junit import write_junit
    from dmedge.flow.prove_each import BenchConfig, bench_each, places_of

    chosen = bundles or (default_artifact("bundle"),)
    settings["runner"] = None if runner is None else str(runner)
    config, places = load_config(BenchConfig, settings, where="bench"), places_of(chosen, out, "bench")
    budgets = [read_budget(recipe, limits, bundle) for bundle in chosen]
    proofs = bench_each(chosen, config, places, baseline=baseline, budgets=budgets)
    if junit is not None:
        write_junit(junit, [(proof.bundle.name, proof.report) for proof in proofs], stage="bench")
    print_proofs_json(proofs) if as_json else print_proofs(proofs, _print_report, _table)
    fail_on_any(proofs)


def _table(proofs: "Sequence[Proof]") -> str:
    """One row for every bundle: its programs in milliseconds, and the share of the time of its twin."""
    names = list(dict.fromkeys(name for proof in proofs for name in proof.report["programs"]))

    def cell(row: Mapping[str, Any] | None) -> str:
        return "" if row is None else f"{_ms(row['artifact'].get('p50_ms'))} x{row['ratio']['value']:.2f}"

    rows = [[proof.bundle.name, *(cell(proof.report["programs"].get(name)) for name in names)] for proof in proofs]
    return text_table(["p50 ms, of fp32", *names], rows)


def _print_report(report: dict[str, Any], evidence: Artifact) -> None:
    from dmedge.evidence.cooling import cooling_words

    host, runtime = report["host"]["before"], report["runtime"]
    threads = f"{runtime['threads']} thread{'s' if runtime['threads'] > 1 else ''}"
    click.echo(f"{report['label'].upper()}: {host['cpu']}, {threads}, {runtime['runtime']} {runtime['version']}")
    _print_programs("program", report["programs"])
    for count, programs in report["more_threads"].items():
        _print_programs(f"{count} threads", programs)
    if report["cooling"]:
        click.echo(cooling_words(report["cooling"]))
    for side, start in report["start"].items():
        rss = f"{start['peak_rss_bytes'] / 1e6:.0f} MB at most, {start['base_rss_bytes'] / 1e6:.0f} MB before loading"
        first = ", ".join(f"first {program} {ms:.2f} ms" for program, ms in start["first_ms"].items())
        click.echo(f"{side}: load {start['load_ms']:.1f} ms, {first}, memory {rss}")
    if report["sustained"]:
        _print_sustained(report["sustained"])
    if report["roofline"]:
        _print_roofline(report["roofline"])
    if report["profile"]:
        _print_profile(report["profile"])
    _print_accuracy(report["accuracy"])
    if report["budgets"]:
        click.echo(budget_table(report["budgets"]))
    click.echo(evidence.root)


def _print_programs(heading: str, programs: Mapping[str, Any]) -> None:
    rows = []
    for name, row in programs.items():
        mine, ratio = row["artifact"], row["ratio"]
        times = [_ms(mine.get("p50_ms")), _ms(mine.get("p90_ms")), _ms(row["fp32"].get("p50_ms"))]
        note = " drifted" if row["drifted"] else "" if row["warmed_up"] else " unstable"
        interval = f"{ratio['low']:.3f} to {ratio['high']:.3f}{note}"
        rows.append([name, *times, f"{ratio['value']:.3f}", interval, f"{mine['n']:,}"])
    click.echo(text_table([heading, "p50 ms", "p90 ms", "fp32 p50 ms", "ratio", "95 % interval", "n"], rows))


def _print_sustained(sustained: dict[str, Any]) -> None:
    found = sustained["slowdown"]
    ends = f"{_of(found['low'], 1, '{:.3f}')} to {_of(found['high'], 1, '{:.3f}')}"
    fell = {True: ", and the frequency fell", False: "", None: ""}[found["frequency_fell"]]
    click.echo(
        f"{sustained['minutes']:g} minutes of {sustained['case']}: {found['verdict']}, the last window takes "
        f"{found['value']:.3f} of the first ({ends}, throttled above {found['limit']:g}){fell}"
    )
    rows = [
        [
            f"{row['start_s']:.1f}",
            f"{row['median_ms']:.3f}",
            _ms(row.get("p90_ms")),
            f"{row['n']:,}",
            f"{100 * row['busy']:.0f} %",
            _of(row["temperature_c"], 1, "{:.1f}"),
            _of(row["frequency_mhz"], 1, "{:.0f}"),
        ]
        for row in sustained["windows"]
    ]
    click.echo(text_table(["from s", "p50 ms", "p90 ms", "n", "busy", "C", "MHz"], rows))
    click.echo(_energy_words(sustained["energy"]))


def _energy_words(energy: dict[str, Any] | None) -> str:
    if energy is None:
        return "energy: not available"
    figures = f"{1e3 * energy['joules_per_run']:.3g} mJ a run, {energy['watts']:.3g} W"
    return f"energy of the {energy['of']}: {figures} ({energy['by']})"


def _print_roofline(roofline: dict[str, Any]) -> None:
    peaks = roofline["peaks"]
    floats, integers = (peaks[f"{kind}_macs_per_s"] / 1e9 for kind in ("float32", "int8"))
    copied = f"copies {peaks['bytes_per_s'] / 1e9:.1f} GB/s" if peaks["bytes_per_s"] else "copies not measured"
    click.echo(f"peaks: float32 {floats:.1f} GMAC/s, int8 {integers:.1f} GMAC/s, {copied}")
    rows = [
        [
            f"{name}, {side}",
            _of(row["macs"], 1e-6, "{:.1f} M"),
            _of(row["parameters"], 1e-6, "{:.2f} M"),
            _of(row["macs_per_byte"], 1, "{:.1f}"),
            _of(row["macs_per_s"], 1e-9, "{:.2f}"),
            *(_of(row[key], 100, "{:.1f} %") for key in ("of_float32_peak", "of_int8_peak", "of_roof")),
            row["bound"] or "unknown",
        ]
        for side, programs in roofline["programs"].items()
        for name, row in programs.items()
    ]
    names = ["program", "MACs", "parameters", "MACs/byte", "GMAC/s", "of float32", "of int8", "of roof", "bound by"]
    click.echo(text_table(names, rows))


def _of(value: float | None, factor: float, form: str) -> str:
    return "unknown" if value is None else form.format(value * factor)


def _print_profile(profile: dict[str, Any]) -> None:
    click.echo(f"hottest operators, by {profile['profiler']}; slower than the runs above, and no latency:")
    for program, found in profile["programs"].items():
        rows = [
            [f"  {row['name']}", row["kind"], f"{row['us']:.1f}", f"{100 * row['share']:.1f} %", f"{row['calls']:g}"]
            for row in found["hottest"]
        ]
        inside, whole = found["operators_us"], found["whole_us"]
        click.echo(f"{program}: {inside:.1f} us in {found['n_operators']} operators, {whole:.1f} us a run")
        click.echo(text_table(["  operator", "kind", "us", "share", "calls"], rows, left=2))


def _print_accuracy(accuracy: dict[str, Any] | None) -> None:
    on = f" on {accuracy['data']}" if accuracy and accuracy.get("data") else ""  # not always what was timed
    if accuracy is None:
        click.echo("accuracy: not verified; a latency without it is no result: run dmedge verify")
    elif "recall_at_10" not in accuracy:
        alike = ", ".join(f"{name} {share:.4f}" for name, share in accuracy["agreement"].items())
        click.echo(f"accuracy{on}: decides as the baseline: {alike}, verdict {accuracy['verdict']}")
    else:
        click.echo(
            f"accuracy{on}: recall@10 {accuracy['recall_at_10']:.4f}, baseline "
            f"{accuracy['baseline_recall_at_10']:.4f}, verdict {accuracy['verdict']}"
        )


def _ms(value: float | None) -> str:
    return "too few" if value is None else f"{value:.3f}"
