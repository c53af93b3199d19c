"""dmedge verify: a bundle against its float baseline."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmedge.artifact import Artifact
from dmedge.cli.budget import budget_option, read_budget, recipe_option
from dmedge.cli.common import DATA_HELP, ArtifactParam, default_artifact, json_option, out_option, print_json
from dmedge.cli.tables import text_table
from dmedge.data.languages import count_languages
from dmedge.errors import VerifyError

if TYPE_CHECKING:
    from dmedge.flow.prove_each import Proof

baseline_option = click.option(
    "--baseline", type=ArtifactParam("checkpoint"), help="Float checkpoint [default: the eldest it was made from]."
)
runtime_option = click.option("--runtime", metavar="NAME", help="Whose programs [default: the first of the bundle].")
runner_option = click.option(
    "--runner",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Native runner of one's own, for a --device adb:SERIAL.",
)
junit_option = click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the budgets as JUnit XML too, one test case for each.",
)


@click.command()
@click.argument("bundles", type=ArtifactParam("bundle"), nargs=-1)
@baseline_option
@recipe_option
@budget_option
@click.option("--data", default="emoji", show_default=True, help=DATA_HELP)
@click.option("--style", default="twemoji", show_default=True, help="Art style of the emoji.")
@click.option("--max-per-language", type=click.IntRange(1), metavar="N", help="At most N texts per language.")
@click.option(
    "--pairs",
    "pairs_per_language",
    type=click.IntRange(1),
    metavar="N",
    default=50,
    show_default=True,
    help="Texts per language that heads decide on, more if a limit needs it.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of one run.")
@runtime_option
@click.option("--robustness", is_flag=True, help="Perturb pictures and texts as well; takes minutes more.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the work.")
@junit_option
@out_option
@json_option
def verify(
    bundles: tuple[Artifact, ...],
    baseline: Artifact | None,
    recipe: str | None,
    limits: tuple[str, ...],
    junit: Path | None,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Judge BUNDLES on their real runtimes against the float checkpoint they came from.

    The newest under runs/ is judged unless some are named. The evidence of each is written beside it, or
    into --out; several end in one table.

    Exits with 3 if a budget failed, or if the programs of a bundle cannot be judged for what they do. `not
    enough data` is no failure: it exits with 0 and says so.
    """
    from dmedge.flow.junit import write_junit
    from dmedge.flow.prove_each import VerifyConfig, places_of, verify_each

    chosen = bundles or (default_artifact("bundle"),)
    config, places = VerifyConfig(**settings), places_of(chosen, out, "verify")
    budgets = [read_budget(recipe, limits, bundle) for bundle in chosen]
    proofs = verify_each(chosen, config, places, baseline=baseline, budgets=budgets)
    if junit is not None:
        write_junit(junit, [(proof.bundle.name, proof.report) for proof in proofs], stage="verify")
    print_proofs_json(proofs) if as_json else print_proofs(proofs, _print_report, standing_table)
    fail_on_any(proofs)


def print_proofs_json(proofs: Sequence["Proof"]) -> None:
    """One object for one bundle, a list for several."""
    reports = [proof.report for proof in proofs]
    print_json(reports[0] if len(reports) == 1 else reports)


def print_proofs(
    proofs: Sequence["Proof"],
    print_report: Callable[[dict[str, Any], Artifact], None],
    table: Callable[[Sequence["Proof"]], str],
) -> None:
    """What was found of each bundle, and a table of several."""
    for proof in proofs:
        if len(proofs) > 1:
            click.echo(f"{proof.bundle.root}")
        if proof.evidence is None:
            click.echo(str(proof.error))
        else:
            print_report(proof.report, proof.evidence)
    if len(proofs) > 1:
        click.echo(table(proofs))


def standing_table(proofs: Sequence["Proof"]) -> str:
    """One row for every bundle."""
    from dmedge.evidence.standing import kept_text

    rows = []
    for row in (proof.standing for proof in proofs):
        worst = "" if row.worst_kept is None else f"{row.worst_language} {row.worst_kept:.1%}"
        rows.append([row.name, f"{row.program_bytes / 1e6:.2f} MB", kept_text(row.kept), worst, row.verdict])
    return text_table(["artifact", "programs", "recall@10 kept", "worst language", "verdict"], rows)


def fail_on_any(proofs: Sequence["Proof"]) -> None:
    """Raise if a budget of any bundle failed, or an error left one without evidence; of several bundles all are named.

    Raises:
        VerifyError: a budget failed, or a bundle computes something else.
        DmedgeError: an error, and neither of both.
    """
    if len(proofs) == 1:
        fail_on(proofs[0].report)
    errors = {proof.bundle.root: proof.error for proof in proofs if proof.error is not None}
    broken = [f"{root}: {error}" for root, error in errors.items()]
    failed = [proof for proof in proofs if proof.error is None and proof.report["verdict"] == "fail"]
    if failed:
        words = "; ".join(f"{proof.bundle.root} ({', '.join(proof.failed)})" for proof in failed)
        words = f"budget failed: {words}; see dmedge report, or change it with --budget"
        raise VerifyError("; ".join([words, *broken]))
    if errors:
        gravest = max(errors.values(), key=lambda error: error.exit_code)
        gravest.args = ("; ".join(broken),)
        raise gravest


