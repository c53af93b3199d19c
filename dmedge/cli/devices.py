"""dmedge devices: where bundles can run, and what is missing to reach it."""

from dataclasses import asdict

import click

from dmedge.cli.common import json_option, print_json
from dmedge.cli.tables import text_table


@click.command()
@json_option
def devices(as_json: bool) -> None:
    """List the devices that bundles can run on, and what is missing to use them."""
    from dmedge.devices.inventory import list_devices

    found = list_devices()
    if as_json:
        print_json([asdict(device) | {"is_available": device.is_available} for device in found])
        return
    rows = [[row.name, ", ".join(row.missing) or "nothing", row.tells, row.description] for row in found]
    click.echo(text_table(["device", "missing", "tells", "what it is"], rows, left=4))
    for name in dict.fromkeys(name for row in found for name in row.downloads):
        click.echo(f"The first use of an emulated device fetches the wheel of {name} for arm64.")
    commands = dict.fromkeys(command for row in found for command in row.install)
    if commands:
        click.echo("To add what is missing:")
    for command in commands:
        click.echo(f"  {command}")
