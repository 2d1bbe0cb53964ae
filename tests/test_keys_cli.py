"""``bellbench keys``: what it prints, what it asks, and what it never shows."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from bellbench.instruments import BellbenchError, ConfigError
from bellbench.keys_cli import NEW_VARIABLE, VARIABLE, app
from bellbench.keystore import KeyStore, KeyStoreError, NotEnoughKeys, UnknownKey
from bellbench.protocols.qkd.sink import key_id
from typer.testing import CliRunner

BLOCK = "ab" * 16 + "/0"
SECRET = bytes(range(256))


def run(*arguments: object, passphrase: str | None = "pw", stdin: str = "") -> str:
    result = CliRunner().invoke(
        app, [str(a) for a in arguments], input=stdin, env={VARIABLE: passphrase}
    )
    if isinstance(result.exception, BellbenchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passphrases that take no time to try, in this process."""
    for function in (KeyStore.create, KeyStore.change_passphrase):
        defaults: Any = function.__kwdefaults__
        assert defaults["cost"] == 17
        monkeypatch.setitem(defaults, "cost", 1)


@pytest.fixture
def stores(tmp_path: Path) -> tuple[Path, Path]:
    """Both ends, with eight keys of a block and a pool."""
    alice, bob = tmp_path / "alice.keys", tmp_path / "bob.keys"
    for path, role, name, peer in (
        (alice, "alice", "Athens", "Berlin"),
        (bob, "bob", "Berlin", "Athens"),
    ):
        side: Any = role
        with KeyStore.create(path, "pw", role=side, name=name, peer=peer, cost=1) as store:
            store.import_pool("first", bytes(32 + 32 * 3))
            store.sink.prepare(BLOCK, SECRET, 32)
            store.sink.commit(BLOCK)
    return alice, bob


def test_from_nothing_to_a_shared_pool(tmp_path: Path) -> None:
    alice, pool = tmp_path / "alice.keys", tmp_path / "pool.json"
    said = run("create", alice, "--role", "alice", "--name", "Athens", "--peer", "Berlin")
    assert said.splitlines() == [
        f"{alice}: Athens (alice) with Berlin, keys of 256 bits, opened by a passphrase",
        "next: bellbench keys import, with a pool that both ends share, or identities",
    ]
    with pytest.raises(ConfigError, match="exists already"):
        run("create", alice, "--role", "alice", "--name", "Athens", "--peer", "Berlin")
    assert "no authentication pool yet" in run("status", alice)
    with pytest.raises(KeyStoreError, match="a pool has 1 to"):
        run("preshare", pool, "--alice", "Athens", "--bob", "Berlin", "--pads", 0)
    said = run("preshare", pool, "--alice", "Athens", "--bob", "Berlin", "--pads", 20)
    content = json.loads(pool.read_text(encoding="utf-8"))
    assert f"pool {content['id']}, 20 pads for each of Athens and Berlin" in said
    assert content["secret"][:20] not in said
    said = run("import", alice, pool)
    assert "20 pads for each end" in said
    assert "destroy it as soon as both ends have imported it" in said
    assert pool.exists()
    with pytest.raises(KeyStoreError, match="used once"):
        run("import", alice, pool, "--erase")
    assert pool.exists()
    assert f"authentication pool {content['id']}:" in run("status", alice)


def test_a_pool_is_erased_when_asked(stores: tuple[Path, Path], tmp_path: Path) -> None:
    pool, other = tmp_path / "pool.json", tmp_path / "hard link"
    run("preshare", pool, "--alice", "Athens", "--bob", "Berlin", "--pads", 1)
    os.link(pool, other)
    size = pool.stat().st_size
    assert "overwritten and deleted" in run("import", stores[1], pool, "--erase")
    assert not pool.exists()
    assert other.read_bytes() == bytes(size)


def test_status(stores: tuple[Path, Path]) -> None:
    run("deliver", stores[0], "--number", 3)
    text = run("status", stores[0], passphrase=None)  # needs none
    assert text.splitlines() == [
        f"{stores[0]}: Athens (alice) with Berlin, keys of 256 bits, opened by a passphrase",
        "  stored, for this side to take               1 keys",
        "  stored, for Berlin to take                  3 keys",
        "  waiting for the peer's word                 0 keys",
        "  delivered of this side's share              3 keys",
        "  delivered by their ids                      0 keys",
        "  discarded                                   0 keys",
        "  left over at the ends of blocks             0 bits",
        "  blocks: 0 prepared, 1 committed, 0 discarded",
        "  authentication pool first:",
        "  pads left for own messages                  4 (0 used)",
        "  pads left for Berlin                        4 (0 used)",
    ]
    found = json.loads(run("status", stores[0], "--json", passphrase=None))
    assert found["stored_own"] == 1
    assert found["stored_bits"] == 4 * 256
    assert found["rehearsal"] is False


