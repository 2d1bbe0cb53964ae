"""``bellbench party``: one end of a key exchange over a network; ``identity``: who it is."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .instruments import BellbenchError, ConfigError, parse_quantity
from .keys_cli import (
    VARIABLE,
    ask_passphrase,
    given_passphrase,
    new_passphrase,
    open_store,
)

if TYPE_CHECKING:
    from .keystore import KeyStore
    from .party import PartyConfig
    from .protocols.qkd.authentication import PadSource
    from .protocols.qkd.trust import FirstTrust

__all__ = ["identity", "party"]

COST = 17  # of scrypt, as a power of two


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
    with _store(loaded, passphrase_file) as (store, trust), View(console, title) as view:
        summary = run_party(loaded, store, trust=trust, duration_s=duration, show=view.show)
    if as_json:
        print(json.dumps(asdict(summary), allow_nan=False))
    else:
        console.print(
            f"{summary}; reports: {loaded.reports}",
            soft_wrap=True,
            highlight=False,
        )


@contextlib.contextmanager
def _store(
    config: PartyConfig, passphrase_file: Path | None
) -> Iterator[tuple[KeyStore, FirstTrust | None]]:
    """Open the store, and the identities where the file names them, with one passphrase."""
    from .keystore import KeyStore
    from .keystore_file import locked_by
    from .protocols.qkd.trust import FirstTrust, Identity, PublicIdentity

    secret = given_passphrase(passphrase_file, VARIABLE)
    if secret is None or locked_by(config.store) == "keyring":
        opened = open_store(config.store)
    else:
        opened = KeyStore.open(config.store, secret)
    with opened as store:
        if config.identity is None or config.peer_identity is None:
            yield store, None
            return
        if secret is None:
            secret = ask_passphrase(f"passphrase of {config.identity}: ", VARIABLE)
        try:
            own = Identity.load(config.identity, secret)
            peer = PublicIdentity.load(config.peer_identity)
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}", place=str(error.filename)
            ) from error

        def adopt(pool: str, content: bytes) -> PadSource:
            store.import_pool(pool, content, provisional=True)
            pads = store.pads(store.role)
            assert pads is not None
            return pads

        yield store, FirstTrust(own, peer, adopt)


def identity(
    file: Annotated[Path, typer.Argument(help="Where to; FILE.pub is for the other party.")],
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", metavar="FILE", help="Its first line protects FILE."),
    ] = None,
) -> None:
    """Make an identity for a first trust without a pre-shared pool: a secret and a public file.

    Give the public one to the other party, and compare its fingerprint by telephone.
    """
    from .protocols.qkd.trust import Identity

    public = file.with_name(f"{file.name}.pub")
    for path in (file, public):
        if path.exists():
            raise ConfigError("exists already", place=str(path))
    made = Identity.generate()
    made.save(file, new_passphrase(passphrase_file, VARIABLE, str(file)), cost=COST)
    made.public.save(public)
    typer.echo(f"{file}: secret, keep it here")
    typer.echo(f"{public}: {made.public.fingerprint}")
