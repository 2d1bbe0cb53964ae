"""``bellbench keys``: make a key store, give it a first pool, look into it, take keys out."""

from __future__ import annotations

import base64
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .instruments import BellbenchError, ConfigError

if TYPE_CHECKING:
    from .keystore import Key, KeyStore, StoreStatus

__all__ = ["app", "ask_passphrase", "given_passphrase", "new_passphrase", "open_store"]

VARIABLE = "BELLBENCH_PASSPHRASE"
NEW_VARIABLE = "BELLBENCH_NEW_PASSPHRASE"
_LONGEST = 4096  # bytes of a passphrase

app = typer.Typer(
    help="Keys of one party and one peer: an encrypted store. Passphrases come from"
    f" --passphrase-file, {VARIABLE} or a prompt, never from the command line.",
    no_args_is_help=True,
)

Store = Annotated[Path, typer.Argument(metavar="STORE", help="The key store.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Its first line; - is standard input."),
]
NewPassphraseFile = Annotated[
    Path | None,
    typer.Option("--new-passphrase-file", metavar="FILE", help="Its first line is the new one."),
]
Keyring = Annotated[
    bool, typer.Option("--keyring", help="Open it by the keyring of the operating system.")
]
Rehearsal = Annotated[
    bool, typer.Option("--rehearsal", help="For keys of twins, which are no secrets; only those.")
]


