"""``bellbench party``: one end of a key exchange over a network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .instruments import BellbenchError, parse_quantity
from .keys_cli import open_store

__all__ = ["party"]


def _seconds(text: str) -> float:
    try:
        value = parse_quantity(text, "s")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not value > 0:
        raise typer.BadParameter("must be above zero")
    return value


def party(
    config: Annotated[str, typer.Argument(help="Party file, or bundled name.")],
    role: Annotated[
        str | None, typer.Option(help="alice or bob; must be what the file says.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(parser=_seconds, metavar="TIME", help="Bench time; no end without."),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file",
            metavar="FILE",
            help="Its first line opens the key store; - is standard input.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Exchange keys with the other party's process, until stopped or for a duration.

    A broken connection is waited for, a restarted peer is met anew. Ctrl-C brings the instruments
    to their safe state; what the key store holds is kept.
    """
    from rich.console import Console

    from .live import View
    from .party import load_party, run_party

    class Output(Console):
        def on_broken_pipe(self) -> None:  # by itself it ends the program without a word
            raise BellbenchError("nobody reads the output any more")

    loaded = load_party(config, role=role)
    console = Output(stderr=as_json)
    title = f"{loaded.file.role}, {loaded.name} on {loaded.bench.path.stem}"
    with open_store(loaded.store, passphrase_file) as store, View(console, title) as view:
        summary = run_party(loaded, store, duration_s=duration, show=view.show)
    if as_json:
        print(json.dumps(asdict(summary), allow_nan=False))
    else:
        console.print(
            f"{summary.keys} of {summary.blocks} blocks gave {summary.key_bits:,} bits of key;"
            f" reports: {loaded.reports}",
            soft_wrap=True,
            highlight=False,
        )
