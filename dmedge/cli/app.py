"""dmedge app: bundles as apps."""

import tempfile
import threading
from pathlib import Path

import click

from dmedge.artifact import Artifact
from dmedge.cli.common import ArtifactParam, default_artifact


@click.group()
def app() -> None:
    """Turn a bundle into an app."""


@app.command()
@click.argument("bundle", type=ArtifactParam("bundle"), required=False)
@click.option("--index", type=ArtifactParam("index"), help="Pictures, by dmedge index [default: the emoji of twemoji].")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to create [default: beside BUNDLE].")
@click.option("--serve", is_flag=True, help="Serve it on this machine until interrupted; without --out, keep nothing.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free one.")
def web(bundle: Artifact | None, index: Artifact | None, out: Path | None, serve: bool, port: int) -> None:
    """Write a page that searches pictures in the browser, offline, with BUNDLE.

    BUNDLE was exported with --target web [default: the newest such under runs/]. The folder needs a web server and
    nothing else; with the headers in its file _headers it may use several threads, and no other host than its own.
    """
    from dmedge.flow.web_app import build_site, is_for_browsers

    chosen = bundle or default_artifact("bundle", accept=is_for_browsers, what="bundle for browsers")
    with tempfile.TemporaryDirectory() as temporary:
        place = out or (Path(temporary) / "site" if serve else chosen.sibling("site"))
        site = build_site(chosen, place, index=index)
        if out or not serve:
            click.echo(site)
        if serve:
            _serve(site, port)


@app.command(name="linux-arm64")
@click.argument("bundle", type=ArtifactParam("bundle"), required=False)
@click.option("--index", type=ArtifactParam("index"), help="Pictures, by dmedge index [default: the emoji of twemoji].")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Archive to create [default: beside BUNDLE]."
)
def linux_arm64(bundle: Artifact | None, index: Artifact | None, out: Path | None) -> None:
    """Write a .tar.gz with a search program for Raspberry Pi class boards, with BUNDLE and all that it needs.

    BUNDLE was exported with --target linux-arm64 [default: the newest such under runs/], or holds ExecuTorch programs
    for another target. On the board, unpack it and run ./search index "red apple".
    """
    from dmedge.flow.board_app import build_board_app, is_for_boards

    chosen = bundle or default_artifact("bundle", accept=is_for_boards, what="bundle that reads text by ExecuTorch")
    click.echo(build_board_app(chosen, out or chosen.sibling("app.tar.gz"), index=index))


def _serve(site: Path, port: int) -> None:
    from dmedge.devices.loopback import LoopbackServer
    from dmedge.flow.web_app import HEADERS

    server = LoopbackServer({"/": site}, headers=HEADERS, port=port)
    try:
        click.echo(f"{server.url}/ (Ctrl-C ends it)")
        threading.Event().wait()
    finally:
        server.close()


@app.command()
@click.argument("bundle", type=ArtifactParam("bundle"), required=False)
@click.option("--index", type=ArtifactParam("index"), help="Pictures of the sample, by dmedge index [default: none].")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to create [default: BUNDLE.app].")
def android(bundle: Artifact | None, index: Artifact | None, out: Path | None) -> None:
    """Write a Gradle project that runs BUNDLE: a Kotlin library, a sample, a test of the golden inputs.

    BUNDLE was exported with --target android [default: the newest such under runs/].
    """
    click.echo(_phone_app("android", bundle, index, out))


@app.command()
@click.argument("bundle", type=ArtifactParam("bundle"), required=False)
@click.option("--index", type=ArtifactParam("index"), help="Pictures of the sample, by dmedge index [default: none].")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to create [default: BUNDLE.app].")
def ios(bundle: Artifact | None, index: Artifact | None, out: Path | None) -> None:
    """Write a Swift package that runs BUNDLE: a library, a sample view, a test of the golden inputs.

    BUNDLE was exported with --target ios [default: the newest such under runs/].
    """
    click.echo(_phone_app("ios", bundle, index, out))


def _phone_app(target: str, bundle: Artifact | None, index: Artifact | None, out: Path | None) -> Path:
    from dmedge.flow.phone_app import app_beside, write_app

    chosen = bundle or default_artifact("bundle", accept=lambda found: found.target == target, what=f"{target} bundle")
    if chosen.manifest.target != target:
        raise click.BadParameter(f"{chosen.root} is for {chosen.manifest.target}; expected a bundle for {target}")
    return write_app(chosen, out or app_beside(chosen.root), index=index)
