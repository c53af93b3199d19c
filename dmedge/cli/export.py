"""dmedge export: a checkpoint to bundles for named targets."""

from pathlib import Path
from typing import Any

import click

from dmedge.artifact import Artifact, download_bytes, program_bytes
from dmedge.cli.common import ArtifactParam, default_artifact, json_option, out_option, print_json

SHARE = click.FloatRange(0, 1)


@click.command()
@click.argument("run", type=ArtifactParam("checkpoint"), required=False)
@click.option("--target", "targets", multiple=True, metavar="TARGET", help="Where it is to run; repeatable.")
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Only programs for it; repeatable.")
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
@out_option
@click.option("--list-targets", is_flag=True, help="Show the targets and exit.")
@json_option
def export(
    run: Artifact | None,
    targets: tuple[str, ...],
    key: Path | None,
    out: Path | None,
    list_targets: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Turn the checkpoint RUN into a bundle for each target [default: the newest checkpoint under runs/].

    A bundle counts only after its programs were run in their own runtime and compared with torch.
    With several targets, --out names the directory that holds one bundle for each.
    """
    if list_targets:
        print_targets(as_json)
        return
    if not targets:
        raise click.UsageError("no target; expected --target NAME; see dmedge export --list-targets")
    from dmedge.export.config import ExportConfig

    configs = [ExportConfig(target=target, **settings) for target in targets]
    seal = None
    if key is not None:
        from dmedge.signature import seal_with

        seal = seal_with(key)
    parent = run or default_artifact("checkpoint")
    from dmedge.export.bundle import export_bundle

    bundles = [export_bundle(parent, c, place(parent, c.target, out, len(targets)), seal=seal) for c in configs]
    if as_json:
        print_json([facts(bundle) for bundle in bundles])
    else:
        for bundle in bundles:
            print_result(bundle)


def place(parent: Artifact, target: str, out: Path | None, count: int) -> Path:
    """Where the bundle for one of `count` targets goes."""
    if out is None:
        return parent.sibling(target)
    return out / target if count > 1 else out


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
    return {
        "path": bundle.root,
        "digest": bundle.digest,
        "target": bundle.manifest.target,
        "program_bytes": program_bytes(bundle),
        "download_bytes": download_bytes(bundle),
        **bundle.manifest.summary,
    }


def print_result(bundle: Artifact) -> None:
    """The path, the sizes, and how near it is to torch."""
    found = facts(bundle)
    click.echo(bundle.root)
    click.echo(f"  programs    {found['program_bytes']:,} bytes, {found['precision']}")
    click.echo(f"  download    {found['download_bytes']:,} bytes")
    parity = bundle.manifest.summary["parity"]
    assert isinstance(parity, dict)
    for runtime, errors in parity.items():
        click.echo(f"  vs torch    {', '.join(f'{name} {error:.1g}' for name, error in errors.items())} ({runtime})")
