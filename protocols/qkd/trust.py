"""How two parties come to trust each other: the handshake that begins every session.

:class:`Handshake` is a state machine on frames of bytes, without I/O. Both parties run the same one
and speak in step; a frame answers the peer's frame before it:

======== ===================================================================================
Hello    who I am and whom I want, nonce, what I am configured for, where my pool stands, pending
         blocks, and, where a pool must be made first, Alice's ML-KEM key
Answer   Alice: which of Bob's pending blocks she committed; Bob: the ML-KEM ciphertext
Proof    of the Hellos and Answers of both: a filter MAC under the pool, or an ML-DSA signature
Seal     of the same: a Wegman-Carter tag with a pad of the pool
======== ===================================================================================

**With a common pool** (imported by hand, or made before) the filter is HMAC-SHA256 under the pool's
first 32 bytes. Its security is computational, and all it does is to keep strangers from using up
pads: none is touched before the peer's filter is right. Trust comes from the Seal alone, whose
security is that of :mod:`.authentication`: no computing power forges it. Whoever can cut the line
between the two can waste two pads of each direction per attempt: do not try again too often.

**First trust** makes a pool out of ML-KEM-768 (FIPS 203, a fresh key for each handshake), expanded
with HKDF-SHA512, and bound to both parties by ML-DSA-65 signatures (FIPS 204) of identity keys that
were exchanged beforehand. **This round is computational**: whoever breaks ML-DSA or ML-KEM *while
it lasts* is in the middle. What he breaks later is of no use to him: the pads encrypt nothing, and
tags are checked when they come. The round lasts until a session begins on pads that QKD made
(:attr:`Established.provisional` False): end the session after its first key and begin another. From
then on a pad of the first trust is refused. A party whose pool has authenticated the peer never
makes another by first trust, whatever the peer says.

**What is compared.** Version, role, names, kind of trust, keys' fingerprints and the digest of all
parameters must equal what is configured. They, and all else that was said, are in what is proved
and sealed: an attacker who changes any bit of any frame ends the handshake. Nonces of both parties
make the session id, so nothing of an earlier session fits, and everything proved names its role, so
a party's own frames do not fit, either. Nothing of it is secret: whoever connects gets a Hello.

**After a crash** the parties tell where their pools stand. Both go on above everything that either
has used or seen; what lies between is burnt. They also tell how many blocks their key stores have
committed. Alice must have as many as Bob with those that he is about to commit; else one of the
stores was put back from a copy, or made anew, would hand out keys twice, and no session begins.
That is judged by sealed numbers only: nobody else can lock the parties out. A copy that was put
back before any block was committed after it is not noticed; it hands out no more than the store
would have, unless keys were delivered in between.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from ...instruments import ProtocolError
from .authentication import HEAD_BYTES, KEPT_PADS, PAIR_BYTES, Authenticator, PadSource, Role, Tag

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.mldsa import (
        MLDSA65PrivateKey,
        MLDSA65PublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = [
    "FIRST_POOL_PADS",
    "LONGEST_FRAME",
    "MOST_PENDING",
    "Established",
    "FirstTrust",
    "Handshake",
    "Identity",
    "PublicIdentity",
    "Terms",
]

#: Bytes of a frame of the handshake, at most.
LONGEST_FRAME: Final = 1 << 16
#: Blocks that Bob may have pending.
MOST_PENDING: Final = 256
#: Pads of each direction that a first trust makes; HKDF-SHA512 gives 16 320 bytes at most.
FIRST_POOL_PADS: Final = 480

_VERSION = 1
_HEADER = struct.Struct("<4sBB")
_MAGIC = b"BBHS"
_KINDS = ("hello", "answer", "proof", "seal")
_DOMAIN = b"bellbench handshake 1"
#: Pads of QKD that both must hold before the rest of a first trust is burnt: to run a session on.
_ENOUGH = KEPT_PADS + 16
#: A first trust takes pads 0 and 1 of both directions, and burns pad 2 after the peer's right seal.
_PROVEN = 3

_Name = Annotated[str, Meta(pattern=r"\A[ -~]{1,64}\Z")]
_PoolId = Annotated[str, Meta(pattern=r"\A[ -~]{0,64}\Z")]
_Block = Annotated[str, Meta(pattern=r"\A[ -~]{1,100}\Z")]
_Blocks = Annotated[list[_Block], Meta(max_length=MOST_PENDING)]
_Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Print = Annotated[bytes, Meta(max_length=32)]  # a fingerprint, or nothing
_Count = Annotated[int, Meta(ge=0, lt=1 << 62)]


class _Hello(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    protocol: Annotated[int, Meta(ge=0, lt=1 << 16)]
    role: Role
    name: _Name
    peer: _Name
    nonce: _Digest
    trust: Literal["pool", "signatures"]
    parameters: _Digest
    identity: _Print
    wanted: _Print
    pool: _PoolId
    provisional: _Count
    next_own: _Count
    next_peer: _Count
    pads: _Count  # that the pool holds, used ones included
    commits: _Count  # blocks that the key store has committed
    kem: Annotated[bytes, Meta(max_length=1184)]
    pending: _Blocks


class _Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    committed: _Blocks
    kem: Annotated[bytes, Meta(max_length=1088)]


class _Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    proof: Annotated[bytes, Meta(max_length=3309)]


class _Seal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    index: _Count
    tag: Annotated[bytes, Meta(min_length=16, max_length=16)]


_Message = TypeVar("_Message", _Hello, _Answer, _Proof, _Seal)


class PublicIdentity:
    """The public half of an :class:`Identity`; give it to the other party by a way you trust."""

    def __init__(self, key: MLDSA65PublicKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: str | Path) -> PublicIdentity:
        """Read a PEM file (SubjectPublicKeyInfo, RFC 9881) written by :meth:`save`.

        Raises:
            ProtocolError: where it holds no ML-DSA-65 public key.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(Path(path).read_bytes())
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, MLDSA65PublicKey):
            raise ProtocolError(f"{path} holds no ML-DSA-65 public key")
        return cls(key)

    def save(self, path: str | Path) -> None:
        """Write a PEM file; one that exists is not overwritten."""
        from cryptography.hazmat.primitives import serialization as s

        pem = self._key.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        with open(path, "xb") as file:
            file.write(pem)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the public key of FIPS 204, 32 bytes."""
        return hashlib.sha256(self._key.public_bytes_raw()).digest()

    @property
    def fingerprint(self) -> str:
        """:attr:`digest` as text, for people to compare: ``SHA256:`` and base64."""
        return "SHA256:" + base64.b64encode(self.digest).decode().rstrip("=")

    def verifies(self, signature: bytes, data: bytes, context: bytes) -> bool:
        """Whether the signature is right (FIPS 204, ML-DSA.Verify)."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, data, context)
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"<PublicIdentity {self.fingerprint}>"


