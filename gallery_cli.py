"""``bellbench gallery``: published experiments on their twins, beside what was published."""

from __future__ import annotations

import collections
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from .instruments import parse_quantity

__all__ = ["gallery"]


def gallery(
    entry: Annotated[
        list[str] | None, typer.Option(help="This entry only; may be repeated.")
    ] = None,
    duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Of each run, instead of its own.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the twins' worlds.", min=0, max=2**63 - 1)] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Write gallery.md and its pictures into this folder.")
    ] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the run folders here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Run published experiments on their twins and compare. A miss is a result, too."""
    from rich.console import Console

    from .gallery import load_gallery, run_entry, tables, told, write_page
    from .live import View

    try:
        seconds = None if duration is None else parse_quantity(duration, "s")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--duration") from error
    console = Console(stderr=as_json, width=None if sys.stdout.isatty() else 120)
    entries = load_gallery(entry or [])
    with tempfile.TemporaryDirectory(prefix="bellbench-gallery-") as folder:
        found, runs = [], {}
        for one in entries:
            with View(console, f"gallery: {one.name}") as view:
                here, runs[one.name] = run_entry(
                    one, seed=seed, duration=seconds, out=keep or Path(folder), show=view.show
                )
            found += here
        if out is not None:
            options = f" --duration '{duration}'" if duration else ""
            options += "".join(f" --entry {name}" for name in entry or [])
            options += f" --seed {seed}" if seed != 1 else ""
            page = write_page(
                out, entries, found, runs, command=f"bellbench gallery{options} --out {out}"
            )
    if as_json:
        print(json.dumps(told(found), allow_nan=False))
        return
    for each in tables(entries, found):
        console.print(each)
        console.print()
    many = collections.Counter(each.verdict for each in found)
    console.print(
        f"{many['agrees']} agree, {many['within errors']} within errors, {many['misses']} miss;"
        f" seed {seed}"
    )
    if out is not None:
        console.print(f"page: {page}", soft_wrap=True, highlight=False)
