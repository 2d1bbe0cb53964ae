"""``bellbench calibrate``: find a bench's set points and enter them into the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .calibrations import Kind, Outcome

REGISTRY = Path("calibrations")

app = typer.Typer(
    help="Find delays, bias points, phase matching or polarization, and keep them dated.",
    no_args_is_help=True,
)

Bench = Annotated[str, typer.Argument(help="Bundled name or YAML file.")]
Twin = Annotated[bool | None, typer.Option("--twin/--no-twin", help="Overrides the bench file.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the twins' world.", min=0, max=2**63 - 1)]
Out = Annotated[Path, typer.Option(help="Folder of the calibrations.")]
Json = Annotated[bool, typer.Option("--json", help="Print the entries as JSON.")]
Use = Annotated[
    list[str] | None,
    typer.Option(help="Stored calibration to apply first, such as phase_matching; repeatable."),
]
Party = Annotated[str | None, typer.Option(help="One party only; all by default.")]


@app.command()
def delays(
    bench: Bench,
    twin: Twin = None,
    seed: Seed = None,
    use: Use = None,
    out: Out = REGISTRY,
    as_json: Json = False,
) -> None:
    """Find the delay of every tagger channel from the coincidences."""
    _calibrate("delays", bench, None, twin, seed, use, out, as_json)


@app.command()
def bias(
    bench: Bench,
    party: Party = None,
    twin: Twin = None,
    seed: Seed = None,
    use: Use = None,
    out: Out = REGISTRY,
    as_json: Json = False,
) -> None:
    """Find the lowest bias at 99 % of each detector's efficiency plateau."""
    _calibrate("bias", bench, party, twin, seed, use, out, as_json)


@app.command("phase_matching")
def phase_matching(
    bench: Bench,
    twin: Twin = None,
    seed: Seed = None,
    use: Use = None,
    out: Out = REGISTRY,
    as_json: Json = False,
) -> None:
    """Find the crystal temperature of the most pairs."""
    _calibrate("phase_matching", bench, None, twin, seed, use, out, as_json)


@app.command()
def polarization(
    bench: Bench,
    party: Party = None,
    twin: Twin = None,
    seed: Seed = None,
    use: Use = None,
    out: Out = REGISTRY,
    as_json: Json = False,
) -> None:
    """Turn the paddles until the QBER of both bases is least."""
    _calibrate("polarization", bench, party, twin, seed, use, out, as_json)


def _calibrate(
    kind: Kind,
    bench: str,
    party: str | None,
    twin: bool | None,
    seed: int | None,
    use: list[str] | None,
    out: Path,
    as_json: bool,
) -> None:
    from rich.console import Console

    from .bench import load_bench
    from .calibrations import calibrate

    console = Console(stderr=True)
    outcomes = calibrate(
        kind,
        load_bench(bench, twin=twin),
        party=party,
        use=use or (),
        seed=seed,
        registry=out,
        show=lambda stage: console.print(stage, highlight=False, soft_wrap=True),
    )
    if as_json:
        typer.echo(json.dumps([_plain(outcome) for outcome in outcomes], allow_nan=False))
    else:
        for outcome in outcomes:
            typer.echo("\n".join(_lines(kind, outcome)))
    if not all(outcome.ok for outcome in outcomes):
        raise typer.Exit(1)


def _plain(outcome: Outcome) -> dict[str, object]:
    made = outcome.calibration
    return {
        "ok": outcome.ok,
        "reason": outcome.reason,
        "path": None if outcome.path is None else str(outcome.path),
        "calibration": None if made is None else made.model_dump(mode="json", exclude_none=True),
    }


def _lines(kind: str, outcome: Outcome) -> list[str]:
    made = outcome.calibration
    if made is None:
        return [f"{kind} failed: {outcome.reason}"]
    lines = []
    for name, signals in made.values.items():
        lines += [
            f"{name}.{key}  {v.value:.6g} ± {v.sigma:.2g} {v.unit}" for key, v in signals.items()
        ]
    lines += [f"{key}  {v.value:.4g} ± {v.sigma:.2g} {v.unit}" for key, v in made.figures.items()]
    return [
        *(line.rstrip() for line in lines),
        f"valid until {made.expires:%Y-%m-%d %H:%M} UTC",
        f"calibration: {outcome.path}",
    ]
