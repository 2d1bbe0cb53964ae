"""Where keys and authentication pads are kept: one SQLite file, crash-safe, encrypted.

A party process writes finished keys through :attr:`KeyStore.sink` and spends authentication pads
through :meth:`KeyStore.pads`; one process at a time may. Any process that has the passphrase may
meanwhile deliver keys and look. A key passes ``prepared -> committed -> delivered`` or is
discarded; every step is one transaction that is on the disk before the call returns.

**Ids.** The key of a block, less its reserve, is cut into keys of :attr:`KeyStore.key_size` bits.
What is left over at its end is dropped and counted. The id of each is made of block id and position
(:func:`~bellbench.protocols.qkd.sink.key_id`), so both ends have the same.

**Shares.** Keys at even positions are Alice's to take (:meth:`KeyStore.deliver`), at odd positions
Bob's; the other end takes the same keys by their ids (:meth:`KeyStore.deliver_ids`). So the two
ends never take one key for two purposes, and each key leaves each end at most once.

**Pads.** A pool authenticates the messages (:mod:`bellbench.protocols.qkd.authentication` says how
it is laid out). The reserve of a block is appended at its commit to the pool under which it was
prepared. The number of a pad is on the disk, and the pad overwritten, before it is handed out.

**Encryption.** scrypt turns the passphrase (or a secret in the keyring of the operating system)
into a key that wraps a random data key. Each block and each segment of pads has a key of its own,
HKDF-SHA256 of the data key and a fresh 128-bit salt; each record is AES-256-GCM under it with its
position as the nonce, and store, block and position as associated data. Sizes, ids, counts and
states are not encrypted. This protects a stolen file, not a running process. It is computational:
who keeps a copy of the file and finds the passphrase, or breaks AES, has the keys in the copy.

**A copy of the file is dangerous.** One that is put back hands out keys a second time. Do not back
it up: keys can be made anew. Pads survive one copy put back, as the next handshake goes on above
all that either party has used; where both ends are put back, pads are spent twice, which lets an
eavesdropper forge messages. Handshakes compare :attr:`StoreSink.commits` of both ends, and refuse a
copy as soon as a block was committed in between.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sqlite3
import threading
import uuid
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .instruments import ProtocolError
from .keystore_file import (
    Box,
    Header,
    KeyStoreError,
    check,
    check_passphrase,
    connect,
    damaged,
    forget_in_keyring,
    make_tables,
    read_header,
    transaction,
    unwrap,
    wipe,
    wrap,
    write_header,
)
from .protocols.qkd.authentication import HEAD_BYTES, PAD_BYTES, PAIR_BYTES, OutOfPads, Role
from .protocols.qkd.sink import (
    BlockState,
    block_tag,
    check_prepare,
    key_id,
    split_key_id,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

__all__ = [
    "Key",
    "KeyStore",
    "KeyStoreError",
    "NotEnoughKeys",
    "StoreStatus",
    "UnknownKey",
    "store_status",
    "write_preshared",
]

_PRESHARED = "bellbench pool 1"
_LARGEST = 1 << 26  # bytes of a block's key or of a pool
_NAME = 64  # characters of a party's name, and of a pool's

# The keys of Alice's share (0) and of Bob's (1) lie apart: neither searches through the other's.
_READY = (
    "SELECT number, id, salt FROM blocks WHERE committed IS NOT NULL AND left0 > 0"
    " ORDER BY committed",
    "SELECT number, id, salt FROM blocks WHERE committed IS NOT NULL AND left1 > 0"
    " ORDER BY committed",
)


class NotEnoughKeys(KeyStoreError):  # noqa: N818 - reads as what happened
    """Fewer keys are stored than were asked for; none was delivered."""


class UnknownKey(KeyStoreError):  # noqa: N818 - reads as what happened
    """A key that was asked for by its id cannot be delivered; none was."""


@dataclass(frozen=True)
class Key:
    """A key that has left its store for good.

    Attributes:
        id: Its id, public and the same at both ends.
        secret: Its bytes. Overwrite them with :meth:`wipe` as soon as they have been used.
    """

    id: uuid.UUID
    secret: bytearray = field(repr=False)

    def wipe(self) -> None:
        """Overwrite the secret with zeros."""
        wipe(self.secret)


@dataclass(frozen=True)
class StoreStatus:
    """What a store holds; nothing secret.

    Attributes:
        path: The file.
        role: Which party it belongs to.
        name: The party's name.
        peer: The other party's name.
        rehearsal: Whether its keys are no secrets.
        key_size: Bits of a key.
        locked_by: What opens it.
        blocks: Number of blocks by state.
        stored_own: Keys that this side may take.
        stored_peer: Keys that the other side takes, and this side by their ids.
        stored_bits: Bits of both.
        prepared: Keys that wait for the other side's word.
        delivered_own: Keys delivered of this side's share.
        delivered_peer: Keys delivered by their ids.
        discarded: Keys discarded with their blocks.
        dropped_bits: Bits of committed blocks that became neither key nor pad.
        pool: Id of the authentication pool; None before the first import.
        pads_own: Pads left for messages of this side.
        pads_peer: Pads left for messages of the other side.
        pads_used_own: Own pads spent or burnt, of this pool.
        pads_used_peer: The other side's.
    """

    path: str
    role: Role
    name: str
    peer: str
    rehearsal: bool
    key_size: int
    locked_by: str
    blocks: dict[str, int]
    stored_own: int
    stored_peer: int
    stored_bits: int
    prepared: int
    delivered_own: int
    delivered_peer: int
    discarded: int
    dropped_bits: int
    pool: str | None
    pads_own: int
    pads_peer: int
    pads_used_own: int
    pads_used_peer: int


class KeyStore:
    """A store of one party's keys with one peer; see the module. Use it as a context manager.

    Its methods may be called from any thread.

    Attributes:
        path: The file.
        role: Which party it belongs to.
        name: The party's name.
        peer: The other party's name.
        rehearsal: Whether it is for keys that are no secrets.
        key_size: Bits of a key.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, header: Header, key: bytearray) -> None:
        # By create() and open() only.
        self.path = path
        self.role = header.role
        self.name = header.name
        self.peer = header.peer
        self.rehearsal = header.rehearsal
        self.key_size = header.key_size
        self._db: sqlite3.Connection | None = db
        self._header = header
        self._key = key
        self._share = 0 if header.role == "alice" else 1
        self._party: sqlite3.Connection | None = None
        self._mutex = threading.RLock()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        passphrase: str | None,
        *,
        role: Role,
        name: str,
        peer: str,
        rehearsal: bool = False,
        key_size: int = 256,
        cost: int = 17,
    ) -> Self:
        """Make a new store.

        Args:
            path: A file that does not exist, on a local disk.
            passphrase: What opens it; None: a random secret in the keyring of the operating system.
            role: Which party it belongs to.
            name: The party's name.
            peer: The other party's name.
            rehearsal: Whether it is for keys that are no secrets, and only those.
            key_size: Bits of a key, a multiple of 8; the same at both ends.
            cost: log2 of scrypt's N; 17 takes 128 MiB and some tenths of a second (RFC 7914).

        Raises:
            KeyStoreError: where the file exists or cannot be made, or an argument is wrong.
        """
        path = Path(path)
        if role not in ("alice", "bob"):
            raise KeyStoreError(f"a role is alice or bob, not {role!r}")
        for text in (name, peer):
            if not _is_name(text):
                raise KeyStoreError(f"a party's name is 1 to {_NAME} printable ASCII characters")
        if name == peer:
            raise KeyStoreError(f"both parties are called {name}")
        if key_size % 8 or not 64 <= key_size <= 1 << 16:
            raise KeyStoreError(f"a key has 64 to 65536 bits, a multiple of 8, not {key_size}")
        check_passphrase(passphrase)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError as error:
            raise KeyStoreError(f"{path}: exists already") from error
        except OSError as error:
            raise KeyStoreError(f"{path}: cannot be made: {error}") from error
        key = bytearray(secrets.token_bytes(32))
        try:
            store = secrets.token_bytes(16)
            header = Header(store, role, name, peer, rehearsal, key_size, "", b"", cost)
            header, wrapped = wrap(key, header, passphrase, cost)
            db = connect(path)
            try:
                make_tables(db, path, header, wrapped)
            except BaseException:
                db.close()
                raise
        except BaseException:
            wipe(key)
            path.unlink()
            raise
        return cls(path, db, header, key)

    @classmethod
    def open(cls, path: str | os.PathLike[str], passphrase: str | None = None) -> Self:
        """Open a store and check that it is whole.

        Args:
            path: The file.
            passphrase: What opens it; not needed where the keyring holds it.

        Raises:
            KeyStoreError: where the file is no store, damaged, or the passphrase wrong.
        """
        path = Path(path)
        db = connect(path)
        try:
            with transaction(db, path, "BEGIN"):  # one consistent view for all checks
                header, wrapped = read_header(db, path)
                check(db, path)
            key = unwrap(path, header, wrapped, passphrase)
        except BaseException:
            db.close()
            raise
        return cls(path, db, header, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<KeyStore {self.path}: {self.role} {self.name} with {self.peer}>"

    def close(self) -> None:
        """Close the file and forget the key. Again has no effect."""
        with self._mutex:
            for connection in (self._db, self._party):
                if connection is not None:
                    connection.close()
            self._db = self._party = None
            wipe(self._key)

    # A party's side.

    @property
    def sink(self) -> StoreSink:
        """Takes the keys that a party makes; for one process at a time.

        Raises:
            KeyStoreError: where another process has it.
        """
        self._be_party()
        return StoreSink(self)

    def pads(self, role: Role) -> StorePads | None:
        """The authentication pads of the pool imported last; for one process at a time.

        Args:
            role: Whose messages this side signs: the store's own role.

        Returns:
            The pads; None before the first import.

        Raises:
            KeyStoreError: where another process has it, or the role is the other one.
        """
        if role != self.role:
            raise KeyStoreError(f"{self.path}: is {self.role}'s store, not {role}'s")
        self._be_party()
        with self._read() as db:
            row = db.execute(
                "SELECT number, id, salt, head, provisional FROM pools ORDER BY number DESC"
            ).fetchone()
        return None if row is None else StorePads(self, *row)

    def import_pool(self, pool_id: str, secret: bytes, *, provisional: bool = False) -> None:
        """Begin a new pool of authentication pads; between sessions, and the same at both ends.

        What is left of the pool before is overwritten.

        Args:
            pool_id: Public name of the pool, the same at both ends; used once.
            secret: Head and pads, :data:`~bellbench.protocols.qkd.authentication.HEAD_BYTES` and
                a multiple of :data:`~bellbench.protocols.qkd.authentication.PAIR_BYTES`.
            provisional: True where it comes from a computational first trust.

        Raises:
            KeyStoreError: where the pool was imported before or has a wrong size, or where another
                process is using the pads.
        """
        if not _is_name(pool_id):
            raise KeyStoreError(f"a pool id is 1 to {_NAME} printable ASCII characters")
        pairs, rest = divmod(len(secret) - HEAD_BYTES, PAIR_BYTES)
        if rest or not 0 < pairs <= _LARGEST // PAIR_BYTES:
            raise KeyStoreError(
                f"a pool is {HEAD_BYTES} bytes and a multiple of {PAIR_BYTES} more, up to"
                f" {_LARGEST}, not {len(secret)} bytes"
            )
        self._be_party()
        with self._write() as db:
            if db.execute("SELECT 1 FROM pools WHERE id = ?", (pool_id,)).fetchone():
                raise KeyStoreError(
                    f"{self.path}: the pool {pool_id} was imported before; a pool is used once"
                )
            # A reserve belongs to the pool under which it was prepared, at both ends.
            db.execute(
                "UPDATE blocks SET segment = NULL, dropped = dropped + ? *"
                " (SELECT length FROM segments AS s WHERE s.number = segment)"
                " WHERE segment IS NOT NULL",
                (8 * PAIR_BYTES,),
            )
            db.execute("DELETE FROM pads")
            db.execute("DELETE FROM segments")
            db.execute("UPDATE pools SET head = NULL")
            salt = secrets.token_bytes(16)
            head = self._box("pool", pool_id, salt).seal(0, secret[:HEAD_BYTES])
            number = db.execute(
                "INSERT INTO pools (id, salt, head, provisional, length, next0, next1)"
                " VALUES (?, ?, ?, ?, ?, 0, 0)",
                (pool_id, salt, head, pairs if provisional else 0, pairs),
            ).lastrowid
            assert number is not None
            self._insert_pads(db, number, pool_id, 0, memoryview(secret)[HEAD_BYTES:])
        self._checkpoint()

    def import_preshared(self, path: str | os.PathLike[str]) -> str:
        """Begin the pool that is in a file of :func:`write_preshared`; destroy the file after that.

        Returns:
            The id of the pool.

        Raises:
            KeyStoreError: as :meth:`import_pool`, or where the file is for other parties.
        """
        content = _read_preshared(Path(path))
        alice, bob = (self.name, self.peer) if self.role == "alice" else (self.peer, self.name)
        ours = {"alice": alice, "bob": bob, "rehearsal": self.rehearsal}
        for field_name, value in ours.items():
            if content[field_name] != value:
                raise KeyStoreError(
                    f"{path}: is for {field_name} = {content[field_name]}, the store {self.path}"
                    f" for {field_name} = {value}"
                )
        self.import_pool(content["id"], content["secret"])
        return str(content["id"])

    # Anybody's side.

    def deliver(self, number: int = 1) -> list[Key]:
        """Take keys of this side's share, the oldest first.

        They are overwritten in the file, durably, before they are returned: a crash in between
        loses them here. The peer can still be told their ids only if they arrived.

        Raises:
            NotEnoughKeys: where fewer are stored; then none is delivered.
        """
        if number < 1:
            raise KeyStoreError(f"the number of keys must be at least 1, not {number}")
        with self._write() as db:
            taken: list[tuple[int, str, bytes, int, bytes]] = []
            for block in db.execute(_READY[self._share]):
                taken += [
                    (*block, *record)
                    for record in db.execute(
                        "SELECT position, secret FROM keys WHERE block = ? AND share = ?"
                        " ORDER BY position LIMIT ?",
                        (block[0], self._share, number - len(taken)),
                    )
                ]
                if len(taken) == number:
                    break
            else:
                raise NotEnoughKeys(
                    f"{self.path}: {number} keys asked for, {len(taken)} stored to be taken by"
                    f" {self.role}"
                )
            keys = self._take(db, taken)
        self._checkpoint()
        return keys

    def deliver_ids(self, ids: Iterable[uuid.UUID | str]) -> list[Key]:
        """Give the keys that the other side took and told the ids of, in that order.

        They are overwritten in the file, durably, before they are returned.

        Raises:
            UnknownKey: where one of them is unknown here, not confirmed yet, delivered before, or
                this side's to take; then none is delivered.
        """
        wanted: dict[uuid.UUID, None] = {}
        for text in ids:
            try:
                key = text if isinstance(text, uuid.UUID) else uuid.UUID(text)
            except ValueError as error:
                raise UnknownKey(f"{text!r:.80} is not the id of a key") from error
            if key in wanted:
                raise UnknownKey(f"{self.path}: the key {key} is asked for twice")
            wanted[key] = None
        if not wanted:
            raise KeyStoreError("no key ids were given")
        with self._write() as db:
            keys = self._take(db, [self._find(db, key) for key in wanted])
        self._checkpoint()
        return keys

    def status(self) -> StoreStatus:
        """What the store holds."""
        with self._read() as db:
            return _status(db, self.path)

    def change_passphrase(self, passphrase: str | None, *, cost: int = 17) -> None:
        """Let another passphrase open the store, and the one before no more.

        A copy of the file made before still opens with the one before.

        Args:
            passphrase: The new one; None: a random secret in the keyring.
            cost: As in :meth:`create`.
        """
        check_passphrase(passphrase)
        with self._mutex:
            before = self._header
            header, wrapped = wrap(self._key, before, passphrase, cost)
            with self._write() as db:
                write_header(db, header, wrapped)
            self._header = header
            self._checkpoint()
        if before.lock == "keyring":
            forget_in_keyring(before)

    # Within.

    def _be_party(self) -> None:
        with self._mutex:
            self._connection()
            if self._party is not None:
                return
            # The operating system frees the lock when its process ends, however it ends.
            file = f"{self.path.resolve()}.lock"
            try:
                os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
            except OSError as error:
                raise KeyStoreError(f"{file}: cannot be made: {error}") from error
            lock = sqlite3.connect(file, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                lock.execute("PRAGMA journal_mode = MEMORY")
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                lock.close()
                raise KeyStoreError(
                    f"{self.path}: a party is running on this store; it must end first"
                    if error.sqlite_errorcode == sqlite3.SQLITE_BUSY
                    else f"{file}: cannot be locked: {error}"
                ) from error
            self._party = lock

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            raise KeyStoreError(f"{self.path}: the key store is closed")
        return self._db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, transaction(self._connection(), self.path) as db:
            yield db

    @contextmanager
    def _read(self) -> Iterator[sqlite3.Connection]:
        with self._mutex, transaction(self._connection(), self.path, "BEGIN") as db:
            yield db

    def _checkpoint(self) -> None:
        """Bring what was overwritten from the log into the file, and empty the log."""
        with (
            self._mutex,
            suppress(sqlite3.OperationalError),
        ):  # a reader holds it: the next one will
            self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _box(self, kind: str, name: str, salt: bytes) -> Box:
        return Box(self._key, salt, f"{self._header.store.hex()} {kind} {name}")

    def _find(self, db: sqlite3.Connection, key: uuid.UUID) -> tuple[int, str, bytes, int, bytes]:
        try:
            tag, position = split_key_id(key)
        except ValueError as error:
            raise UnknownKey(f"{self.path}: {error}") from error
        block = db.execute(
            "SELECT number, id, salt, state, keys FROM blocks WHERE tag = ?", (tag,)
        ).fetchone()
        if block is None or position >= block[4]:
            raise UnknownKey(f"{self.path}: has no key {key}")
        if position % 2 == self._share:
            raise UnknownKey(
                f"{self.path}: the key {key} is {self.role}'s to take; only the other side gets it"
                " by its id"
            )
        if block[3] == "prepared":
            raise UnknownKey(
                f"{self.path}: the key {key} waits for the other side's confirmation; try again"
            )
        if block[3] == "discarded":
            raise UnknownKey(f"{self.path}: the key {key} was discarded")
        record = db.execute(
            "SELECT position, secret FROM keys WHERE block = ? AND share = ? AND position = ?",
            (block[0], 1 - self._share, position),
        ).fetchone()
        if record is None:
            raise UnknownKey(f"{self.path}: the key {key} was delivered before")
        return (*block[:3], *record)

    def _take(
        self, db: sqlite3.Connection, records: list[tuple[int, str, bytes, int, bytes]]
    ) -> list[Key]:
        keys: list[Key] = []
        try:
            for number, block, salt, position, sealed in records:
                secret = self._open(self._box("key", block, salt), position, sealed)
                keys.append(Key(key_id(block, position), secret))
                share = position % 2
                db.execute(
                    "DELETE FROM keys WHERE block = ? AND share = ? AND position = ?",
                    (number, share, position),
                )
                db.execute(
                    "UPDATE blocks SET left0 = left0 - ?, left1 = left1 - ? WHERE number = ?",
                    (1 - share, share, number),
                )
        except BaseException:
            for key in keys:
                key.wipe()
            raise
        return keys

    def _open(self, box: Box, position: int, sealed: bytes) -> bytearray:
        from cryptography.exceptions import InvalidTag

        try:
            return box.open(position, sealed)
        except (InvalidTag, ValueError) as error:
            raise damaged(self.path, "a record does not decrypt") from error

    def _insert_pads(
        self,
        db: sqlite3.Connection,
        pool: int,
        name: str,
        start: int | None,
        secret: memoryview,
    ) -> int:
        salt = secrets.token_bytes(16)
        box = self._box("pads", name, salt)
        segment = db.execute(
            "INSERT INTO segments (pool, name, salt, start, length) VALUES (?, ?, ?, ?, ?)",
            (pool, name, salt, start, len(secret) // PAIR_BYTES),
        ).lastrowid
        assert segment is not None
        db.executemany(
            "INSERT INTO pads (segment, side, place, secret) VALUES (?, ?, ?, ?)",
            (
                (segment, n % 2, n // 2, box.seal(n, secret[n * PAD_BYTES : (n + 1) * PAD_BYTES]))
                for n in range(len(secret) // PAD_BYTES)
            ),
        )
        return segment


class StoreSink:
    """A :class:`~bellbench.protocols.qkd.sink.KeySink` on a store: :attr:`KeyStore.sink`."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    @property
    def rehearsal(self) -> bool:
        """Whether the store is for keys that are no secrets."""
        return self._store.rehearsal

    def prepare(self, block: str, key: bytes, reserve: int) -> None:
        """See :meth:`~bellbench.protocols.qkd.sink.KeySink.prepare`."""
        store = self._store
        check_prepare(block, len(key), reserve)
        if len(key) > _LARGEST:
            raise ProtocolError(f"block {block}: a key of {len(key)} bytes is too long")
        size = store.key_size // 8
        number, rest = divmod(len(key) - reserve, size)
        salt = secrets.token_bytes(16)
        box = store._box("key", block, salt)
        reserved, data = memoryview(key)[:reserve], memoryview(key)[reserve:]
        with store._write() as db:
            if (state := _state(db, block)) != "unknown":
                raise ProtocolError(f"block {block} cannot be prepared: it is {state} already")
            segment = None
            if reserve:
                pool = db.execute("SELECT max(number) FROM pools").fetchone()[0]
                if pool is None:
                    raise ProtocolError(f"block {block}: there is no pool to append a reserve to")
                segment = store._insert_pads(db, pool, block, None, reserved)
            row = db.execute(
                "INSERT INTO blocks (id, tag, state, salt, keys, left0, left1, dropped, segment)"
                " VALUES (?, ?, 'prepared', ?, ?, ?, ?, ?, ?)",
                (
                    block,
                    block_tag(block),
                    salt,
                    number,
                    (number + 1) // 2,
                    number // 2,
                    8 * rest,
                    segment,
                ),
            ).lastrowid
            db.executemany(
                "INSERT INTO keys (block, share, position, secret) VALUES (?, ?, ?, ?)",
                (
                    (
                        row,
                        n % 2,
                        n,
                        box.seal(n, data[n * size : (n + 1) * size]),
                    )
                    for n in range(number)
                ),
            )

    def commit(self, block: str) -> None:
        """See :meth:`~bellbench.protocols.qkd.sink.KeySink.commit`."""
        with self._store._write() as db:
            state = _state(db, block)
            if state == "committed":
                return
            if state != "prepared":
                raise ProtocolError(f"block {block} cannot be committed: it is {state}")
            (segment,) = db.execute("SELECT segment FROM blocks WHERE id = ?", (block,)).fetchone()
            db.execute(
                "UPDATE blocks SET state = 'committed', segment = NULL,"
                " committed = (SELECT ifnull(max(committed), 0) + 1 FROM blocks) WHERE id = ?",
                (block,),
            )
            if segment is not None:
                pool, end, more = db.execute(
                    "SELECT p.number, p.length, s.length FROM segments AS s"
                    " JOIN pools AS p ON p.number = s.pool WHERE s.number = ?",
                    (segment,),
                ).fetchone()
                db.execute("UPDATE segments SET start = ? WHERE number = ?", (end, segment))
                db.execute("UPDATE pools SET length = ? WHERE number = ?", (end + more, pool))

    def discard(self, block: str) -> None:
        """See :meth:`~bellbench.protocols.qkd.sink.KeySink.discard`."""
        store = self._store
        with store._write() as db:
            state = _state(db, block)
            if state == "committed":
                raise ProtocolError(f"block {block} cannot be discarded: it is committed")
            if state != "prepared":
                return
            number, segment = db.execute(
                "SELECT number, segment FROM blocks WHERE id = ?", (block,)
            ).fetchone()
            db.execute(
                "UPDATE blocks SET state = 'discarded', left0 = 0, left1 = 0, segment = NULL"
                " WHERE number = ?",
                (number,),
            )
            db.execute("DELETE FROM keys WHERE block = ?", (number,))
            db.execute("DELETE FROM pads WHERE segment = ?", (segment,))
            db.execute("DELETE FROM segments WHERE number = ?", (segment,))
        store._checkpoint()

    def state(self, block: str) -> BlockState:
        """See :meth:`~bellbench.protocols.qkd.sink.KeySink.state`."""
        with self._store._read() as db:
            return _state(db, block)

    @property
    def commits(self) -> int:
        """See :attr:`~bellbench.protocols.qkd.sink.KeySink.commits`."""
        with self._store._read() as db:
            number: int = db.execute("SELECT ifnull(max(committed), 0) FROM blocks").fetchone()[0]
        return number

    def prepared(self) -> list[str]:
        """See :meth:`~bellbench.protocols.qkd.sink.KeySink.prepared`."""
        with self._store._read() as db:
            rows = db.execute("SELECT id FROM blocks WHERE state = 'prepared' ORDER BY number")
            return [block for (block,) in rows]

    def committed(self, blocks: Iterable[str]) -> list[str]:
        """See :meth:`~bellbench.protocols.qkd.sink.KeySink.committed`."""
        found: dict[int, str] = {}
        with self._store._read() as db:
            for block in set(blocks):
                row = db.execute(
                    "SELECT committed FROM blocks WHERE id = ? AND committed IS NOT NULL", (block,)
                ).fetchone()
                if row is not None:
                    found[row[0]] = block
        return [found[place] for place in sorted(found)]


class StorePads:
    """A :class:`~bellbench.protocols.qkd.authentication.PadSource`: :meth:`KeyStore.pads`.

    Attributes:
        pool_id: Public name of the pool.
        filter_key: The head of the pool.
        provisional: Pads of each direction that come from a computational first trust.
    """

    def __init__(
        self,
        store: KeyStore,
        number: int,
        pool_id: str,
        salt: bytes,
        head: bytes,
        provisional: int,
    ) -> None:
        # By KeyStore.pads() only.
        self._store = store
        self._number = number
        self.pool_id = pool_id
        self.filter_key = bytes(store._open(store._box("pool", pool_id, salt), 0, head))
        self.provisional = provisional

    def __repr__(self) -> str:
        return f"<StorePads of the pool {self.pool_id}>"

    @property
    def position(self) -> tuple[int, int]:
        """Number of the next own pad, and the lowest of the peer's that is not burnt."""
        _, own, peer = self._ranges()
        return own, peer

    @property
    def remaining(self) -> tuple[int, int]:
        """Pads that are left: own, the peer's."""
        length, own, peer = self._ranges()
        return length - own, length - peer

    def draw(self) -> tuple[int, bytes]:
        """Take the next own pad: its number and 16 bytes; burnt, durably, before it returns.

        Raises:
            OutOfPads: where none is left.
        """
        with self._store._write() as db:
            _, index, _ = self._state(db)
            return index, self._take(db, self._store._share, index)

    def peer(self, index: int) -> bytes:
        """Take the pad that the peer says it used; all below are burnt with it, durably.

        Raises:
            ProtocolError: where ``index`` is burnt already.
            OutOfPads: where the pool does not reach so far.
        """
        with self._store._write() as db:
            _, _, first = self._state(db)
            if index < first:
                raise ProtocolError(f"pad {index} of the peer is used or skipped already")
            return self._take(db, 1 - self._store._share, index)

    def skip(self, own: int, peer: int) -> None:
        """Burn all own pads below ``own`` and all of the peer's below ``peer``; never goes back.

        Raises:
            OutOfPads: where the pool does not reach so far; then nothing is burnt.
        """
        with self._store._write() as db:
            length, *first = self._state(db)
            if max(own, peer) > length:
                raise self._out(length, max(own, peer) - 1)
            for side, to, at in zip(self._sides, (own, peer), first, strict=True):
                if to > at:
                    self._burn(db, side, to)

    @property
    def _sides(self) -> tuple[int, int]:
        return self._store._share, 1 - self._store._share

    def _ranges(self) -> tuple[int, int, int]:
        with self._store._read() as db:
            return self._state(db)

    def _state(self, db: sqlite3.Connection) -> tuple[int, int, int]:
        """Length of the pool, next own pad, next of the peer."""
        head, length, *following = db.execute(
            "SELECT head, length, next0, next1 FROM pools WHERE number = ?", (self._number,)
        ).fetchone()
        if head is None:
            raise OutOfPads(f"the authentication pool {self.pool_id} was replaced by another one")
        own, peer = self._sides
        return length, following[own], following[peer]

    def _take(self, db: sqlite3.Connection, side: int, index: int) -> bytes:
        row = db.execute(
            "SELECT number, start, name, salt FROM segments WHERE pool = ? AND start <= ?"
            " AND start + length > ?",
            (self._number, index, index),
        ).fetchone()
        if row is None:
            raise self._out(self._state(db)[0], index)
        segment, start, name, salt = row
        place = index - start
        record = db.execute(
            "SELECT secret FROM pads WHERE segment = ? AND side = ? AND place = ?",
            (segment, side, place),
        ).fetchone()
        if record is None:
            raise damaged(self._store.path, "authentication pads are missing")
        box = self._store._box("pads", name, salt)
        pad = bytes(self._store._open(box, 2 * place + side, record[0]))
        self._burn(db, side, index + 1)
        return pad

    def _burn(self, db: sqlite3.Connection, side: int, to: int) -> None:
        """Overwrite all pads of a direction below ``to``."""
        following = db.execute(
            "SELECT next0, next1 FROM pools WHERE number = ?", (self._number,)
        ).fetchone()
        first = following[side]
        db.execute(
            "UPDATE pools SET next0 = ?, next1 = ? WHERE number = ?",
            (to if side == 0 else following[0], to if side == 1 else following[1], self._number),
        )
        for segment, start in db.execute(
            "SELECT number, start FROM segments"
            " WHERE pool = ? AND start < ? AND start + length > ?",
            (self._number, to, first),
        ).fetchall():
            db.execute(
                "DELETE FROM pads WHERE segment = ? AND side = ? AND place < ?",
                (segment, side, to - start),
            )

    def _out(self, length: int, index: int) -> OutOfPads:
        return OutOfPads(
            f"pool {self.pool_id} holds no key any more to authenticate with: pad {index} of"
            f" {length} was asked for"
        )


def _state(db: sqlite3.Connection, block: str) -> BlockState:
    row = db.execute("SELECT state FROM blocks WHERE id = ?", (block,)).fetchone()
    return "unknown" if row is None else row[0]


def store_status(path: str | os.PathLike[str]) -> StoreStatus:
    """What a store holds, without its passphrase, after a check that the file is whole.

    Raises:
        KeyStoreError: where it is not, or is no store.
    """
    path = Path(path)
    with closing(connect(path)) as db, transaction(db, path, "BEGIN"):
        found = _status(db, path)
        check(db, path)
    return found


def _status(db: sqlite3.Connection, path: Path) -> StoreStatus:
    header, _ = read_header(db, path)
    blocks = {
        state: (number, keys, (left0, left1), dropped)
        for state, number, keys, left0, left1, dropped in db.execute(
            "SELECT state, count(*), sum(keys), sum(left0), sum(left1), sum(dropped)"
            " FROM blocks GROUP BY state"
        )
    }
    made = db.execute(
        "SELECT ifnull(sum((keys + 1) / 2), 0), ifnull(sum(keys / 2), 0) FROM blocks"
        " WHERE state = 'committed'"
    ).fetchone()
    pool = db.execute("SELECT id, length, next0, next1 FROM pools ORDER BY number DESC").fetchone()
    nothing = (0, 0, (0, 0), 0)
    own, peer = (0, 1) if header.role == "alice" else (1, 0)
    _, _, left, dropped = blocks.get("committed", nothing)
    pool_id, length, *spent = pool or (None, 0, 0, 0)
    return StoreStatus(
        path=str(path),
        role=header.role,
        name=header.name,
        peer=header.peer,
        rehearsal=header.rehearsal,
        key_size=header.key_size,
        locked_by=header.lock,
        blocks={
            state: blocks.get(state, nothing)[0] for state in ("prepared", "committed", "discarded")
        },
        stored_own=left[own],
        stored_peer=left[peer],
        stored_bits=(left[0] + left[1]) * header.key_size,
        prepared=blocks.get("prepared", nothing)[1],
        delivered_own=made[own] - left[own],
        delivered_peer=made[peer] - left[peer],
        discarded=blocks.get("discarded", nothing)[1],
        dropped_bits=dropped,
        pool=pool_id,
        pads_own=length - spent[own],
        pads_peer=length - spent[peer],
        pads_used_own=spent[own],
        pads_used_peer=spent[peer],
    )


def _is_name(text: str) -> bool:
    return 0 < len(text) <= _NAME and text.isascii() and text.isprintable()


def write_preshared(
    path: str | os.PathLike[str],
    *,
    alice: str,
    bob: str,
    pads: int = 4096,
    rehearsal: bool = False,
) -> str:
    """Write a first pool for two parties, from the randomness of the operating system.

    Args:
        path: A file that does not exist. Everything in it is secret.
        alice: Name of the party whose role is Alice.
        bob: Name of the other.
        pads: Pads of each direction.
        rehearsal: Whether it is for stores of that kind.

    Returns:
        The id of the pool.
    """
    if not 0 < pads <= _LARGEST // PAIR_BYTES:
        raise KeyStoreError(f"a pool has 1 to {_LARGEST // PAIR_BYTES} pads, not {pads}")
    if not _is_name(alice) or not _is_name(bob) or alice == bob:
        raise KeyStoreError(f"two different names of 1 to {_NAME} printable ASCII characters")
    secret = secrets.token_bytes(HEAD_BYTES + pads * PAIR_BYTES)
    content = {
        "format": _PRESHARED,
        "id": secrets.token_hex(16),
        "alice": alice,
        "bob": bob,
        "rehearsal": rehearsal,
        "secret": base64.b64encode(secret).decode(),
    }
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            json.dump(content, file, indent=1)
            file.write("\n")
    except FileExistsError as error:
        raise KeyStoreError(f"{path}: exists already") from error
    except OSError as error:
        raise KeyStoreError(f"{path}: cannot be written: {error}") from error
    return str(content["id"])


def _read_preshared(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(2 * _LARGEST)
    except OSError as error:
        raise KeyStoreError(f"{path}: cannot be read: {error}") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None  # and no cause: it would show the text
    types = {"format": str, "id": str, "alice": str, "bob": str, "rehearsal": bool, "secret": str}
    if (
        not isinstance(content, dict)
        or {name: type(value) for name, value in content.items()} != types
        or content["format"] != _PRESHARED
    ):
        raise KeyStoreError(f"{path}: is not a pool made by bellbench keys preshare")
    try:
        content["secret"] = base64.b64decode(content["secret"], validate=True)
    except ValueError:
        raise KeyStoreError(f"{path}: is damaged: make another one for both ends") from None
    return content
