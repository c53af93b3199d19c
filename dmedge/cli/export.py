"""dmedge export: a checkpoint to bundles for named targets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dmedge.artifact import Artifact, download_bytes, program_bytes
from dmedge.cli.budget import budget_option, read_budget, recipe_option
from dmedge.cli.common import ArtifactParam, default_artifact, json_option, out_option, print_json
from dmedge.variants import VARIANTS, bundle_name, variant_of

SHARE = click.FloatRange(0, 1)


@click.command()
@click.argument("run", type=ArtifactParam("checkpoint"), required=False)
@click.option("--target", "targets", multiple=True, metavar="TARGET", help="Where it is to run; repeatable.")
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Only programs for it; repeatable.")
@click.option(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    default="full",
    show_default=True,
    help="Which programs of the model; see docs/targets.md.",
)
@click.option(
    "--prompts",
    "prompt_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Texts of the variant prompts: lines, tab-separated label, language and text, or JSON.",
)
@click.option("--prompt", "prompt_texts", multiple=True, metavar="TEXT", help="A label and its text; repeatable.")
@click.option("--bundled", is_flag=True, help="Add an ExecuTorch program that verifies itself; doubles the size.")
@click.option("--min-delegated", type=SHARE, help="Fail if less of a program's multiply-accumulates is delegated.")
@click.option("--min-int8", type=SHARE, help="Fail if less of a program's multiply-accumulates is in integers.")
@click.option(
    "--sign",
    "key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="KEY",
    help="Sign every bundle with a private key in PEM; see docs/artifacts.md.",
)
@recipe_option
@budget_option
@click.option("--no-app", is_flag=True, help="For android and ios: write no app beside the bundle, in BUNDLE.app.")
@out_option
@click.option("--list-targets", is_flag=True, help="Show the targets and exit.")
@json_option
def export(
    run: Artifact | None,
    targets: tuple[str, ...],
    prompt_file: Path | None,
    prompt_texts: tuple[str, ...],
    key: Path | None,
    recipe: str | None,
    limits: tuple[str, ...],
    no_app: bool,
    out: Path | None,
    list_targets: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Turn the checkpoint RUN into a bundle for each target [default: the newest checkpoint under runs/].

    A bundle counts only after its programs were run in their own runtime and compared with torch.
    With several targets, --out names the directory that holds one bundle for each. Beside a bundle for android or ios
    stands BUNDLE.app, a project that runs it. What it may cost (--recipe, --budget) is what dmedge verify and dmedge
    bench judge it by.
    """
    if list_targets:
        print_targets(as_json)
        return
    if not targets:
        raise click.UsageError("no target; expected --target NAME; see dmedge export --list-targets")
    from dmedge.export.config import ExportConfig
    from dmedge.export.prompts import Prompt, read_prompts

    prompts = (*(read_prompts(prompt_file) if prompt_file else ()), *(Prompt(label=t, text=t) for t in prompt_texts))
    configs = [ExportConfig(target=target, prompts=prompts, **settings) for target in targets]
    seal = None
    if key is not None:
        from dmedge.signature import seal_with

        seal = seal_with(key)
    parent = run or default_artifact("checkpoint")
    from dmedge.export.bundle import export_bundle

    names = [bundle_name(c.target, c.variant) for c in configs]
    places = [place(parent, name, out, len(targets)) for name in names]
    apps = () if no_app else check_apps(targets, places)
    budget = read_budget(recipe, limits)
    bundles = [
        export_bundle(parent, c, where, seal=seal, budget=budget) for c, where in zip(configs, places, strict=True)
    ]
    write_apps(bundles, apps)
    if as_json:
        print_json([facts(bundle) for bundle in bundles])
    else:
        for bundle in bundles:
            print_result(bundle)


def place(parent: Artifact, name: str, out: Path | None, count: int) -> Path:
    """Where the bundle for one of `count` targets goes."""
    if out is None:
        return parent.sibling(name)
    return out / name if count > 1 else out


def check_apps(targets: Sequence[str], places: Sequence[Path]) -> list[Path]:
    """Where bundles are to get apps beside them, after a look whether these can be created."""
    from dmedge.flow.atomic import check_new
    from dmedge.flow.phone_app import PHONES, app_beside

    chosen = [where for target, where in zip(targets, places, strict=True) if target in PHONES]
    for where in chosen:
        check_new(app_beside(where))
    return chosen


def write_apps(bundles: Sequence[Artifact], places: Sequence[Path]) -> None:
    """Write the apps beside the bundles that stand in `places`; says on standard error where that cannot be."""
    from dmedge.flow.phone_app import app_beside, why_no_app, write_app

    for bundle in [bundle for bundle in bundles if bundle.root in places]:
        if (reason := why_no_app(bundle.manifest)) is None:
            write_app(bundle, app_beside(bundle.root))
        else:
            click.echo(f"no app beside {bundle.root}: {reason}", err=True)


def print_targets(as_json: bool) -> None:
    """The table of targets."""
    from dmedge.export.targets import TARGETS

    if as_json:
        print_json({name: {"runtimes": t.runtimes, "description": t.description} for name, t in TARGETS.items()})
    else:
        for name, target in TARGETS.items():
            click.echo(f"{name:14} {target.description}")


def facts(bundle: Artifact) -> dict[str, object]:
    """What `--json` prints of one bundle."""
    from dmedge.export.costs import read_costs
    from dmedge.flow.phone_app import find_app

    return {
        "path": bundle.root,
        "app": find_app(bundle),
        "digest": bundle.digest,
        "target": bundle.manifest.target,
        "variant": variant_of(bundle.manifest),
        "program_bytes": program_bytes(bundle),
        "download_bytes": download_bytes(bundle),
        **bundle.manifest.summary,
        "costs": read_costs(bundle),
    }


def print_result(bundle: Artifact) -> None:
    """The path, the sizes, and how near it is to torch."""
    found = facts(bundle)
    click.echo(bundle.root)
    names = ", ".join(dict.fromkeys(program.name for program in bundle.manifest.programs))
    click.echo(f"  programs    {found['program_bytes']:,} bytes, {found['precision']}: {names}")
    click.echo(f"  download    {found['download_bytes']:,} bytes")
    parity = bundle.manifest.summary["parity"]
    assert isinstance(parity, dict)
    for runtime, errors in parity.items():
        click.echo(f"  vs torch    {', '.join(f'{name} {error:.1g}' for name, error in errors.items())} ({runtime})")
    if found["app"] is not None:
        click.echo(f"  app         {found['app']}")
    if isinstance(costs := found["costs"], dict):
        engines = "; ".join(map(_cost_words, costs["engines"].items()))
        click.echo(f"  took        {costs['seconds']:.0f} s, {costs['cpu_seconds']:.0f} s of a processor: {engines}")


def _cost_words(engine: tuple[str, dict[str, Any]]) -> str:
    runtime, cost = engine
    peak = f", {cost['peak_rss_bytes'] / 1e6:,.0f} MB at most" if cost["peak_rss_bytes"] else ""
    return f"{runtime} {cost['lowering_s']:.0f} s and {cost['comparing_s']:.0f} s to compare{peak}"