class _IdentityFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["bellbench identity 1"]
    cost: Annotated[int, Meta(ge=1, le=22)]
    salt: Annotated[bytes, Meta(min_length=16, max_length=16)]
    nonce: Annotated[bytes, Meta(min_length=12, max_length=12)]
    sealed: Annotated[bytes, Meta(min_length=48, max_length=48)]
    public: Annotated[bytes, Meta(min_length=1952, max_length=1952)]


class Identity:
    """A party's long-term ML-DSA-65 key (FIPS 204), needed for the first trust only."""

    def __init__(self, key: MLDSA65PrivateKey) -> None:
        self._key = key
        self.public = PublicIdentity(key.public_key())

    @classmethod
    def generate(cls) -> Identity:
        """A fresh key from the operating system's randomness."""
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

        return cls(MLDSA65PrivateKey.generate())

    def save(self, path: str | Path, passphrase: str, *, cost: int = 17) -> None:
        """Write the key, encrypted; a file that exists is not overwritten.

        JSON with the seed of FIPS 204 under AES-256-GCM and scrypt (RFC 7914, r = 8, p = 1), as
        the PKCS #8 of OpenSSL derives its keys with 2048 rounds of PBKDF2 only.

        Args:
            path: Where to; only its owner may read it, where the system knows owners.
            passphrase: Not empty.
            cost: log2 of scrypt's N; 17 takes 128 MiB and some tenths of a second.
        """
        if not passphrase:
            raise ProtocolError("an identity is kept under a passphrase, which must not be empty")
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        public = self.public._key.public_bytes_raw()
        sealed = _identity_cipher(passphrase, salt, cost).encrypt(
            nonce, self._key.private_bytes_raw(), public
        )
        file = _IdentityFile("bellbench identity 1", cost, salt, nonce, sealed, public)
        binary = getattr(os, "O_BINARY", 0)  # Windows
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | binary, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(msgspec.json.format(msgspec.json.encode(file)) + b"\n")

    @classmethod
    def load(cls, path: str | Path, passphrase: str) -> Identity:
        """Read what :meth:`save` wrote.

        Raises:
            ProtocolError: for another file, or a wrong passphrase.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

        try:
            file = msgspec.json.decode(Path(path).read_bytes(), type=_IdentityFile)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"{path} is no identity of Bellbench: {error}") from None
        cipher = _identity_cipher(passphrase, file.salt, file.cost)
        try:
            seed = cipher.decrypt(file.nonce, file.sealed, file.public)
        except InvalidTag:
            raise ProtocolError(f"the passphrase of {path} is wrong, or it is damaged") from None
        return cls(MLDSA65PrivateKey.from_seed_bytes(seed))

    def sign(self, data: bytes, context: bytes) -> bytes:
        """Sign (FIPS 204, ML-DSA.Sign, hedged): 3309 bytes."""
        return self._key.sign(data, context)

    def __repr__(self) -> str:
        return f"<Identity {self.public.fingerprint}>"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a party is configured for; the peer must be for the same.

    Attributes:
        role: Which party this is.
        name: Its name, 1 to 64 printable ASCII characters.
        peer: The name of the party it wants to talk to.
        protocol: Version of the messages that follow the handshake, below 2^16.
        parameters: Digest of all else that both must have configured alike, 32 bytes.
    """

    role: Role
    name: str
    peer: str
    protocol: int
    parameters: bytes


