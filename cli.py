"""The command line: ``bellbench run | check | twin serve | keys | party | tags`` and more."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .calibrate_cli import app as calibrate_app
from .gallery_cli import gallery
from .instruments import BellbenchError, ConfigError, parse_quantity
from .keys_cli import app as keys_app
from .party_cli import identity, party
from .record_cli import record
from .tags_cli import app as tags_app

if TYPE_CHECKING:
    from collections.abc import Callable
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
app.add_typer(calibrate_app, name="calibrate")
app.add_typer(keys_app, name="keys")
app.add_typer(tags_app, name="tags")
app.command()(gallery)
app.command()(record)
app.command()(party)
app.command()(identity)

#: Signals that stop a run, where the system has them.
_STOPS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")

Seed = Annotated[int | None, typer.Option(help="Seed of the twins' world.", min=0, max=2**63 - 1)]


def _seconds(text: str) -> float:
    try:
        return parse_quantity(text, "s")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


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
    calibrations: Annotated[
        Path, typer.Option(help="Folder of the calibrations that the experiment names.")
    ] = Path("calibrations"),
    allow_expired: Annotated[
        bool, typer.Option("--allow-expired", help="Use calibrations that have expired.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Run an experiment and leave a run folder. An aborted exchange is a result, too."""
    from rich.console import Console

    from .experiments import load_experiment, run_experiment, summary
    from .live import View

    class Output(Console):
        def on_broken_pipe(self) -> None:  # by itself it ends the program without a word
            raise BellbenchError("nobody reads the output any more")

    console = Output(stderr=as_json)
    config = load_experiment(experiment, twin=twin, duration=duration)
    where = "twins" if config.bench.twin else "instruments"
    title = f"{config.name} on {where}" + (f", seed {seed}" if seed is not None else "")
    with View(console, title) as view:
        outcome = run_experiment(
            config,
            seed=seed,
            out=out,
            registry=calibrations,
            allow_expired=allow_expired,
            show=view.show,
        )
    if as_json:
        print(json.dumps(outcome.metrics, allow_nan=False))
    else:
        console.print(summary(outcome))
        console.print(f"run folder: {outcome.folder}", soft_wrap=True, highlight=False)


@app.command()
def check(
    file: Annotated[str, typer.Argument(help="Bundled name or YAML file.")],
) -> None:
    """Check a bench, experiment, world, party or gallery file; every mistake with its place."""
    from .experiments import check_file

    errors = check_file(file)
    for error in errors:
        print(error, file=sys.stderr)
    if errors:
        raise typer.Exit(2)
    print(f"{file}: no mistakes found")


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
    state: Annotated[
        Path | None,
        typer.Option(
            help="Go on from this file, where it exists, and keep the world's state in it:"
            " time, temperatures, drifts."
        ),
    ] = None,
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Serve a bench's twins; prints each address as a line of JSON, the control port last."""
    if until_stdin_closes:
        # A Ctrl-C or a stopping service reaches the whole process group; the parent then still
        # needs its twins, to bring them to safety, and ends this process by its standard input.
        for name in _STOPS:
            _on_signal(name, signal.SIG_IGN)
    else:
        # asyncio ends well by its own handler of SIGINT, the world by its own of SIGTERM
        _on_signal("SIGINT", signal.default_int_handler)
        for name in ("SIGHUP", "SIGBREAK"):
            _on_signal(name, _terminate)
    from .bench import load_bench
    from .sims.server import serve as serve_world

    config = load_bench(bench, twin=None if only else True)
    if config.world is None:
        raise ConfigError("has no world, so there is nothing to serve", place=str(config.path))

    def announce(line: dict[str, object]) -> None:
        print(json.dumps(line), flush=True)

    if seed is None and state is not None and state.exists():
        from .sims.saved import read_state

        seed = int(read_state(state)["seed"])
    serve_world(
        config.world,
        config.twin_specs(only or []),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        announce=announce,
        factor=None if stepped else pace,
        host=host,
        control_port=port,
        state=state,
        until_stdin_closes=until_stdin_closes,
    )


def main() -> None:
    """Run the command line; errors of ours end it with their text, not with a traceback."""
    for name in _STOPS:
        _on_signal(name, _stop)
    try:
        try:
            app()
        finally:
            if sys.stdout is not None:  # None where it was closed before the start
                sys.stdout.flush()  # what a full disk refuses is told here, not as Python ends
    except ConfigError as error:
        _fail(error, 2)
    except BellbenchError as error:
        _fail(error, 1)
    except SystemExit as error:
        if notes := getattr(error, "__notes__", []):
            print("bellbench:", "\n".join(notes), file=sys.stderr)
        raise
    except OSError as error:
        # such as an output that cannot be written; what is still unwritten has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(BellbenchError(f"cannot read or write: {error}"), 1)


def _fail(error: BellbenchError, code: int) -> None:
    print("\n".join([f"bellbench: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
    sys.exit(code)


def _on_signal(
    name: str, handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> None:
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
        signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    # As an exception, so that open benches bring their instruments to safety on the way out; a
    # second signal must not cut that short.
    for name in _STOPS:
        _on_signal(name, signal.SIG_IGN)
    error = SystemExit(128 + number)
    error.add_note(f"stopped by {signal.Signals(number).name}")
    raise error


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGTERM)
