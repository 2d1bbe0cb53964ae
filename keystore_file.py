"""The file of a key store: its tables, what keeps it whole, and what keeps it secret.

:mod:`.keystore` says what is in it and how it is encrypted.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import unicodedata
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .instruments import BellbenchError
from .protocols.qkd.authentication import Role
from .protocols.qkd.sink import block_tag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_TAG = 16  # what AES-GCM adds
COSTS = range(1, 21)  # log2 of scrypt's N; 20 takes 1 GiB
_WAIT_S = 20.0  # for another process's transaction

_APPLICATION = 0x62624B53  # "bbKS"
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE header (
    store BLOB NOT NULL, role TEXT NOT NULL, name TEXT NOT NULL, peer TEXT NOT NULL,
    rehearsal INTEGER NOT NULL, key_size INTEGER NOT NULL,
    lock TEXT NOT NULL, salt BLOB NOT NULL, cost INTEGER NOT NULL, wrapped BLOB NOT NULL
);
CREATE TABLE blocks (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tag BLOB NOT NULL UNIQUE,
    state TEXT NOT NULL, committed INTEGER UNIQUE, salt BLOB NOT NULL,
    keys INTEGER NOT NULL, left0 INTEGER NOT NULL, left1 INTEGER NOT NULL,
    dropped INTEGER NOT NULL, segment INTEGER
);
CREATE INDEX ready0 ON blocks (committed) WHERE committed IS NOT NULL AND left0 > 0;
CREATE INDEX ready1 ON blocks (committed) WHERE committed IS NOT NULL AND left1 > 0;
CREATE INDEX waiting ON blocks (number) WHERE state = 'prepared';
CREATE TABLE keys (
    block INTEGER NOT NULL, share INTEGER NOT NULL, position INTEGER NOT NULL,
    secret BLOB NOT NULL, PRIMARY KEY (block, share, position)
) WITHOUT ROWID;
CREATE TABLE pools (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, salt BLOB NOT NULL, head BLOB,
    provisional INTEGER NOT NULL, length INTEGER NOT NULL,
    next0 INTEGER NOT NULL, next1 INTEGER NOT NULL
);
CREATE TABLE segments (
    number INTEGER PRIMARY KEY, pool INTEGER NOT NULL, name TEXT NOT NULL, salt BLOB NOT NULL,
    start INTEGER, length INTEGER NOT NULL
);
CREATE INDEX places ON segments (pool, start);
CREATE TABLE pads (
    segment INTEGER NOT NULL, side INTEGER NOT NULL, place INTEGER NOT NULL,
    secret BLOB NOT NULL, PRIMARY KEY (segment, side, place)
) WITHOUT ROWID;
"""

# In these queries 0 is Alice's share of the keys or direction of the pads, 1 is Bob's.
_DAMAGE = {
    "a field is not of its type": """
        SELECT (SELECT count(*) FROM blocks WHERE
            typeof(id) || typeof(tag) || typeof(state) || typeof(salt) != 'textblobtextblob'
            OR typeof(keys) || typeof(left0) || typeof(left1) != 'integerintegerinteger'
            OR typeof(dropped) || typeof(ifnull(committed, 0)) != 'integerinteger')
        + (SELECT count(*) FROM keys WHERE
            typeof(secret) || typeof(share) || typeof(position) != 'blobintegerinteger')
        + (SELECT count(*) FROM pools WHERE
            typeof(id) || typeof(salt) || typeof(ifnull(head, x'')) != 'textblobblob'
            OR typeof(provisional) || typeof(length) != 'integerinteger'
            OR typeof(next0) || typeof(next1) != 'integerinteger')
        + (SELECT count(*) FROM segments WHERE
            typeof(name) || typeof(salt) || typeof(pool) != 'textblobinteger'
            OR typeof(ifnull(start, 0)) || typeof(length) != 'integerinteger')
        + (SELECT count(*) FROM pads WHERE
            typeof(secret) || typeof(side) || typeof(place) != 'blobintegerinteger')""",
    "keys are missing": """
        SELECT count(*) FROM blocks LEFT JOIN
        (SELECT block, sum(share = 0) AS n0, sum(share = 1) AS n1 FROM keys GROUP BY block)
        ON block = number WHERE left0 != ifnull(n0, 0) OR left1 != ifnull(n1, 0)""",
    "keys belong to no block": """
        SELECT count(*) FROM keys LEFT JOIN blocks ON number = block
        WHERE state IS NULL OR state = 'discarded'""",
    "the states of blocks contradict each other": """
        SELECT count(*) FROM blocks WHERE state NOT IN ('prepared', 'committed', 'discarded')
        OR (state = 'committed') != (committed IS NOT NULL)""",
    "a committed block is missing": """
        SELECT ifnull(max(committed), 0) != count(committed) FROM blocks""",
    "authentication pads are missing": """
        SELECT count(*) FROM pools WHERE head IS NOT NULL AND (
        length - next0 != (SELECT count(*) FROM pads JOIN segments ON number = segment
            WHERE pool = pools.number AND start IS NOT NULL AND side = 0)
        OR length - next1 != (SELECT count(*) FROM pads JOIN segments ON number = segment
            WHERE pool = pools.number AND start IS NOT NULL AND side = 1)
        OR length != (SELECT ifnull(sum(length), 0) FROM segments AS s
            WHERE s.pool = pools.number AND start IS NOT NULL))""",
}