def fail_on(report: dict[str, Any]) -> None:
    """Raise if a budget failed, or the programs did.

    Raises:
        VerifyError: the verdict is fail.
    """
    if "failure" in report:
        raise VerifyError(report["failure"])
    failed = [line for line in report["budgets"] if line["verdict"] == "fail"]
    if failed:
        lines = ", ".join(f"{line['name']} {line['value']:.4g} (limit {line['limit']:g})" for line in failed)
        raise VerifyError(f"budget failed: {lines}; see dmedge report, or change it with --budget")


def _print_report(report: dict[str, Any], evidence: Artifact) -> None:
    click.echo(budget_table(report["budgets"]))
    if "failure" in report:
        click.echo(report["failure"])
    elif "macro" in report:
        _print_recall(report)
    else:
        _print_decisions(report)
    _print_heads(report)
    click.echo(f"verdict: {report['verdict']}")
    click.echo(evidence.root)


def _print_decisions(report: dict[str, Any]) -> None:
    rows = [
        [name, f"{head['n']:,}", *(_number(head["agreement"][key]) for key in ("value", "low", "high"))]
        for name, head in report["heads"].items()
    ]
    click.echo(text_table(["decides", "n", "as baseline", "low", "high"], rows))
    known = {name: head["n_known"] for name, head in report["heads"].items()}
    click.echo(f"truth known of {', '.join(f'{n:,} ({name})' for name, n in known.items())}; {report['data']['name']}")


def _print_recall(report: dict[str, Any]) -> None:
    from dmedge.evidence.floors import floor_words

    data, macro = report["data"], report["macro"]["text_to_image"]
    worst = report["worst_language"]
    row = report["languages"][worst]
    if (side := report["method"]["embedded_by_baseline"]) is not None:
        click.echo(f"one encoder alone (variant {report['variant']}): the baseline embedded the {side}, in torch")
    click.echo(
        f"text to image recall@10 {macro['artifact']['recall_at_10']:.4f}, baseline "
        f"{macro['baseline']['recall_at_10']:.4f}, chance {macro['artifact']['chance_at_10']:.4f}; "
        f"{data['n_texts']:,} texts in {count_languages(report['languages'])}, "
        f"{data['n_images']:,} images, {data['name']}"
    )
    click.echo(
        f"worst language {worst} ({row['name']}): recall@10 {row['recall_at_10']:.4f}, "
        f"baseline {row['baseline_recall_at_10']:.4f}"
    )
    if words := floor_words(report):
        click.echo(words)
    _print_likeness(report)


def _print_likeness(report: dict[str, Any]) -> None:
    alike = report["agreement"]
    click.echo(
        f"as the baseline: best ten in common {alike['overlap_at_10']:.4f}, rank-biased overlap "
        f"{alike['rank_biased_overlap']:.4f}; recall@10 in the baseline's gallery "
        f"{_number(alike['recall_at_10_baseline_gallery'])}, of its queries in this one's "
        f"{_number(alike['recall_at_10_baseline_query'])}"
    )
    if (found := report["robustness"]) is not None:
        drop, n = found["drop"], found["n_texts"]
        click.echo(
            f"perturbed: loses {drop['value']:+.4f} recall@10 beyond the baseline ({drop['low']:+.4f} to "
            f"{drop['high']:+.4f}); {n:,} texts under {len(found['perturbations'])} perturbations"
        )


def _print_heads(report: dict[str, Any]) -> None:
    from dmedge.evidence.head_rows import head_rows, heads_of, signed

    rows = [
        [row.head, row.figure, f"{row.n:,}", _number(row.artifact), _number(row.baseline), signed(row.change)]
        for row in head_rows(heads_of(report))
    ]
    if rows:
        click.echo(text_table(["head", "figure", "n", "bundle", "baseline", "change"], rows, left=2))


def budget_table(lines: list[dict[str, Any]]) -> str:
    """Budget lines for a terminal."""
    from dmedge.evidence.verdict import AT_MOST, EXACT

    rows = []
    for line in lines:
        sign = "<=" if line["name"] in AT_MOST else ">="
        low, high = _number(line["low"]), _number(line["high"])
        interval = "exact" if line["name"] in EXACT and line["value"] is not None else f"{low} to {high}"
        rows.append([line["name"], f"{sign} {line['limit']:g}", _number(line["value"]), interval, line["verdict"]])
    return text_table(["budget", "limit", "value", "interval", "verdict"], rows, left=5)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
