"""dmedge conform: the golden inputs and outputs of a bundle, replayed on its real runtime."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dmedge.artifact import Artifact
from dmedge.cli.common import ArtifactParam, default_artifact, json_option, print_json
from dmedge.cli.tables import text_table
from dmedge.cli.verify import runner_option, runtime_option
from dmedge.errors import VerifyError
from dmedge.manifest import SIGNATURE_NAME

if TYPE_CHECKING:
    from dmedge.flow.conform import Conformance


@click.command()
@click.argument("bundle", type=ArtifactParam("bundle"), required=False)
@runtime_option
@click.option("--device", default="local", show_default=True, help="Where to run, as dmedge devices lists it.")
@runner_option
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Public key in PEM: exits with 1 unless its owner signed BUNDLE.",
)
@json_option
def conform(
    bundle: Artifact | None, runtime: str | None, device: str, runner: Path | None, key: Path | None, as_json: bool
) -> None:
    """Check every digest of BUNDLE and replay its golden inputs on its real runtime.

    BUNDLE is the newest under runs/ unless it is named. Prints the first difference, if there is one.

    Exits with 3 if something is not as it was exported, and with 1 if BUNDLE is damaged or not signed by --key.
    """
    from dmedge.devices.names import check_replay
    from dmedge.flow.conform import conform_on

    check_replay(device, runner)
    chosen = bundle or default_artifact("bundle")
    signature = _signature(chosen, key)
    found = conform_on(chosen, device, runtime=runtime, runner=runner)
    if as_json:
        print_json({"path": chosen.root, "digest": chosen.digest, "signature": signature, **found.to_json()})
    else:
        _print_report(chosen, found, signature)
    if found.failures:
        raise VerifyError(f"{chosen.root}: {found.failures[0]}; what it computes is not what was exported")


def _signature(bundle: Artifact, key: Path | None) -> str:
    """In words; the error passes through if it does not fit."""
    if key is not None:
        from dmedge.signature import check_signature

        check_signature(bundle, key)
        return f"by the owner of {key}"
    return "there, not checked: name a --key" if (bundle.root / SIGNATURE_NAME).is_file() else "none"


def _print_report(bundle: Artifact, found: "Conformance", signature: str) -> None:
    parity, facts = found.parity, found.facts
    click.echo(f"{bundle.root} ({facts['runtime']} {facts['version']}), {len(bundle.manifest.files)} files as written")
    if "adapter" in facts:
        from dmedge.devices.webgpu import Adapter

        click.echo(f"WebGPU by {Adapter(**facts['adapter'])}")
    rows = [
        [
            name,
            f"{row.n:,}",
            f"{row.max_error:.3g}",
            f"{row.tolerance:g}",
            f"{row.min_cosine:.6f}",
            "yes" if row.is_within else "NO",
        ]
        for name, row in parity.rows.items()
    ]
    click.echo(text_table(["program", "n", "max error", "tolerance", "min cosine", "within"], rows))
    if parity.images:
        click.echo(f"pixels: {parity.images - len(parity.images_differing)} of {parity.images} pictures alike")
    if parity.texts:
        click.echo(f"token ids: {parity.texts - len(parity.texts_differing)} of {parity.texts} texts alike")
    for name, check in (found.self_checks or {}).items():
        click.echo(f"bundled {name}: {check.cases} cases, {check.failure or 'verified by itself'}")
    click.echo(f"signature: {signature}")
    if found.failures:
        click.echo(f"first difference: {found.failures[0]}")