class KeyStoreError(BellbenchError):
    """A key store cannot be used, or refuses what is asked of it."""


@dataclass(frozen=True)
class Header:
    """What a store says about itself; see :class:`~bellbench.keystore.KeyStore`."""

    store: bytes
    role: Role
    name: str
    peer: str
    rehearsal: bool
    key_size: int
    lock: str
    salt: bytes
    cost: int

    def bytes(self) -> bytes:
        """What the wrapped key is bound to: a changed header opens with no passphrase."""
        fields = [x.hex() if isinstance(x, bytes) else x for x in vars(self).values()]
        return json.dumps([_SCHEMA_VERSION, *fields]).encode()


def connect(path: Path) -> sqlite3.Connection:
    """Open a file that exists, as durable as SQLite can; autocommit."""
    if not path.is_file():
        raise KeyStoreError(f"{path}: no such key store (bellbench keys create makes one)")
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        db = sqlite3.connect(
            uri, uri=True, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise _fault(path, error) from error
    try:
        for pragma in (
            "synchronous = FULL",
            "fullfsync = ON",  # macOS: an fsync alone stays in the cache of the drive
            "checkpoint_fullfsync = ON",
            "secure_delete = ON",
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "temp_store = MEMORY",
        ):
            db.execute(f"PRAGMA {pragma}")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        db.close()
        raise _fault(path, error) from error
    return db


def make_tables(db: sqlite3.Connection, path: Path, header: Header, wrapped: bytes) -> None:
    """Turn an empty file into a store, all or nothing."""
    try:
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    except sqlite3.Error as error:
        raise _fault(path, error) from error
    if mode != "wal":
        raise KeyStoreError(f"{path}: must be on a local disk that SQLite can lock and map")
    with transaction(db, path):
        for statement in _SCHEMA.split(";\n"):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        write_header(db, header, wrapped)


@contextmanager
def transaction(
    db: sqlite3.Connection, path: Path, begin: str = "BEGIN IMMEDIATE"
) -> Iterator[sqlite3.Connection]:
    """All or nothing, on the disk when it ends; errors of SQLite become KeyStoreError."""
    try:
        db.execute(begin)
        try:
            yield db
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _fault(path, error) from error


def _fault(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> KeyStoreError:
    if isinstance(error, UnicodeDecodeError) or str(error).startswith("Could not decode"):
        return damaged(path, "text in it is not UTF-8")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return KeyStoreError(f"{path}: another process has been writing for {_WAIT_S:g} s")
    return KeyStoreError(f"{path}: the key store cannot be read or written: {error}")


def damaged(path: Path, what: str) -> KeyStoreError:
    """The error of a file that is not as it was written."""
    return KeyStoreError(
        f"{path}: the key store is damaged: {what}. Put no older copy in its place: make a new"
        " store and a new first pool at both ends"
    )


def check(db: sqlite3.Connection, path: Path) -> None:
    """Raise KeyStoreError where the file is damaged or a record is missing."""
    found = [row[0] for row in db.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise damaged(path, " ".join(found[0].split()))
    for what, query in _DAMAGE.items():
        if db.execute(query).fetchone()[0]:
            raise damaged(path, what)
    for block, tag in db.execute("SELECT id, tag FROM blocks"):
        if block_tag(block) != tag:
            raise damaged(path, "the id of a block was changed")


def read_header(db: sqlite3.Connection, path: Path) -> tuple[Header, bytes]:
    """The header and the wrapped data key; KeyStoreError where this is no store of ours."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise KeyStoreError(f"{path}: is not a key store, or its making was cut short")
    if version != _SCHEMA_VERSION:
        raise KeyStoreError(
            f"{path}: has version {version}, this Bellbench reads version {_SCHEMA_VERSION}"
        )
    listing = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(_SCHEMA)
        if ours.execute(listing).fetchall() != db.execute(listing).fetchall():
            raise damaged(path, "its tables are not as they were made")
    rows = db.execute("SELECT * FROM header").fetchall()
    types = (bytes, str, str, str, int, int, str, bytes, int, bytes)
    if [tuple(type(x) for x in row) for row in rows] != [types]:
        raise damaged(path, "its header makes no sense")
    store, role, name, peer, rehearsal, key_size, lock, salt, cost, wrapped = rows[0]
    if role not in ("alice", "bob") or cost not in COSTS:
        raise damaged(path, "its header makes no sense")
    header = Header(store, role, name, peer, bool(rehearsal), key_size, lock, salt, cost)
    return header, wrapped


def write_header(db: sqlite3.Connection, header: Header, wrapped: bytes) -> None:
    """Replace the header and the wrapped data key."""
    db.execute("DELETE FROM header")
    db.execute(
        "INSERT INTO header VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*vars(header).values(), wrapped),
    )


# The passphrase.


def check_passphrase(passphrase: str | None) -> None:
    """Raise KeyStoreError for an empty passphrase."""
    if passphrase == "":
        raise KeyStoreError("the passphrase is empty")


def wrap(key: bytearray, header: Header, passphrase: str | None, cost: int) -> tuple[Header, bytes]:
    """Encrypt the data key.

    Args:
        key: The data key, 32 bytes.
        header: What it is bound to.
        passphrase: What opens it from now on; None: a new secret in the keyring.
        cost: log2 of scrypt's N.

    Returns:
        The header as it is from now on, and the wrapped key.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if cost not in COSTS:
        raise KeyStoreError(f"the cost must be {COSTS[0]} to {COSTS[-1]}, not {cost}")
    lock = "keyring" if passphrase is None else "passphrase"
    header = replace(header, lock=lock, salt=secrets.token_bytes(16), cost=cost)
    if passphrase is None:
        passphrase = secrets.token_hex(32)
        _keyring("set_password", _SERVICE, _entry(header), passphrase)
    nonce = secrets.token_bytes(12)
    wrapping = AESGCM(_stretched(passphrase, header))
    return header, nonce + wrapping.encrypt(nonce, bytes(key), header.bytes())


def unwrap(path: Path, header: Header, wrapped: bytes, passphrase: str | None) -> bytearray:
    """Decrypt the data key; KeyStoreError where the passphrase does not open it."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if header.lock == "keyring":
        if passphrase is not None:
            raise KeyStoreError(f"{path}: is opened by the keyring, not by a passphrase")
        passphrase = _keyring("get_password", _SERVICE, _entry(header))
        if passphrase is None:
            raise KeyStoreError(
                f"{path}: the keyring of this user on this machine does not hold its secret"
            )
    elif passphrase is None:
        raise KeyStoreError(f"{path}: needs its passphrase")
    try:
        wrapping = AESGCM(_stretched(passphrase, header))
        return bytearray(wrapping.decrypt(wrapped[:12], wrapped[12:], header.bytes()))
    except (InvalidTag, ValueError):
        raise KeyStoreError(f"{path}: wrong passphrase, or the file's header was changed") from None


def _stretched(passphrase: str, header: Header) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    # What looks the same must be the same on every system's keyboard.
    text = unicodedata.normalize("NFC", passphrase).encode()
    return Scrypt(salt=header.salt, length=32, n=1 << header.cost, r=8, p=1).derive(text)


_SERVICE = "bellbench key store"


def _entry(header: Header) -> str:
    # Of this salt: until a change of passphrase is on the disk, the entry before is still there.
    return f"{header.store.hex()} {header.salt.hex()}"


def forget_in_keyring(header: Header) -> None:
    """Delete the secret that opened a store before."""
    _keyring("delete_password", _SERVICE, _entry(header))


def _keyring(call: str, *arguments: str) -> str | None:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError as error:
        raise KeyStoreError(
            "the keyring of the operating system needs pip install 'bellbench[keyring]'"
        ) from error
    try:
        result: str | None = getattr(keyring, call)(*arguments)
    except KeyringError as error:
        raise KeyStoreError(f"the keyring of the operating system refuses: {error}") from error
    return result


def wipe(secret: bytearray) -> None:
    """Overwrite with zeros."""
    secret[:] = bytes(len(secret))


class Box:
    """Seals the records of one block or segment: a key of its own, the position as nonce."""

    def __init__(self, key: bytearray, salt: bytes, identity: str) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        self._identity = identity.encode()
        info = b"bellbench key store " + self._identity
        self._cipher: AESGCM = AESGCM(HKDF(SHA256(), 32, salt, info).derive(key))

    def seal(self, position: int, secret: bytes | memoryview) -> bytes:
        """Encrypt the record at a position; each is sealed once."""
        nonce = position.to_bytes(12, "big")
        return self._cipher.encrypt(nonce, secret, self._identity)

    def open(self, position: int, sealed: bytes) -> bytearray:
        """Decrypt it; InvalidTag or ValueError where it is not what was sealed there."""
        if len(sealed) < _TAG:
            raise ValueError("too short")
        secret = bytearray(len(sealed) - _TAG)
        self._cipher.decrypt_into(position.to_bytes(12, "big"), sealed, self._identity, secret)
        return secret


def locked_by(path: Path) -> str:
    """What opens a store: ``"passphrase"`` or ``"keyring"``."""
    with closing(connect(path)) as db, transaction(db, path, "BEGIN"):
        return read_header(db, path)[0].lock
