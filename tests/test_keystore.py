"""Key stores: every key once, no pad twice, whatever happens; nothing in the clear."""

from __future__ import annotations

import base64
import json
import random
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import keyring
import keyring.backend
import pytest
from bellbench import keystore, keystore_file
from bellbench.instruments import BellbenchError, ProtocolError
from bellbench.keystore import (
    Key,
    KeyStore,
    KeyStoreError,
    NotEnoughKeys,
    UnknownKey,
    store_status,
    write_preshared,
)
from bellbench.protocols.qkd.authentication import MemoryPads, OutOfPads, Role
from bellbench.protocols.qkd.sink import (
    KeySink,
    MemorySink,
    block_tag,
    check_kind,
    key_id,
    split_key_id,
)
from bellbench.protocols.qkd.trust import Established, Handshake, Terms
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

SESSION = "0123456789abcdef" * 2
PASSPHRASE = "correct horse"


def make(path: Path, role: Role = "alice", **options: Any) -> KeyStore:
    names = ("Athens", "Berlin") if role == "alice" else ("Berlin", "Athens")
    made: dict[str, Any] = {"name": names[0], "peer": names[1], "cost": 1} | options
    return KeyStore.create(path, PASSPHRASE, role=role, **made)


def hasty(store: KeyStore) -> KeyStore:
    """Where the power does not fail, the disk need not be waited for."""
    store._connection().execute("PRAGMA synchronous = OFF")
    return store


def block_id(number: int) -> str:
    return f"{SESSION}/{number}"