@app.command()
def create(
    store: Store,
    role: Annotated[str, typer.Option(help="alice or bob; the peer's is the other.")],
    name: Annotated[str, typer.Option(help="Name of this party.")],
    peer: Annotated[str, typer.Option(help="Name of the other party.")],
    rehearsal: Rehearsal = False,
    key_size: Annotated[
        int, typer.Option(help="Bits of a key, the same at both ends.", metavar="BITS")
    ] = 256,
    keyring: Keyring = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make an empty store."""
    from .keystore import KeyStore

    if role not in ("alice", "bob"):
        raise typer.BadParameter("is alice or bob", param_hint="--role")
    who: Literal["alice", "bob"] = "alice" if role == "alice" else "bob"
    if store.exists():
        raise ConfigError("exists already", place=str(store))
    secret = None if keyring else new_passphrase(passphrase_file, VARIABLE, str(store))
    made = KeyStore.create(
        store, secret, role=who, name=name, peer=peer, rehearsal=rehearsal, key_size=key_size
    )
    with made:
        typer.echo(_title(made.status()))
    typer.echo("next: bellbench keys import, with a pool that both ends share, or identities")


@app.command()
def preshare(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to.")],
    alice: Annotated[str, typer.Option(help="Name of the party whose role is alice.")],
    bob: Annotated[str, typer.Option(help="Name of the party whose role is bob.")],
    pads: Annotated[int, typer.Option(help="Pads of 16 bytes for the messages of each.")] = 4096,
    rehearsal: Rehearsal = False,
) -> None:
    """Make a first pool of authentication pads for both ends. The file is secret as a whole."""
    from .keystore import write_preshared

    pool = write_preshared(file, alice=alice, bob=bob, pads=pads, rehearsal=rehearsal)
    typer.echo(f"{file}: pool {pool}, {pads} pads for each of {alice} and {bob}")
    typer.echo("carry it to both ends by hand, import it there once, and destroy it")


@app.command("import")
def import_pool(
    store: Store,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Made by bellbench keys preshare.")],
    erase: Annotated[
        bool, typer.Option("--erase", help="Overwrite and delete FILE when it is imported.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Begin a new authentication pool; both ends import the same file, while no party runs.

    What is left of the pool before is destroyed.
    """
    with open_store(store, passphrase_file) as opened:
        pool = opened.import_preshared(file)
        pads = opened.status().pads_own
    typer.echo(f"{store}: pool {pool}, {pads} pads for each end")
    if erase:
        _erase(file)
        typer.echo(f"{file}: overwritten and deleted")
    else:
        typer.echo(f"{file}: destroy it as soon as both ends have imported it")


@app.command()
def status(store: Store, as_json: Json = False) -> None:
    """Say what a store holds and check that it is whole. Needs no passphrase, shows no secret."""
    from .keystore import store_status

    found = store_status(store)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        typer.echo("\n".join(_lines(found)))


@app.command()
def deliver(
    store: Store,
    number: Annotated[
        int | None, typer.Option(help="Take so many keys of this side's share; 1 by default.")
    ] = None,
    key_id: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="ID", help="Take a key that the peer took; repeatable."),
    ] = None,
    as_json: Json = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Print keys, each once: they are overwritten in the store first.

    One line each, the id and the key in base64; with --json as in ETSI GS QKD 014.
    """
    if number is not None and key_id:
        raise typer.BadParameter("say either --number or --id", param_hint="--number")
    with open_store(store, passphrase_file) as opened:
        if key_id:
            keys = opened.deliver_ids(key_id)
        else:
            keys = opened.deliver(1 if number is None else number)
        if opened.rehearsal:
            typer.echo(f"bellbench: {store}: keys of a rehearsal are no secrets", err=True)
    _print_keys(keys, as_json)


@app.command("passphrase")
def change_passphrase(
    store: Store,
    keyring: Keyring = False,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: NewPassphraseFile = None,
) -> None:
    """Change what opens a store. A copy made before still opens as it did."""
    with open_store(store, passphrase_file) as opened:
        new = None if keyring else new_passphrase(new_passphrase_file, NEW_VARIABLE, str(store))
        opened.change_passphrase(new)
    typer.echo(
        f"{store}: opened by {'the keyring' if keyring else 'the new passphrase'} from now on"
    )


def open_store(path: Path, passphrase_file: Path | None = None) -> KeyStore:
    """Open a store with the passphrase from a file, the environment, the keyring or a prompt.

    Args:
        path: The store.
        passphrase_file: Its first line is the passphrase; ``-`` is standard input.

    Raises:
        ConfigError: where there is nobody to ask.
        KeyStoreError: as :meth:`~bellbench.keystore.KeyStore.open`.
    """
    from .keystore import KeyStore
    from .keystore_file import locked_by

    if locked_by(path) == "keyring":
        return KeyStore.open(path)
    secret = given_passphrase(passphrase_file, VARIABLE)
    return KeyStore.open(
        path, ask_passphrase(f"passphrase of {path}: ", VARIABLE) if secret is None else secret
    )


def new_passphrase(file: Path | None, variable: str, place: str) -> str:
    """A passphrase that is not empty, from a file, the environment, or asked for twice.

    Args:
        file: Its first line; ``-`` is standard input.
        variable: Of the environment.
        place: What it is for.
    """
    secret = given_passphrase(file, variable)
    if secret is None:
        secret = ask_passphrase(f"new passphrase of {place}: ", variable)
        if secret != ask_passphrase("the same again: ", variable):
            raise ConfigError("the two passphrases differ", place=place)
    if not secret:
        raise ConfigError("the passphrase is empty", place=place)
    return secret


def given_passphrase(file: Path | None, variable: str) -> str | None:
    """The first line of a file, or what the environment says, which then forgets it."""
    if file is None:
        return os.environ.pop(variable, None)  # so that no child process inherits it
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.readline(_LONGEST + 1)
        else:
            with file.open("rb") as opened:
                data = opened.readline(_LONGEST + 1)
        text = data.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", place=str(file)) from error
    except UnicodeDecodeError:
        raise ConfigError("the passphrase is not UTF-8", place=str(file)) from None
    if len(data) > _LONGEST:
        raise ConfigError(f"a passphrase has up to {_LONGEST} bytes", place=str(file))
    return text


def ask_passphrase(question: str, variable: str) -> str:
    """Ask at the terminal, without an echo."""
    import getpass

    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(f"no passphrase: set {variable}, give a file, or run it in a terminal")
    try:
        return getpass.getpass(question, stream=sys.stderr)
    except (EOFError, OSError) as error:
        raise ConfigError("no passphrase was typed") from error


def _title(found: StoreStatus) -> str:
    kind = " of a rehearsal, no secrets" if found.rehearsal else ""
    return (
        f"{found.path}: {found.name} ({found.role}) with {found.peer}, keys of"
        f" {found.key_size} bits{kind}, opened by {_article(found.locked_by)}"
    )


def _article(lock: str) -> str:
    return "the keyring" if lock == "keyring" else "a passphrase"


def _lines(found: StoreStatus) -> list[str]:
    rows = [
        ("stored, for this side to take", found.stored_own),
        (f"stored, for {found.peer} to take", found.stored_peer),
        ("waiting for the peer's word", found.prepared),
        ("delivered of this side's share", found.delivered_own),
        ("delivered by their ids", found.delivered_peer),
        ("discarded", found.discarded),
    ]
    blocks = ", ".join(f"{number} {state}" for state, number in found.blocks.items())
    lines = [_title(found), *(f"  {what:<32} {number:>12,} keys" for what, number in rows)]
    lines.append(f"  {'left over at the ends of blocks':<32} {found.dropped_bits:>12,} bits")
    lines.append(f"  blocks: {blocks}")
    if found.pool is None:
        lines.append("  no authentication pool yet: bellbench keys import brings one")
    else:
        lines += [
            f"  authentication pool {found.pool}:",
            f"  {'pads left for own messages':<32} {found.pads_own:>12,}"
            f" ({found.pads_used_own:,} used)",
            f"  {f'pads left for {found.peer}':<32} {found.pads_peer:>12,}"
            f" ({found.pads_used_peer:,} used)",
        ]
    return lines


def _print_keys(keys: list[Key], as_json: bool) -> None:
    shown = [(str(key.id), base64.b64encode(key.secret).decode()) for key in keys]
    for key in keys:
        key.wipe()
    try:
        if as_json:
            container = {"keys": [{"key_ID": name, "key": text} for name, text in shown]}
            typer.echo(json.dumps(container))
        else:
            typer.echo("\n".join(f"{name}  {text}" for name, text in shown))
    except OSError as error:
        raise BellbenchError(
            f"the output failed ({error.strerror}): these keys are spent at this end, drop them at"
            f" the other, too: {' '.join(name for name, _ in shown)}"
        ) from error


def _erase(file: Path) -> None:
    try:
        with file.open("r+b") as opened:
            opened.write(bytes(file.stat().st_size))
            opened.flush()
            os.fsync(opened.fileno())
        file.unlink()
    except OSError as error:
        raise BellbenchError(f"{file}: is imported, but cannot be erased: {error}") from error