def test_both_ends_print_the_same_keys_once(stores: tuple[Path, Path]) -> None:
    alice, bob = stores
    lines = run("deliver", alice, "--number", 2).splitlines()
    expected = [
        f"{key_id(BLOCK, n)}  {base64.b64encode(SECRET[32 + 32 * n : 64 + 32 * n]).decode()}"
        for n in (0, 2)
    ]
    assert lines == expected
    names = [line.split()[0] for line in lines]
    container = json.loads(run("deliver", bob, "--id", names[0], "--id", names[1], "--json"))
    assert [f"{key['key_ID']}  {key['key']}" for key in container["keys"]] == expected
    with pytest.raises(UnknownKey, match="delivered before"):
        run("deliver", bob, "--id", names[0])
    with pytest.raises(KeyStoreError, match="at least 1, not 0"):
        run("deliver", alice, "--number", 0)
    assert run("deliver", alice) != lines[0]
    with pytest.raises(NotEnoughKeys, match="9 keys asked for, 1 stored"):
        run("deliver", alice, "--number", 9)


def test_keys_that_could_not_be_printed_are_named(
    stores: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(typer, "echo", full)
        with pytest.raises(BellbenchError, match=f"spent at this end.*{key_id(BLOCK, 0)}") as error:
            run("deliver", stores[0])
    assert base64.b64encode(SECRET[32:64]).decode() not in str(error.value)


def test_a_rehearsal_says_so(tmp_path: Path) -> None:
    path = tmp_path / "k"
    with KeyStore.create(
        path, "pw", role="alice", name="A", peer="B", rehearsal=True, cost=1
    ) as store:
        store.sink.prepare(BLOCK, SECRET, 0)
        store.sink.commit(BLOCK)
    assert "keys of 256 bits of a rehearsal, no secrets" in run("status", path)
    result = CliRunner().invoke(app, ["deliver", str(path), "--json"], env={VARIABLE: "pw"})
    assert "keys of a rehearsal are no secrets" in result.stderr
    assert len(json.loads(result.stdout)["keys"]) == 1


def test_where_the_passphrase_comes_from(
    stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = stores[0]
    file = tmp_path / "passphrase"
    file.write_text("pw\r\nanother line\n", encoding="utf-8")
    run("deliver", alice, "--passphrase-file", file, passphrase="not this one")
    run("deliver", alice, "--passphrase-file", "-", passphrase=None, stdin="pw\n")
    with pytest.raises(KeyStoreError, match="wrong passphrase"):
        run("deliver", alice, passphrase="wr\u00f6ng")
    with pytest.raises(ConfigError, match=f"no passphrase: set {VARIABLE}"):
        run("deliver", alice, passphrase=None)
    for content, message in (
        (b"\xff\n", "not UTF-8"),
        (b"x" * 5000, "up to 4096 bytes"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            run("deliver", alice, "--passphrase-file", file)
    with pytest.raises(ConfigError, match="cannot be read"):
        run("deliver", alice, "--passphrase-file", tmp_path / "none")
    assert json.loads(run("status", alice, "--json"))["delivered_own"] == 2
    # What this process starts does not inherit it.
    monkeypatch.setenv(VARIABLE, "pw")
    assert CliRunner().invoke(app, ["deliver", str(alice)]).exit_code == 0
    assert VARIABLE not in os.environ


def test_the_passphrase_is_changed(stores: tuple[Path, Path]) -> None:
    alice = stores[0]
    with pytest.raises(ConfigError, match=f"no passphrase: set {NEW_VARIABLE}"):
        run("passphrase", alice)
    with pytest.raises(ConfigError, match="the passphrase is empty"):
        run("passphrase", alice, *both_from_input(), stdin="pw\n\n")
    said = run("passphrase", alice, *both_from_input(), stdin="pw\nnew\n")
    assert said == f"{alice}: opened by the new passphrase from now on\n"
    with pytest.raises(KeyStoreError, match="wrong passphrase"):
        run("deliver", alice)
    run("deliver", alice, passphrase="new")


def both_from_input() -> Sequence[str]:
    return "--passphrase-file", "-", "--new-passphrase-file", "-"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "k", "--role", "eve", "--name", "a", "--peer", "b"], "is alice or bob"),
        (["deliver", "k", "--number", "1", "--id", "x"], "say either --number or --id"),
        (["deliver", "k", "--passphrase", "pw"], "No such option"),
    ],
)
def test_usage(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments, env={VARIABLE: "pw"})
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_at_a_terminal_it_asks_and_does_not_echo(tmp_path: Path) -> None:
    """The real command at a terminal of its own: typed twice, shown never."""
    import pty

    master, slave = pty.openpty()
    code = (  # the first terminal that a session leader opens is its own
        "import os, sys; terminal = os.open(sys.argv.pop(1), os.O_RDWR); os.dup2(terminal, 0);"
        " from bellbench.cli import main; main()"
    )
    create = ["keys", "create", "k", "--role", "bob", "--name", "B", "--peer", "A"]
    with subprocess.Popen(
        [sys.executable, "-c", code, os.ttyname(slave), *create],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    ) as process:
        shown = b""
        deadline = time.monotonic() + 60
        for awaited, typed in (
            (b"new passphrase of k: ", b"open sesame\n"),
            (b"the same again: ", b"open sesame\n"),
            (b"next: bellbench keys import", b""),
        ):
            while awaited not in shown:
                assert select.select([master], [], [], deadline - time.monotonic())[0], shown
                shown += os.read(master, 1000)
            os.write(master, typed)
        assert process.wait(60) == 0
    os.close(master)
    os.close(slave)
    assert b"sesame" not in shown
    KeyStore.open(tmp_path / "k", "open sesame").close()
