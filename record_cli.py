"""``bellbench record``: write down what passes over a bench's wires while a script runs."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Annotated

import typer

from .instruments import ConfigError, parse_quantity

__all__ = ["record"]


def _seconds(text: str) -> float:
    try:
        value = parse_quantity(text, "s")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if value < 0:
        raise typer.BadParameter("must not be below zero")
    return value


def record(
    bench: Annotated[str, typer.Argument(help="Bundled name or YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="The recording.", dir_okay=False)],
    script: Annotated[
        Path | None,
        typer.Argument(help="Python file that finds the open bench as `lab`.", exists=True),
    ] = None,
    args: Annotated[list[str] | None, typer.Argument(help="Its arguments.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(parser=_seconds, metavar="TIME", help="Bench time to stay open after."),
    ] = None,
    twin: Annotated[
        bool | None, typer.Option("--twin/--no-twin", help="Overrides the bench file.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the twins' world.", min=0, max=2**63 - 1)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older recording.")] = False,
) -> None:
    """Open a bench and record its wires while a script runs; without one, read every signal."""
    from .bench import open_bench

    if out.exists() and not force:
        raise ConfigError("exists already; --force replaces it", place=str(out))
    with open_bench(bench, twin=twin, seed=seed, record=out) as lab:
        if script is None:
            lab.snapshot()
        else:
            _run(script, args or [], lab)
        lab.clock.sleep(seconds or 0.0)
    print(f"{out}: {out.stat().st_size} bytes")


def _run(script: Path, args: list[str], lab: object) -> None:
    before = sys.argv
    sys.argv = [str(script), *args]
    try:
        runpy.run_path(str(script), init_globals={"lab": lab}, run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    finally:
        sys.argv = before