def pool_bytes(pads: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(32 + 32 * pads)


def split(block: str, key: bytes, reserve: int, size: int = 32) -> list[Key]:
    rest = key[reserve:]
    return [
        Key(key_id(block, n), bytearray(rest[n * size : (n + 1) * size]))
        for n in range(len(rest) // size)
    ]


def pads_of(store: KeyStore) -> keystore.StorePads:
    pads = store.pads(store.role)
    assert pads is not None
    return pads


@pytest.fixture
def alice(tmp_path: Path) -> Iterator[KeyStore]:
    with make(tmp_path / "alice.keys") as store:
        yield store


# Ids.


def test_a_key_id_is_a_uuid_made_of_block_and_position() -> None:
    made = key_id(block_id(7), 12)
    assert made == uuid.UUID("e4800ed2-69be-80ce-8860-92c60000000c")
    assert (made.version, made.variant) == (8, uuid.RFC_4122)


@given(st.text("0123456789abcdef/", min_size=1, max_size=100), st.integers(0, 2**32 - 1))
def test_a_key_id_tells_block_and_position(block: str, position: int) -> None:
    made = key_id(block, position)
    assert split_key_id(made) == (block_tag(block), position)
    assert str(made).endswith(f"{position:08x}")


@given(st.uuids())
def test_other_uuids_are_no_key_ids(other: uuid.UUID) -> None:
    if (other.version, other.variant) != (8, uuid.RFC_4122):
        with pytest.raises(ValueError, match="not the id of a key"):
            split_key_id(other)


@pytest.mark.parametrize("position", [-1, 2**32])
def test_positions_have_32_bits(position: int) -> None:
    with pytest.raises(ValueError, match="32-bit"):
        key_id(block_id(0), position)


# Against plain dictionaries.


class StoreMachine(RuleBasedStateMachine):
    """A store, the sink and the pads in memory, and what should be deliverable."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.files = 0

    @initialize(role=st.sampled_from(["alice", "bob"]))
    def begin(self, role: Role) -> None:
        self.role = role
        self.share = 0 if self.role == "alice" else 1
        self.store = hasty(make(self.folder / "0.keys", self.role, key_size=128))
        self.memory = MemorySink(append=lambda reserve: self.pads.extend(reserve))
        self.keys: dict[str, list[Key]] = {}
        self.taken: set[uuid.UUID] = set()
        self.blocks = 0
        self.pools = 0
        self.of_pool: dict[str, int] = {}
        self.new_pool(2)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.folder)

    @rule(pairs=st.integers(1, 3))
    def new_pool(self, pairs: int) -> None:
        self.pools += 1
        secret = pool_bytes(pairs, self.pools)
        name = f"pool {self.pools}"
        self.store.import_pool(name, secret, provisional=pairs == 1)
        self.pads = MemoryPads(secret, self.role, pool_id=name, provisional=pairs == 1)
        self.ours = pads_of(self.store)
        with pytest.raises(KeyStoreError, match="used once"):
            self.store.import_pool(name, secret)

    @rule(pairs=st.integers(0, 3), size=st.integers(0, 100))
    def prepare(self, pairs: int, size: int) -> None:
        block = block_id(self.blocks)
        self.blocks += 1
        key = random.Random(self.blocks).randbytes(32 * pairs + size)
        self.of_pool[block] = self.pools
        self.keys[block] = split(block, key, 32 * pairs, 16)
        self.store.sink.prepare(block, key, 32 * pairs)
        self.memory.prepare(block, key, 32 * pairs)

    @rule(data=st.data(), what=st.sampled_from(["prepare", "commit", "discard"]))
    def again(self, data: st.DataObject, what: str) -> None:
        """Any step with any block: both sinks do the same or refuse with the same words."""
        block = block_id(data.draw(st.integers(0, self.blocks)))
        if self.of_pool.get(block) != self.pools and what == "commit":
            waiting = self.memory._waiting.get(block)  # its reserve went with the pool
            if waiting is not None:
                self.memory._waiting[block] = waiting[0][waiting[1] :], 0
        answers = []
        sinks: list[KeySink] = [self.store.sink, self.memory]
        for sink in sinks:
            try:
                if what == "prepare" and sink.state(block) != "unknown":
                    sink.prepare(block, bytes(32), 0)
                elif what == "commit":
                    sink.commit(block)
                else:
                    sink.discard(block)
                answers.append("")
            except ProtocolError as error:
                answers.append(str(error))
        assert answers[0] == answers[1]

    def deliverable(self, share: int) -> list[Key]:
        order = self.memory.committed(self.keys)
        return [
            key
            for block in order
            for n, key in enumerate(self.keys[block])
            if n % 2 == share and key.id not in self.taken
        ]

    @rule(number=st.integers(1, 4))
    def deliver(self, number: int) -> None:
        expected = self.deliverable(self.share)[:number]
        if len(expected) < number:
            with pytest.raises(NotEnoughKeys):
                self.store.deliver(number)
        else:
            assert self.store.deliver(number) == expected
            self.taken |= {key.id for key in expected}

    @precondition(lambda self: self.blocks)
    @rule(data=st.data())
    def deliver_ids(self, data: st.DataObject) -> None:
        everything = [key.id for keys in self.keys.values() for key in keys]
        free = {key.id: key for key in self.deliverable(1 - self.share)}
        good = st.sampled_from(sorted(free)) if free else st.nothing()
        bad = st.sampled_from(everything) if everything else st.nothing()
        unknown = st.just(key_id(block_id(10**6), 0))
        picked = data.draw(st.lists(good | good | bad | unknown, min_size=1, max_size=3))
        if len(set(picked)) == len(picked) and free.keys() >= set(picked):
            assert self.store.deliver_ids(picked) == [free[name] for name in picked]
            self.taken |= set(picked)
        else:
            with pytest.raises(UnknownKey):
                self.store.deliver_ids(map(str, picked))

    def same(self, act: Callable[[Any], Any]) -> None:
        answers: list[Any] = []
        for pads in (self.ours, self.pads):
            try:
                answers.append(act(pads))
            except ProtocolError as error:
                answers.append(type(error))
        assert answers[0] == answers[1]

    @rule()
    def draw(self) -> None:
        self.same(lambda pads: pads.draw())

    @rule(index=st.integers(0, 12))
    def peer(self, index: int) -> None:
        self.same(lambda pads: pads.peer(index))

    @rule(own=st.integers(0, 12), peer=st.integers(0, 12))
    def skip(self, own: int, peer: int) -> None:
        self.same(lambda pads: pads.skip(own, peer))

    @rule(crash=st.booleans())
    def reopen(self, crash: bool) -> None:
        self.files += 1
        path = self.folder / f"{self.files}.keys"
        if crash:  # what another process sees of the files while this one is in the middle of life
            snapshot(self.store.path, path)
        self.store.close()
        if not crash:
            self.store.path.rename(path)
        self.store = hasty(KeyStore.open(path, PASSPHRASE))
        self.ours = pads_of(self.store)

    @invariant()
    def agrees(self) -> None:
        sink, status = self.store.sink, self.store.status()
        states: list[str] = [self.memory.state(block) for block in self.keys]
        assert [sink.state(block) for block in self.keys] == states
        assert sink.prepared() == self.memory.prepared()
        assert sink.commits == self.memory.commits
        assert sink.committed(self.keys) == self.memory.committed(self.keys)
        assert self.ours.position == self.pads.position
        assert self.ours.remaining == self.pads.remaining
        assert (self.ours.pool_id, self.ours.filter_key) == (
            self.pads.pool_id,
            self.pads.filter_key,
        )
        assert self.ours.provisional == self.pads.provisional
        assert (status.pads_own, status.pads_peer) == self.pads.remaining
        assert (status.pads_used_own, status.pads_used_peer) == self.pads.position
        assert status.blocks == {x: states.count(x) for x in status.blocks}
        assert status.stored_own == len(self.deliverable(self.share))
        assert status.stored_peer == len(self.deliverable(1 - self.share))
        assert status.delivered_own + status.delivered_peer == len(self.taken)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def snapshot(source: Path, to: Path) -> None:
    """What a killed process leaves: file and log as they are at this moment."""
    for suffix in ("", "-wal"):
        if Path(f"{source}{suffix}").exists():
            shutil.copy(f"{source}{suffix}", f"{to}{suffix}")


# Crashes.


@contextmanager
def opened_by_either(path: Path) -> Iterator[tuple[str, KeyStore]]:
    try:
        passphrase, store = PASSPHRASE, KeyStore.open(path, PASSPHRASE)
    except KeyStoreError:
        passphrase, store = "another", KeyStore.open(path, "another")
    with store:
        yield passphrase, store


def contents(path: Path) -> dict[str, Any]:
    """All that can ever come out of a store, by taking it out of a copy."""
    with opened_by_either(path) as (passphrase, store):
        hasty(store)
        status = store.status()
        pads = store.pads("alice")
        found: dict[str, Any] = {
            "passphrase": passphrase,
            "states": [store.sink.state(block_id(n)) for n in range(4)],
            "order": store.sink.committed(map(block_id, range(4))),
            "delivered": (status.delivered_own, status.delivered_peer),
            "pool": status.pool,
            "pads": pads and [pads.draw() for _ in range(pads.remaining[0])],
            "peer's": pads and [pads.peer(pads.position[1]) for _ in range(pads.remaining[1])],
            "own": [(x.id, x.secret) for x in store.deliver(status.stored_own)]
            if status.stored_own
            else [],
        }
        found["by id"] = []
        for name in (key_id(block, n) for block in found["order"] for n in range(1, 8, 2)):
            with suppress(UnknownKey):
                found["by id"] += [(x.id, x.secret) for x in store.deliver_ids([name])]
    return found


def test_killed_at_any_statement_a_step_is_done_or_not_done(tmp_path: Path) -> None:
    """At every statement, and with every part of the log written, the store opens and is whole.

    Each is the state that kill -9 leaves at that moment. What comes out of the store then is what
    came out before the step, or what comes out after it; after a step has returned, the latter.
    """
    path = tmp_path / "alice.keys"
    store = make(path)
    gone: list[uuid.UUID] = []
    spent: list[tuple[int, bytes]] = []
    keys = [random.Random(n).randbytes(64 + 32 * 7 + 5) for n in range(4)]
    steps: list[Callable[[], object]] = [
        lambda: store.import_pool("one", pool_bytes(2)),
        lambda: store.sink.prepare(block_id(0), keys[0], 64),
        lambda: store.sink.prepare(block_id(1), keys[1], 0),
        lambda: store.sink.commit(block_id(1)),
        lambda: store.sink.commit(block_id(0)),
        lambda: gone.extend(x.id for x in store.deliver(5)),
        lambda: gone.extend(x.id for x in store.deliver_ids([key_id(block_id(1), 3)])),
        lambda: spent.append(pads_of(store).draw()),
        lambda: pads_of(store).peer(1),
        lambda: store.sink.prepare(block_id(2), keys[2], 32),
        lambda: store.sink.discard(block_id(2)),
        lambda: pads_of(store).skip(2, 3),
        lambda: store.sink.prepare(block_id(3), keys[3], 32),
        lambda: store.change_passphrase("another", cost=1),
        lambda: store.import_pool("two", pool_bytes(1, 1)),
        lambda: store.sink.commit(block_id(3)),
    ]
    known: dict[tuple[bytes, bytes], dict[str, Any]] = {}

    def take() -> tuple[bytes, bytes]:
        log = Path(f"{path}-wal")
        return path.read_bytes(), log.read_bytes() if log.exists() else b""

    def opened(files: tuple[bytes, bytes]) -> dict[str, Any]:
        if files not in known:
            copy = tmp_path / f"{len(known)}.keys"
            copy.write_bytes(files[0])
            Path(f"{copy}-wal").write_bytes(files[1])
            known[files] = contents(copy)
        return known[files]

    def watch(states: list[tuple[bytes, bytes]], statement: str) -> None:
        states.append(take())

    last = take()
    for step in steps:
        assert store._db is not None
        during = [last]
        store._db.set_trace_callback(partial(watch, during))
        step()
        store._db.set_trace_callback(None)
        before, last = last, take()
        assert opened(last) != opened(before)
        # Within the commit: any part of the log is there, of the page that comes first at last.
        file, log = max((*during, last), key=lambda files: len(files[1]))
        cuts = range(len(before[1]), len(log), 2048)
        during += [(file, log[:cut]) for cut in cuts]
        # Within the checkpoint: some pages are written, the log is still all there.
        during += [(last[0][:cut] + file[cut:], log) for cut in range(0, len(last[0]), 8192)]
        assert all(opened(files) in (opened(before), opened(last)) for files in during)

        left = [name for name, _ in opened(last)["own"] + opened(last)["by id"]]
        assert not set(left) & set(gone)
        assert opened(last)["pool"] != "one" or not set(opened(last)["pads"]) & set(spent)
    store.close()
    assert len(known) > 100
    end = opened(last)
    assert end["states"] == ["committed", "committed", "discarded", "committed"]
    assert end["order"] == [block_id(1), block_id(0), block_id(3)]
    assert len(gone) == 6
    assert len(spent) == 1


LIFE = """
import random, sys
from bellbench.keystore import KeyStore
with KeyStore.open(sys.argv[1], "correct horse") as store:
    sink, pads = store.sink, store.pads("alice")
    number = 1 + max((int(b.split("/")[1]) for b in sys.argv[2].split()), default=-1)
    while True:
        block = f"{'0123456789abcdef' * 2}/{number}"
        sink.prepare(block, random.Random(number).randbytes(64 + 8 * 32), 64)
        print("prepared", block, flush=True)
        sink.commit(block)
        print("committed", block, flush=True)
        for key in store.deliver(2):
            print("delivered", key.id, flush=True)
        print("pad", pads.draw()[0], flush=True)
        number += 1
"""


def test_kill_9_loses_no_key_and_gives_none_twice(tmp_path: Path) -> None:
    """A process is killed in the middle of its life, some times; every word of it stays true."""
    path = tmp_path / "alice.keys"
    with make(path) as store:
        store.import_pool("pool", pool_bytes(200))
    said: list[tuple[str, str]] = []
    kills = (3, 17, 46)
    for lines in kills:
        blocks = " ".join({what for word, what in said if word == "prepared"})
        with subprocess.Popen(
            [sys.executable, "-c", LIFE, str(path), blocks], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                word, what = process.stdout.readline().split()
                said.append((word, what))
            process.kill()
            # It went on a little between the last line that was read and its end.
            said += [(w, x) for w, x in (line.split() for line in process.stdout)]

    words = {word: [x for w, x in said if w == word] for word in ("committed", "delivered", "pad")}
    assert len(set(words["pad"])) == len(words["pad"])
    assert len(set(words["delivered"])) == len(words["delivered"])
    with KeyStore.open(path, PASSPHRASE) as store:  # and the lock of the dead is free
        sink, status = store.sink, store.status()
        assert sink.committed(words["committed"]) == words["committed"]
        assert pads_of(store).position[0] > max(map(int, words["pad"]))
        every = [key_id(block, n) for block in words["committed"] for n in range(0, 8, 2)]
        left = [key.id for key in store.deliver(status.stored_own)]
        assert not set(map(str, left)) & set(words["delivered"])
        lost = set(every) - set(left) - set(map(uuid.UUID, words["delivered"]))
        assert len(lost) <= 2 * len(kills)  # marked as delivered, killed before it could say so
        assert status.delivered_own <= len(words["delivered"]) + 2 * len(kills)


TAKER = """
import sys
from bellbench.keystore import KeyStore
with KeyStore.open(sys.argv[1], "correct horse") as store:
    for _ in range(15):
        print(store.deliver()[0].id, flush=True)
"""


def test_several_processes_deliver_while_a_party_runs(tmp_path: Path) -> None:
    path = tmp_path / "alice.keys"
    with make(path) as store:
        store.sink.prepare(block_id(0), secrets.token_bytes(60 * 32), 0)
        store.sink.commit(block_id(0))
        takers = [
            subprocess.Popen(
                [sys.executable, "-c", TAKER, str(path)], stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        blocks = 1
        while any(taker.poll() is None for taker in takers):
            store.sink.prepare(block_id(blocks), secrets.token_bytes(64), 0)
            store.sink.commit(block_id(blocks))
            blocks += 1
        outputs = [taker.communicate()[0].split() for taker in takers]
        assert [taker.returncode for taker in takers] == [0, 0]
        assert {*outputs[0], *outputs[1]} == {str(key_id(block_id(0), 2 * n)) for n in range(30)}
        assert store.status().stored_own == blocks - 1
        store.sink.prepare("last", b"", 0)  # the file is whole
    KeyStore.open(path, PASSPHRASE).close()


def test_one_party_at_a_time(alice: KeyStore) -> None:
    alice.import_pool("pool", pool_bytes(1))
    with KeyStore.open(alice.path, PASSPHRASE) as other:
        calls: list[Callable[[], object]] = [
            lambda: other.sink,
            lambda: other.pads("alice"),
            lambda: other.import_pool("other", pool_bytes(1)),
        ]
        for call in calls:
            with pytest.raises(KeyStoreError, match="a party is running on this store"):
                call()
        assert other.status().pads_own == 1
        alice.close()
        other.sink.prepare("block", b"", 0)
    with pytest.raises(KeyStoreError, match="closed"):
        alice.status()


def test_another_writer_that_never_ends_is_told(
    alice: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystore_file, "_WAIT_S", 0.05)
    with KeyStore.open(alice.path, PASSPHRASE) as other, alice._write():
        with pytest.raises(KeyStoreError, match=r"another process has been writing for 0\.05 s"):
            other.deliver()
        assert other.status().stored_own == 0  # looking needs no turn


def test_every_step_waits_for_the_disk(alice: KeyStore) -> None:
    db = alice._connection()
    asked = ("journal_mode", "synchronous", "fullfsync", "checkpoint_fullfsync", "secure_delete")
    assert [db.execute(f"PRAGMA {x}").fetchone()[0] for x in asked] == ["wal", 2, 1, 1, 1]


def test_a_full_disk_changes_nothing(alice: KeyStore) -> None:
    alice.sink.prepare("first", bytes(100), 0)
    db = alice._connection()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(KeyStoreError, match="cannot be read or written: database or disk is full"):
        alice.sink.prepare("second", bytes(10**5), 0)
    assert alice.sink.prepared() == ["first"]
    assert alice.sink.state("second") == "unknown"
    alice.sink.commit("first")
    assert len(alice.deliver(2)) == 2


# Secrets.


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_nothing_secret_is_in_any_file(tmp_path: Path) -> None:
    store = make(tmp_path / "alice.keys")
    pool, key = secrets.token_bytes(32 + 32 * 3), secrets.token_bytes(32 * 8)
    store.import_pool("pool", pool)
    store.sink.prepare("block", key, 64)
    data_key = bytes(store._key)
    for moment in ("prepared", "committed", "closed"):
        if moment == "committed":
            store.sink.commit("block")
        elif moment == "closed":
            store.close()
        found = everything_in(tmp_path)
        assert b"pool" in found
        assert b"block" in found
        for secret in (pool, key, data_key):
            for begin in range(0, len(secret), 8):
                assert secret[begin : begin + 8] not in found
        assert PASSPHRASE.encode() not in found
    assert not any(store._key)


def test_what_has_left_is_overwritten(alice: KeyStore, tmp_path: Path) -> None:
    """Not even the encrypted record stays in the file or its log."""
    alice.import_pool("pool", pool_bytes(3))
    alice.sink.prepare("block", secrets.token_bytes(32 * 6), 0)
    alice.sink.prepare("bad", secrets.token_bytes(32 * 6), 64)
    alice.sink.commit("block")
    db = alice._connection()
    query = "SELECT secret FROM keys UNION ALL SELECT secret FROM pads"
    before = {secret for (secret,) in db.execute(query)}
    assert len(before) == 6 + 4 + 2 * (3 + 2)
    pads = pads_of(alice)
    pads.draw()
    pads.peer(1)
    alice.sink.discard("bad")
    alice.deliver(2)
    alice.deliver_ids([key_id("block", 1)])
    kept = {secret for (secret,) in db.execute(query)}
    assert len(kept) == 6 - 3 + 2 * 3 - 3
    found = everything_in(tmp_path)
    assert all((secret in found) == (secret in kept) for secret in before)
    alice.import_pool("next", pool_bytes(1, 1))
    found = everything_in(tmp_path)
    assert len([secret for secret in before if secret in found]) == 3


def test_no_secret_is_shown(alice: KeyStore) -> None:
    key, pool = bytes(range(32)) * 2, pool_bytes(1)
    alice.import_pool("pool", pool)
    alice.sink.prepare("block", key, 0)
    alice.sink.commit("block")
    shown = [repr(alice), repr(alice.sink), repr(pads_of(alice)), repr(alice.status())]
    taken = alice.deliver()
    shown += [repr(taken), str(taken[0])]
    assert bytes(taken[0].secret) == key[:32]
    taken[0].wipe()
    assert taken[0].secret == bytes(32)
    for call in (
        lambda: alice.sink.prepare("block", key, 0),
        lambda: alice.sink.prepare("other", key, 7),
        lambda: alice.import_pool("pool", pool),
        lambda: alice.import_pool("odd", pool + b"1"),
        lambda: KeyStore.open(alice.path, "an open secret"),
    ):
        with pytest.raises(BellbenchError) as caught:
            call()
        shown.append(str(caught.value))
    for text in shown:
        for secret in (key[:8], key[24:32], pool[:8], pool[40:48]):
            assert secret.hex() not in text
            assert str(secret)[2:-1] not in text
            assert base64.b64encode(secret[:6]).decode() not in text
        assert PASSPHRASE not in text
        assert "open secret" not in text


def test_the_passphrase(alice: KeyStore) -> None:
    alice.sink.prepare("block", bytes(32), 0)
    for wrong in ("", "Correct horse", PASSPHRASE + " "):
        with pytest.raises(KeyStoreError, match="wrong passphrase"):
            KeyStore.open(alice.path, wrong)
    with pytest.raises(KeyStoreError, match="needs its passphrase"):
        KeyStore.open(alice.path)
    with pytest.raises(KeyStoreError, match="is empty"):
        alice.change_passphrase("")
    alice.change_passphrase("gr\u00fcn", cost=2)
    alice.sink.commit("block")
    with pytest.raises(KeyStoreError, match="wrong passphrase"):
        KeyStore.open(alice.path, PASSPHRASE)
    with KeyStore.open(alice.path, "gru\u0308n") as other:  # as macOS would write it
        assert other.deliver()[0].secret == bytes(32)


class Memory(keyring.backend.KeyringBackend):
    """A keyring of the operating system, without one."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.held[service, username]


@pytest.fixture
def ring() -> Iterator[Memory]:
    before, now = keyring.get_keyring(), Memory()
    keyring.set_keyring(now)
    yield now
    keyring.set_keyring(before)


def test_the_keyring(tmp_path: Path, ring: Memory) -> None:
    path = tmp_path / "k"
    KeyStore.create(path, None, role="bob", name="B", peer="A", cost=1).close()
    (first,) = ring.held.values()
    assert len(first) == 64
    with pytest.raises(KeyStoreError, match="not by a passphrase"):
        KeyStore.open(path, "a passphrase")
    with KeyStore.open(path) as store:
        assert store.status().locked_by == "keyring"
        store.change_passphrase(None, cost=1)  # another secret
        assert len(ring.held) == 1
        assert first not in ring.held.values()
        KeyStore.open(path).close()
        store.change_passphrase(PASSPHRASE, cost=1)
        assert not ring.held
        assert store.status().locked_by == "passphrase"
        store.change_passphrase(None, cost=1)
    ring.held.clear()
    with pytest.raises(KeyStoreError, match="does not hold its secret"):
        KeyStore.open(path)


def test_no_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "k"
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(KeyStoreError, match=r"pip install 'bellbench\[keyring\]'"):
        KeyStore.create(path, None, role="bob", name="B", peer="A", cost=1)
    monkeypatch.undo()
    assert not path.exists()
    from keyring.backends.fail import Keyring

    before = keyring.get_keyring()
    keyring.set_keyring(Keyring())  # type: ignore[no-untyped-call]
    try:
        with pytest.raises(KeyStoreError, match="refuses: No recommended backend"):
            KeyStore.create(path, None, role="bob", name="B", peer="A", cost=1)
    finally:
        keyring.set_keyring(before)
    assert not path.exists()


# Files that are not as they were.


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store with two committed blocks and one prepared, and a pool."""
    path = tmp_path_factory.mktemp("filled") / "alice.keys"
    with make(path) as store:
        store.import_pool("pool", pool_bytes(3))
        for n in range(3):
            store.sink.prepare(block_id(n), random.Random(n).randbytes(32 * 9), 32)
            if n < 2:
                store.sink.commit(block_id(n))
    return path


@settings(max_examples=60)
@given(place=st.integers(0, 2**32), change=st.integers(1, 255))
def test_a_changed_byte_gives_no_other_key(filled: Path, place: int, change: int) -> None:
    """One clear error, or what was put in; never another key or pad, or another exception."""
    data = bytearray(filled.read_bytes())
    data[place % len(data)] ^= change
    good = {
        x.id: x.secret
        for n in range(2)
        for x in split(block_id(n), random.Random(n).randbytes(288), 32)
    }
    pads = MemoryPads(
        pool_bytes(3) + b"".join(random.Random(n).randbytes(32) for n in range(2)), "alice"
    )
    right = [pads.draw() for _ in range(5)]
    said = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alice.keys"
        path.write_bytes(data)
        try:
            with KeyStore.open(path, PASSPHRASE) as store:
                hasty(store)
                for _ in range(store.status().stored_own):
                    for key in store.deliver():
                        assert good[key.id] == key.secret
                ours = store.pads("alice")
                assert ours is not None
                while ours.remaining[0]:
                    assert ours.draw() in right
        except KeyStoreError as error:
            said = str(error)
        assert not said or str(path) in said


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE header SET rehearsal = 1", "wrong passphrase, or the file's header was changed"),
        ("UPDATE header SET role = 'bob'", "the file's header was changed"),
        ("UPDATE header SET peer = 'Bonn'", "the file's header was changed"),
        ("UPDATE header SET role = 'eve'", "damaged: its header makes no sense"),
        ("UPDATE header SET cost = 40", "damaged: its header makes no sense"),
        ("UPDATE header SET wrapped = 'x'", "damaged: its header makes no sense"),
        ("DELETE FROM header", "damaged: its header makes no sense"),
        ("DELETE FROM keys WHERE position = 3 AND block = 1", "damaged: keys are missing"),
        ("DELETE FROM blocks WHERE number = 2", "damaged: keys belong to no block"),
        ("UPDATE blocks SET state = 'prepared'", "damaged: the states of blocks contradict"),
        ("UPDATE blocks SET committed = 9 WHERE number = 2", "a committed block is missing"),
        ("UPDATE blocks SET id = 'other' WHERE number = 1", "the id of a block was changed"),
        ("UPDATE keys SET secret = 'text'", "a field is not of its type"),
        ("UPDATE pools SET next1 = 'x'", "a field is not of its type"),
        ("UPDATE header SET name = CAST(x'ff' AS TEXT)", "text in it is not UTF-8"),
        ("DELETE FROM pads WHERE place = 1", "damaged: authentication pads are missing"),
        ("UPDATE pools SET next0 = 1", "damaged: authentication pads are missing"),
        ("UPDATE segments SET length = 9", "damaged: authentication pads are missing"),
        (
            "CREATE TRIGGER leak BEFORE DELETE ON keys BEGIN SELECT 1; END",
            "damaged: its tables are not as they were made",
        ),
        ("PRAGMA user_version = 2", "has version 2, this Bellbench reads version 1"),
        ("PRAGMA application_id = 0", "is not a key store"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    filled: Path, tmp_path: Path, sql: str, message: str
) -> None:
    path = tmp_path / "alice.keys"
    shutil.copy(filled, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(sql)
    with pytest.raises(KeyStoreError, match=message):
        KeyStore.open(path, PASSPHRASE)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE keys SET secret = (SELECT k.secret FROM keys AS k WHERE k.block = 1 AND"
        " k.position = 2) WHERE block = 1 AND position = 0",
        "UPDATE keys SET secret = (SELECT k.secret FROM keys AS k WHERE k.block = 2 AND"
        " k.position = 0) WHERE block = 1 AND position = 0",
        "UPDATE keys SET secret = (SELECT p.secret FROM pads AS p) WHERE block = 1",
        "UPDATE keys SET secret = x'' WHERE block = 1",
        "UPDATE blocks SET salt = x'00' WHERE number = 1",
    ],
)
def test_a_record_in_another_place_does_not_decrypt(filled: Path, tmp_path: Path, sql: str) -> None:
    path = tmp_path / "alice.keys"
    shutil.copy(filled, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(sql)
    with KeyStore.open(path, PASSPHRASE) as store:
        before = store.status()
        with pytest.raises(KeyStoreError, match="a record does not decrypt"):
            store.deliver()
        assert store.status() == before


@pytest.mark.parametrize("size", [0, 1, 100, 4096, 20_000])
def test_a_file_cut_short_is_no_store(filled: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "alice.keys"
    path.write_bytes(filled.read_bytes()[:size])
    with pytest.raises(KeyStoreError, match=r"alice.keys: .*(damaged|is not a key store)"):
        KeyStore.open(path, PASSPHRASE)
    assert path.read_bytes() == filled.read_bytes()[:size]  # looked at, not touched


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="no such key store"):
        KeyStore.open(tmp_path / "none", PASSPHRASE)
    with pytest.raises(KeyStoreError, match="no such key store"):
        KeyStore.open(tmp_path, PASSPHRASE)
    text = tmp_path / "notes.txt"
    text.write_text("x" * 5000, encoding="utf-8")
    with pytest.raises(KeyStoreError, match="file is not a database"):
        KeyStore.open(text, PASSPHRASE)
    with pytest.raises(KeyStoreError, match="exists already"):
        make(text)
    assert text.read_text(encoding="utf-8") == "x" * 5000
    other = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE a (b)")
    before = other.read_bytes()
    with pytest.raises(KeyStoreError, match="is not a key store"):
        KeyStore.open(other, PASSPHRASE)
    assert other.read_bytes() == before
    assert sorted(x.name for x in tmp_path.iterdir()) == ["notes.txt", "other.sqlite"]


# What does not belong together.


def test_real_keys_and_rehearsals_do_not_mix(tmp_path: Path) -> None:
    with make(tmp_path / "r", rehearsal=True) as store, make(tmp_path / "k") as real:
        for sink in (store.sink, MemorySink(rehearsal=True)):
            check_kind(sink, rehearsal=True)
            with pytest.raises(ProtocolError, match="for rehearsals only"):
                check_kind(sink, rehearsal=False)
        for sink in (real.sink, MemorySink(rehearsal=False)):
            check_kind(sink, rehearsal=False)
            with pytest.raises(ProtocolError, match="the key store is for real keys"):
                check_kind(sink, rehearsal=True)


def test_a_preshared_pool_is_for_two_parties_of_one_kind(tmp_path: Path) -> None:
    file = tmp_path / "pool.json"
    pool = write_preshared(file, alice="Athens", bob="Berlin", pads=3)
    with pytest.raises(KeyStoreError, match="exists already"):
        write_preshared(file, alice="Athens", bob="Berlin")
    with make(tmp_path / "a") as alice, make(tmp_path / "b", "bob") as bob:
        assert alice.import_preshared(file) == bob.import_preshared(file) == pool
        ours, theirs = pads_of(alice), pads_of(bob)
        assert ours.filter_key == theirs.filter_key
        for _ in range(3):
            for one, other in ((ours, theirs), (theirs, ours)):
                index, pad = one.draw()
                assert other.peer(index) == pad
        with pytest.raises(OutOfPads):
            ours.draw()
        with pytest.raises(KeyStoreError, match="used once"):
            alice.import_preshared(file)
        old = ours
        alice.import_pool("next", pool_bytes(1))
        with pytest.raises(OutOfPads, match="was replaced"):
            old.draw()
    with make(tmp_path / "c", peer="Bonn") as store:
        with pytest.raises(KeyStoreError, match=r"is for bob = Berlin, the store .* bob = Bonn"):
            store.import_preshared(file)
        assert store.pads("alice") is None
        with pytest.raises(ProtocolError, match="there is no pool to append a reserve to"):
            store.sink.prepare("block", bytes(32), 32)
        with pytest.raises(KeyStoreError, match="is alice's store, not bob's"):
            store.pads("bob")
    with (
        make(tmp_path / "d", rehearsal=True) as store,
        pytest.raises(KeyStoreError, match="for rehearsal = False"),
    ):
        store.import_preshared(file)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 100_000, '{"format": "bellbench pool 1"}', "\0", '{"secret": 1}'],
)
def test_a_pool_file_of_somebody_else(alice: KeyStore, tmp_path: Path, text: str) -> None:
    file = tmp_path / "pool.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(KeyStoreError, match="is not a pool made by bellbench keys preshare"):
        alice.import_preshared(file)


def test_a_damaged_pool_file_shows_nothing(alice: KeyStore, tmp_path: Path) -> None:
    file = tmp_path / "pool.json"
    write_preshared(file, alice="Athens", bob="Berlin", pads=1)
    content = json.loads(file.read_text(encoding="utf-8"))
    secret = content["secret"]
    for damaged, message in ((secret[:-5], "is damaged"), ("?" + secret[1:], "is damaged")):
        file.write_text(json.dumps(content | {"secret": damaged}), encoding="utf-8")
        with pytest.raises(KeyStoreError, match=message) as caught:
            alice.import_preshared(file)
        assert secret[5:15] not in str(caught.value)
        assert caught.value.__suppress_context__
    file.write_text(json.dumps(content | {"secret": secret[:80]}), encoding="utf-8")
    with pytest.raises(KeyStoreError, match="not 60 bytes"):
        alice.import_preshared(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": "eve"}, "a role is alice or bob"),
        ({"name": ""}, "1 to 64 printable"),
        ({"peer": "a\nb"}, "1 to 64 printable"),
        ({"peer": "Athens"}, "both parties are called Athens"),
        ({"key_size": 100}, "multiple of 8"),
        ({"key_size": 0}, "64 to 65536 bits"),
        ({"cost": 0}, "the cost must be"),
        ({"cost": 30}, "the cost must be"),
    ],
)
def test_a_store_that_makes_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KeyStoreError, match=message):
        make(tmp_path / "k", **changes)
    assert not (tmp_path / "k").exists()


def test_sinks_refuse_what_makes_no_sense(alice: KeyStore) -> None:
    alice.import_pool("pool", pool_bytes(1))
    sinks: list[KeySink] = [alice.sink, MemorySink()]
    for sink in sinks:
        for block in ("", "x" * 101, "a\nb", "ä"):
            with pytest.raises(ProtocolError, match="a block id is 1 to 100"):
                sink.prepare(block, bytes(32), 0)
        for reserve in (-32, 1, 64):
            with pytest.raises(ProtocolError, match="multiple of 32"):
                sink.prepare("block", bytes(32), reserve)
    with pytest.raises(ProtocolError, match="too long"):
        alice.sink.prepare("block", bytes(2**26 + 1), 0)
    memory = MemorySink()
    memory.prepare("block", b"abc", 0)
    with pytest.raises(ProtocolError, match="has no key: it is prepared"):
        memory.key("block")
    memory.commit("block")
    assert memory.key("block") == b"abc"
    for number in (0, -1):
        with pytest.raises(KeyStoreError, match="at least 1"):
            alice.deliver(number)
    with pytest.raises(KeyStoreError, match="no key ids"):
        alice.deliver_ids([])


def test_why_a_key_is_not_delivered_by_its_id(alice: KeyStore) -> None:
    for n in range(3):
        alice.sink.prepare(block_id(n), bytes(32 * 4 + 31), 0)
    alice.sink.commit(block_id(0))
    alice.sink.discard(block_id(2))
    alice.deliver_ids([key_id(block_id(0), 1)])
    for name, message in (
        (key_id(block_id(0), 1), "was delivered before"),
        (key_id(block_id(0), 2), "is alice's to take"),
        (key_id(block_id(0), 5), "has no key"),
        (key_id(block_id(1), 1), "waits for the other side's confirmation; try again"),
        (key_id(block_id(2), 1), "was discarded"),
        (key_id(block_id(9), 1), "has no key"),
        (uuid.UUID(int=5), "is not the id of a key"),
        ("nonsense", "is not the id of a key"),
    ):
        with pytest.raises(UnknownKey, match=message):
            alice.deliver_ids([key_id(block_id(0), 3), name])
    with pytest.raises(UnknownKey, match="asked for twice"):
        alice.deliver_ids([key_id(block_id(0), 3)] * 2)
    assert alice.status().delivered_peer == 1
    assert alice.status().dropped_bits == 31 * 8
    assert asdict(store_status(alice.path)) == asdict(alice.status())


def test_a_reserve_goes_with_the_pool_it_was_prepared_under(alice: KeyStore) -> None:
    """Alice committed under the first pool, Bob after both have the second: both agree."""
    key = random.Random(1).randbytes(32 * 5 + 3)
    with make(alice.path.with_name("bob.keys"), "bob") as bob:
        for store in (alice, bob):
            store.import_pool("first", pool_bytes(1))
            store.sink.prepare("block", key, 64)
        alice.sink.commit("block")
        assert pads_of(alice).remaining == (3, 3)
        for store in (alice, bob):
            store.import_pool("second", pool_bytes(2, 1))
        bob.sink.commit("block")
        assert pads_of(alice).remaining == pads_of(bob).remaining == (2, 2)
        assert bob.status().dropped_bits == 8 * (3 + 64)
        assert alice.deliver()[0].secret == key[64:96]


def test_both_ends_have_the_same_keys_under_the_same_ids(tmp_path: Path) -> None:
    with make(tmp_path / "a") as alice, make(tmp_path / "b", "bob") as bob:
        for n in range(2):
            key = random.Random(n).randbytes(32 * 5)
            for store in (alice, bob):
                store.sink.prepare(block_id(n), key, 0)
                store.sink.commit(block_id(n))
        mine, theirs = alice.deliver(6), bob.deliver(4)
        assert bob.deliver_ids([x.id for x in mine]) == mine
        assert alice.deliver_ids([str(x.id) for x in reversed(theirs)]) == theirs[::-1]
        assert len({bytes(x.secret) for x in mine + theirs}) == 10
        for store in (alice, bob):
            assert store.status().stored_bits == 0
            with pytest.raises(NotEnoughKeys, match="1 keys asked for, 0 stored"):
                store.deliver()


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_files_are_for_their_owner_only(alice: KeyStore, tmp_path: Path) -> None:
    write_preshared(tmp_path / "pool.json", alice="A", bob="B")
    alice.sink.prepare("block", bytes(32), 0)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


# Two stores and the handshake of their parties.


def meet(alice: KeyStore, bob: KeyStore) -> Established:
    """A handshake; settles Bob's pending blocks and returns his end."""
    ours = Handshake(
        Terms("alice", "Athens", "Berlin", 1, bytes(32)),
        pads=alice.pads("alice"),
        committed=alice.sink.committed,
        commits=alice.sink.commits,
    )
    theirs = Handshake(
        Terms("bob", "Berlin", "Athens", 1, bytes(32)),
        pads=bob.pads("bob"),
        pending=bob.sink.prepared(),
        commits=bob.sink.commits,
    )
    to_bob, to_alice = ours.start(), theirs.start()
    while to_bob or to_alice:
        to_bob, to_alice = (
            [answer for frame in to_alice for answer in ours.receive(frame)],
            [answer for frame in to_bob for answer in theirs.receive(frame)],
        )
    assert ours.established is not None
    assert theirs.established is not None
    for block in bob.sink.prepared():
        if block not in theirs.established.settled:
            bob.sink.discard(block)
    for block in theirs.established.settled:
        bob.sink.commit(block)
    return theirs.established


def test_after_a_crash_the_stores_agree(tmp_path: Path) -> None:
    """Alice died after some commits, in another order than Bob prepared; her word decides."""
    with make(tmp_path / "a") as alice, make(tmp_path / "b", "bob") as bob:
        for store in (alice, bob):
            store.import_pool("pool", pool_bytes(30))
            for n in range(4):
                store.sink.prepare(block_id(n), random.Random(n).randbytes(32 * 4), 32)
        for n in (2, 0):
            alice.sink.commit(block_id(n))
        for block in alice.sink.prepared():
            alice.sink.discard(block)
        assert meet(alice, bob).settled == (block_id(2), block_id(0))
        for store in (alice, bob):
            assert store.sink.prepared() == []
            assert store.status().blocks == {"prepared": 0, "committed": 2, "discarded": 2}
        assert pads_of(alice).position == pads_of(bob).position[::-1]
        pads_of(alice).skip(30, 30)
        pads_of(bob).skip(30, 30)
        for _ in range(2):  # the reserves stand in the same order
            index, pad = pads_of(alice).draw()
            assert pads_of(bob).peer(index) == pad
        taken = alice.deliver(4)
        assert bob.deliver_ids([key.id for key in taken]) == taken


def test_a_copy_put_back_spends_no_pad_twice_and_is_refused(tmp_path: Path) -> None:
    with make(tmp_path / "a") as alice, make(tmp_path / "b", "bob") as bob:
        for store in (alice, bob):
            store.import_pool("pool", pool_bytes(60))
        meet(alice, bob)
        snapshot(bob.path, tmp_path / "copy")
        for store in (alice, bob):
            store.sink.prepare("block", bytes(32), 0)
            store.sink.commit("block")
        meet(alice, bob)
        assert alice.sink.commits == bob.sink.commits == 1
        spent = pads_of(bob).position
        with KeyStore.open(tmp_path / "copy", PASSPHRASE) as copy:
            assert pads_of(copy).position < spent
            for _ in range(2):
                with pytest.raises(ProtocolError, match="put back from a copy"):
                    meet(alice, copy)
            assert min(pads_of(copy).position) > max(spent)
            assert copy.sink.commits == 0


def test_pads_are_skipped_to_the_end_and_no_further(alice: KeyStore) -> None:
    alice.import_pool("pool", pool_bytes(3))
    pads = pads_of(alice)
    for own, peer in ((4, 0), (0, 4)):
        with pytest.raises(OutOfPads, match="pad 3 of 3"):
            pads.skip(own, peer)
    assert pads.position == (0, 0)
    pads.skip(3, 2)
    pads.skip(1, 1)
    assert pads.position == (3, 2)
    assert pads.remaining == (0, 1)
    KeyStore.open(alice.path, PASSPHRASE).close()