@dataclass(frozen=True, slots=True)
class FirstTrust:
    """What makes a pool where there is none.

    Attributes:
        identity: This party's key.
        peer: The peer's public key, which came by a way you trust.
        adopt: Takes the id and the bytes of the new pool, whose pads are all provisional, and
            returns this party's end of it, durable. It replaces a pool that never authenticated
            the peer: the other end may have crashed before it had it.
    """

    identity: Identity
    peer: PublicIdentity
    adopt: Callable[[str, bytes], PadSource]


@dataclass(frozen=True, slots=True)
class Established:
    """What a handshake came to.

    Attributes:
        session: Id of the session, 16 bytes: BLAKE2b of both nonces, names and roles.
        authenticator: Of this session; it has counted the tags of the handshake.
        pads: The pool, which the handshake may have made.
        settled: For Bob: those of his pending blocks that he must commit, in this order. He
            discards the others. Empty for Alice.
        first_trust: Whether this handshake made the pool.
        provisional: Whether the session rests on a first trust, and so on computational security.
    """

    session: bytes
    authenticator: Authenticator
    pads: PadSource
    settled: tuple[str, ...]
    first_trust: bool
    provisional: bool


class Handshake:
    """One party's handshake; a new one for each session and each attempt.

    Deliver the frames of :meth:`start` and :meth:`receive` to the peer in order, until
    :attr:`established` is set; the peer's next frame is then the session's first. Any error ends
    the handshake for good. End an earlier session on the same pool and key store before::

        handshake = Handshake(terms, pads=pads, pending=sink.prepared())
        frames = handshake.start()
        while handshake.established is None:
            send(frames)
            frames = handshake.receive(next_frame())
        send(frames)

    Args:
        terms: What this party is configured for.
        pads: Its end of the common pool, if there is one.
        first_trust: Where a pool may be made by signatures; both parties must have it, or neither.
        pending: Bob's blocks that wait for a decision, at most :data:`MOST_PENDING`.
        committed: Alice's: those of some blocks that she committed, in the order of the commits.
            What it leaves out she must never commit.
        commits: Blocks that the party's key store has committed so far.
        random: Gives so many random bytes; for tests.

    Attributes:
        established: None before the end.

    Raises:
        ProtocolError: for terms that no handshake can be made with. :meth:`receive` raises it for
            whatever is wrong with the peer.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        pads: PadSource | None = None,
        first_trust: FirstTrust | None = None,
        pending: Iterable[str] = (),
        committed: Callable[[list[str]], list[str]] | None = None,
        commits: int = 0,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if pads is None and first_trust is None:
            raise ProtocolError(
                "there is neither a common pool nor keys to make one: import a pool of secret"
                " bytes at both ends, or give both an identity and the peer's public key"
            )
        self.established: Established | None = None
        self._role: Role = terms.role
        self._other: Role = "bob" if terms.role == "alice" else "alice"
        self._pads = pads
        self._trust = first_trust
        self._committed = committed
        self._kem: MLKEM768PrivateKey | None = None
        self._secret = b""  # what ML-KEM gave
        self._frames: dict[tuple[str, Role], bytes] = {}  # Hellos and Answers as they were sent
        self._expected = -1  # index of the peer's next kind; none before the start
        self._failed = False

        pool, provisional, total = "", 0, 0
        own = peer = 0
        if pads is not None:
            pool, provisional = pads.pool_id, pads.provisional
            own, peer = pads.position
            total = own + pads.remaining[0]
        kem = b""
        proven = pads is not None and not _unproven(provisional, peer)
        if first_trust is not None and terms.role == "alice" and not proven:
            from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

            self._kem = MLKEM768PrivateKey.from_seed_bytes(random(64))
            kem = self._kem.public_key().public_bytes_raw()
        mine = _Hello(
            protocol=terms.protocol,
            role=terms.role,
            name=terms.name,
            peer=terms.peer,
            nonce=random(32),
            trust="pool" if first_trust is None else "signatures",
            parameters=terms.parameters,
            identity=first_trust.identity.public.digest if first_trust else b"",
            wanted=first_trust.peer.digest if first_trust else b"",
            pool=pool,
            provisional=provisional,
            next_own=own,
            next_peer=peer,
            pads=total,
            commits=commits,
            kem=kem,
            pending=list(pending),
        )
        frame = _frame("hello", mine)
        self._hello = _parse("hello", frame, _Hello)  # our own limits hold for us, too
        self._peer_hello = self._hello  # until it comes
        self._frames["hello", self._role] = frame

    def start(self) -> list[bytes]:
        """The first frames; call it once."""
        if self._expected >= 0:
            raise ProtocolError("this handshake has begun already")
        self._expected = 0
        return [self._frames["hello", self._role]]

    def receive(self, frame: bytes) -> list[bytes]:
        """Take the peer's next frame and return what to send.

        Raises:
            ProtocolError: where it is not what must come now. Nothing is sent, and nothing more is
                taken.
        """
        if self._failed or self._expected < 0 or self.established is not None:
            raise ProtocolError("a frame came for a handshake that has ended or not begun")
        self._failed = True  # until shown otherwise
        kind = _KINDS[self._expected]
        if kind == "hello":
            out = self._hello_came(frame)
        elif kind == "answer":
            out = self._answer_came(frame)
        elif kind == "proof":
            out = self._proof_came(frame)
        else:
            out = self._seal_came(frame)
        self._expected += 1
        self._failed = False
        return out

    # Hello: compare everything, and agree on how to go on.

    def _hello_came(self, frame: bytes) -> list[bytes]:
        mine, theirs = self._hello, _parse("hello", frame, _Hello)
        self._peer_hello = theirs
        self._frames["hello", self._other] = frame
        if theirs.protocol != mine.protocol:
            raise ProtocolError(
                f"the peer speaks version {theirs.protocol} of the messages, this party"
                f" {mine.protocol}: install the same version of Bellbench at both ends"
            )
        if theirs.role != self._other:
            raise ProtocolError(f"the peer is {theirs.role} too: one must be alice, one bob")
        if theirs.name != mine.peer or theirs.peer != mine.name:
            raise ProtocolError(
                f"{theirs.name} wants to talk to {theirs.peer}, but {mine.name} to {mine.peer}:"
                " the names in the two configurations do not fit"
            )
        if theirs.trust != mine.trust:
            raise ProtocolError(
                f"{theirs.name} is configured for trust by {theirs.trust}, {mine.name} by"
                f" {mine.trust}: configure both alike"
            )
        if theirs.identity != mine.wanted or theirs.wanted != mine.identity:
            raise ProtocolError(
                f"the identity keys of {theirs.name} and {mine.name} are not those that were"
                " exchanged: compare the fingerprints"
            )
        if theirs.parameters != mine.parameters:
            raise ProtocolError(
                f"{theirs.name} and {mine.name} are configured differently: compare their"
                " parameters"
            )
        if hmac.compare_digest(theirs.nonce, mine.nonce):
            raise ProtocolError("the peer repeats what this party said")
        if theirs.role == "alice" and theirs.pending:
            raise ProtocolError("alice asks about pending blocks, which she decides herself")
        names = {mine.role: mine, theirs.role: theirs}
        digest = hashlib.blake2b(digest_size=16, person=b"bellbench sessn")
        for role, hello in sorted(names.items()):
            for part in (role.encode(), hello.name.encode(), hello.nonce):
                digest.update(bytes([len(part)]) + part)
        self._session = digest.digest()
        self._makes_pool = self._agree(names["alice"], names["bob"])

        ciphertext = b""
        if self._makes_pool and self._role == "bob":
            ciphertext = self._encapsulate(theirs.kem)
        settled: list[str] = []
        if self._role == "alice" and theirs.pending:
            if self._committed is None:
                raise ProtocolError("bob has pending blocks, and nobody here knows about them")
            settled = self._committed(list(theirs.pending))
        answer = _frame("answer", _Answer(settled, ciphertext))
        self._frames["answer", self._role] = answer
        return [answer]

    def _agree(self, alice: _Hello, bob: _Hello) -> bool:
        """Whether a pool must be made; both parties come to the same answer, or error."""
        if alice.pool and alice.pool == bob.pool:
            if alice.provisional != bob.provisional:
                raise ProtocolError(f"the pool {alice.pool} has different histories at both ends")
            return False
        for hello in (alice, bob):
            if hello.pool and not _unproven(hello.provisional, hello.next_peer):
                raise ProtocolError(
                    f"{hello.name} has the pool {hello.pool}, the other party"
                    f" {'another one' if alice.pool and bob.pool else 'none'}:"
                    " import the same pool at both ends, or make new key stores at both"
                )
        if self._trust is None:
            raise ProtocolError("the parties have no common pool: import the same one at both ends")
        return True

    def _encapsulate(self, public: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

        try:
            self._secret, ciphertext = MLKEM768PublicKey.from_public_bytes(public).encapsulate()
        except ValueError:
            raise ProtocolError("alice sent no ML-KEM-768 key to make a pool with") from None
        return ciphertext

    # Answer: everything has been said; prove it.

    def _answer_came(self, frame: bytes) -> list[bytes]:
        theirs = _parse("answer", frame, _Answer)
        self._frames["answer", self._other] = frame
        self._settled = tuple(theirs.committed)
        if self._other == "bob" and theirs.committed:
            raise ProtocolError("bob answers what nobody asked him")
        if len(set(self._settled)) < len(self._settled) or not set(self._settled) <= set(
            self._hello.pending
        ):
            raise ProtocolError("alice answers about blocks that bob did not ask for")
        if self._makes_pool and self._role == "alice":
            self._decapsulate(theirs.kem)
        return [_frame("proof", _Proof(self._prove()))]

    def _decapsulate(self, ciphertext: bytes) -> None:
        if self._kem is None:
            raise ProtocolError("a pool was asked for that alice did not offer")
        try:
            self._secret = self._kem.decapsulate(ciphertext)
        except ValueError:
            raise ProtocolError("bob sent no ML-KEM-768 ciphertext") from None
        self._kem = None

    def _prove(self) -> bytes:
        if self._makes_pool:
            assert self._trust is not None
            return self._trust.identity.sign(self._said(), _context(self._role))
        return self._filter(self._role)

    def _filter(self, role: Role) -> bytes:
        assert self._pads is not None
        return hmac.digest(self._pads.filter_key, _context(role) + b"\0" + self._said(), "sha256")

    def _said(self) -> bytes:
        """The Hellos and Answers of both, as they went over the wire."""
        return b"".join(struct.pack("<I", len(frame)) + frame for frame in self._parts())

    def _parts(self) -> list[bytes]:
        roles: tuple[Role, Role] = ("alice", "bob")
        return [self._frames[kind, role] for kind in ("hello", "answer") for role in roles]

    # Proof: from here on pads are spent.

    def _proof_came(self, frame: bytes) -> list[bytes]:
        theirs = _parse("proof", frame, _Proof)
        if self._makes_pool:
            assert self._trust is not None
            right = self._trust.peer.verifies(theirs.proof, self._said(), _context(self._other))
        else:
            right = hmac.compare_digest(theirs.proof, self._filter(self._other))
        if not right:
            raise ProtocolError(
                f"{self._peer_hello.name} did not prove who it is: the parties hold different"
                f" {'identity keys' if self._makes_pool else 'secrets'}, or somebody is in between"
            )
        if self._makes_pool:
            pads = self._adopt()
            own = peer = 0
        else:
            assert self._pads is not None
            pads = self._pads
            own, peer = self._beginning()
        pads.skip(own, peer)
        authenticator = Authenticator(pads, self._role, self._session)
        transcript = authenticator.transcript(self._role, b"handshake")
        for part in self._parts():
            transcript.update(part)
        seal = authenticator.sign(transcript)
        self._result = Established(
            session=self._session,
            authenticator=authenticator,
            pads=pads,
            settled=self._settled,
            first_trust=self._makes_pool,
            provisional=min(own, peer) < pads.provisional,
        )
        return [_frame("seal", _Seal(seal.index, seal.tag))]

    def _beginning(self) -> tuple[int, int]:
        """Where both directions go on: above what either party used, saw or trusts no more."""
        mine, theirs = self._hello, self._peer_hello
        # None of a first trust once both hold enough of QKD.
        enough = min(mine.pads, theirs.pads) >= mine.provisional + _ENOUGH
        least = mine.provisional if enough else 0
        own = max(mine.next_own, theirs.next_peer, least)
        return own, max(theirs.next_own, mine.next_peer, least)

    def _adopt(self) -> PadSource:
        from cryptography.hazmat.primitives.hashes import SHA512
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        assert self._trust is not None
        secret = HKDF(
            algorithm=SHA512(),
            length=HEAD_BYTES + PAIR_BYTES * FIRST_POOL_PADS,
            salt=hashlib.sha512(self._said()).digest(),
            info=_DOMAIN + b" first pool",
        ).derive(self._secret)
        self._secret = b""
        return self._trust.adopt(f"first-{self._session.hex()}", secret)

    # Seal.

    def _seal_came(self, frame: bytes) -> list[bytes]:
        theirs = _parse("seal", frame, _Seal)
        transcript = self._result.authenticator.transcript(self._other, b"handshake")
        for part in self._parts():
            transcript.update(part)
        self._result.authenticator.verify(transcript, Tag(theirs.index, theirs.tag))
        self._compare_stores()
        if self._makes_pool:
            self._result.pads.skip(_PROVEN, _PROVEN)
        self.established = self._result
        return []

    def _compare_stores(self) -> None:
        """Refuse a key store that was put back from a copy; all numbers are authentic by now."""
        hellos = {hello.role: hello for hello in (self._hello, self._peer_hello)}
        answer = _parse("answer", self._frames["answer", "alice"], _Answer)
        alice, bob = hellos["alice"], hellos["bob"]
        if alice.commits != bob.commits + len(answer.committed):
            raise ProtocolError(
                f"the key store of {alice.name} has committed {alice.commits} blocks, that of"
                f" {bob.name} {bob.commits}, with {len(answer.committed)} to follow: one of them"
                " was put back from a copy or made anew, and could hand out keys a second time;"
                " make new stores, and a new pool, at both ends"
            )


def _unproven(provisional: int, next_peer: int) -> bool:
    """Whether a pool came from a first trust that the peer may not have finished."""
    return provisional > 0 and next_peer < _PROVEN


def _context(role: Role) -> bytes:
    return _DOMAIN + b" " + role.encode()


def _frame(kind: str, message: msgspec.Struct) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, _KINDS.index(kind)) + msgspec.msgpack.encode(message)


def _parse(kind: str, frame: bytes, wanted: type[_Message]) -> _Message:
    if type(frame) is not bytes or len(frame) < _HEADER.size or len(frame) > LONGEST_FRAME:
        raise ProtocolError("what came is no handshake of Bellbench")
    magic, version, number = _HEADER.unpack_from(frame)
    if magic != _MAGIC:
        raise ProtocolError("what came is no handshake of Bellbench")
    if version != _VERSION:
        raise ProtocolError(
            f"the peer speaks version {version} of the handshake, this party {_VERSION}:"
            " install the same version of Bellbench at both ends"
        )
    if number != _KINDS.index(kind):
        raise ProtocolError(f"the handshake is out of order: this is no {kind}")
    try:
        message = msgspec.msgpack.decode(memoryview(frame)[_HEADER.size :], type=wanted)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The error may quote what came.
        why = "".join(c if c.isprintable() else "?" for c in str(error)[:200])
        raise ProtocolError(f"a {kind} of the handshake is malformed: {why}") from None
    if _frame(kind, message) != frame:
        raise ProtocolError(f"a {kind} of the handshake is not encoded as it must be")
    return message


def _identity_cipher(passphrase: str, salt: bytes, cost: int) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    key = Scrypt(salt=salt, length=32, n=1 << cost, r=8, p=1).derive(passphrase.encode())
    return AESGCM(key)
