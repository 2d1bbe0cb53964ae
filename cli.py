"""The command line: ``bellbench run | check | twin serve | tags``."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .instruments import BellbenchError, ConfigError, parse_quantity
from .tags_cli import app as tags_app

if TYPE_CHECKING:
    from types import FrameType

app = typer.Typer(
    name="bellbench",
    help="Lab control for quantum-network benches: drivers, wire-level twins, protocols.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
twin_app = typer.Typer(help="Twins that other programs can talk to.", no_args_is_help=True)
app.add_typer(twin_app, name="twin")
app.add_typer(tags_app, name="tags")

Seed = Annotated[int | None, typer.Option(help="Seed of the twins' world.", min=0, max=2**63 - 1)]


def _seconds(text: str) -> float:
    try:
        value = parse_quantity(text, "s")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if value <= 0:
        raise typer.BadParameter("must be above zero")
    return value


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="Bundled name or YAML file.")],
    twin: Annotated[
        bool | None, typer.Option("--twin/--no-twin", help="Overrides the bench file.")
    ] = None,
    seed: Seed = None,
    duration: Annotated[
        float | None, typer.Option(parser=_seconds, metavar="TIME", help="For example 10s.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Run an experiment and leave a run folder. An aborted exchange is a result, too."""
    from rich.console import Console

    from .experiments import load_experiment, run_experiment, summary
    from .live import View

    console = Console(stderr=as_json)
    config = load_experiment(experiment, twin=twin, duration=duration)
    where = "twins" if config.bench.twin else "instruments"
    title = f"{config.name} on {where}" + (f", seed {seed}" if seed is not None else "")
    with View(console, title) as view:
        outcome = run_experiment(config, seed=seed, out=out, show=view.show)
    if as_json:
        print(json.dumps(outcome.metrics, allow_nan=False))
    else:
        console.print(summary(outcome))
        console.print(f"run folder: {outcome.folder}", soft_wrap=True, highlight=False)


@app.command()
def check(
    bench: Annotated[str, typer.Argument(help="Bundled name or YAML file.")],
) -> None:
    """Check a bench (or experiment) file and its world; every mistake with its place."""
    from .experiments import check_file

    errors = check_file(bench)
    for error in errors:
        print(error, file=sys.stderr)
    if errors:
        raise typer.Exit(2)
    print(f"{bench}: no mistakes found")


@twin_app.command()
def serve(
    bench: Annotated[str, typer.Argument(help="Bundled name or YAML file.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Serve this instrument only; may be repeated.")
    ] = None,
    seed: Seed = None,
    stepped: Annotated[
        bool,
        typer.Option("--stepped", help="World time moves by clients' grants, not by the wall."),
    ] = False,
    pace: Annotated[float, typer.Option(help="World seconds per wall second.", min=1e-3)] = 1.0,
    host: Annotated[str, typer.Option(help="Interface to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Control port; 0 for any.", min=0, max=65535)] = 0,
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Serve a bench's twins; prints each address as a line of JSON, the control port last."""
    from .bench import load_bench
    from .sims.server import serve as serve_world

    config = load_bench(bench, twin=None if only else True)
    if config.world is None:
        raise ConfigError("has no world, so there is nothing to serve", place=str(config.path))

    def announce(line: dict[str, object]) -> None:
        print(json.dumps(line), flush=True)

    serve_world(
        config.world,
        config.twin_specs(only or []),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        announce=announce,
        factor=None if stepped else pace,
        host=host,
        control_port=port,
        until_stdin_closes=until_stdin_closes,
    )


def main() -> None:
    """Run the command line; errors of ours end it with their text, not with a traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except ConfigError as error:
        _fail(error, 2)
    except BellbenchError as error:
        _fail(error, 1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has left; nothing to say to nobody
        sys.exit(1)


def _fail(error: BellbenchError, code: int) -> None:
    print(f"bellbench: {error}", file=sys.stderr)
    for note in getattr(error, "__notes__", []):
        print(note, file=sys.stderr)
    sys.exit(code)


def _terminate(number: int, frame: FrameType | None) -> None:
    # As an exception, so that open benches bring their instruments to safety on the way out.
    raise SystemExit(128 + number)
