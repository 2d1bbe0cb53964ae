"""The handshake: what it establishes, and everything that must end it."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import cryptography_vectors
import msgspec
import pytest
from bellbench.instruments import ProtocolError
from bellbench.protocols.qkd.authentication import (
    HEAD_BYTES,
    PAIR_BYTES,
    TAG_EPSILON,
    MemoryPads,
    OutOfPads,
    Role,
    padded,
)
from bellbench.protocols.qkd.sink import MemorySink
from bellbench.protocols.qkd.trust import (
    FIRST_POOL_PADS,
    LONGEST_FRAME,
    MOST_PENDING,
    Established,
    FirstTrust,
    Handshake,
    Identity,
    PublicIdentity,
    Terms,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

HELLO = (
    "424248530100de0011a870726f746f636f6c01a4726f6c65a3626f62a46e616d65a44772617aa470656572a6"
    "5669656e6e61a56e6f6e6365c4208a911969e2eb1ee81da8a5905d6b39eac020f78af68ca0c28fc78c1b0feb"
    "2106a57472757374a4706f6f6caa706172616d6574657273c420000102030405060708090a0b0c0d0e0f1011"
    "12131415161718191a1b1c1d1e1fa86964656e74697479c400a677616e746564c400a4706f6f6ca4706f6f6c"
    "ab70726f766973696f6e616c00a86e6578745f6f776e00a96e6578745f7065657200a47061647364a7636f6d"
    "6d69747307a36b656dc400a770656e64696e6792a430302f31a430302f32"
)
ROLES: tuple[Role, Role] = ("alice", "bob")
KINDS = ("hello", "answer", "proof", "seal")
SECRET = bytes(i * 7 % 251 for i in range(HEAD_BYTES + 100 * PAIR_BYTES))
TERMS: dict[Role, Terms] = {
    "alice": Terms("alice", "Vienna", "Graz", 1, bytes(range(32))),
    "bob": Terms("bob", "Graz", "Vienna", 1, bytes(range(32))),
}
IDENTITIES: dict[Role, Identity] = {role: Identity.generate() for role in ROLES}
Intercept = Callable[[str, Role, bytes], list[bytes]]


def other(role: Role) -> Role:
    return "bob" if role == "alice" else "alice"


def pools(secret: bytes = SECRET) -> dict[Role, MemoryPads]:
    return {role: MemoryPads(secret, role, pool_id="pool") for role in ROLES}


def nonces(role: Role) -> Callable[[int], bytes]:
    """Bytes that only look random: for vectors."""
    return lambda count: hashlib.shake_256(role.encode()).digest(count)


class Ends:
    """What both parties keep: pools and identities, as a key store would."""

    def __init__(self, *, pads: dict[Role, MemoryPads] | None = None) -> None:
        self.pads: dict[Role, MemoryPads] = dict(pads or {})
        self.adopted: dict[Role, list[bytes]] = {"alice": [], "bob": []}
        self.lost: Role | None = None  # who crashes before it has the new pool

    def first_trust(self, role: Role) -> FirstTrust:
        def adopt(pool_id: str, secret: bytes) -> MemoryPads:
            if self.lost == role:
                raise Crash
            self.adopted[role].append(secret)
            self.pads[role] = MemoryPads(secret, role, pool_id=pool_id, provisional=True)
            return self.pads[role]

        return FirstTrust(IDENTITIES[role], IDENTITIES[other(role)].public, adopt)

    def handshakes(self, *, trust: bool = False) -> dict[Role, Handshake]:
        return {
            role: Handshake(
                TERMS[role],
                pads=self.pads.get(role),
                first_trust=self.first_trust(role) if trust else None,
            )
            for role in ROLES
        }


class Crash(Exception):  # noqa: N818
    """The process is gone."""


def run(
    parties: dict[Role, Handshake], intercept: Intercept = lambda kind, to, frame: [frame]
) -> dict[Role, Established | None]:
    """Carry frames until nothing is on its way; errors of either party go up."""
    line: deque[tuple[Role, str, bytes]] = deque()
    said = dict.fromkeys(ROLES, 0)

    def put(sender: Role, frames: list[bytes]) -> None:
        for frame in frames:
            line.append((other(sender), KINDS[said[sender]], frame))
            said[sender] += 1

    for role in ROLES:
        put(role, parties[role].start())
    while line:
        to, kind, frame = line.popleft()
        for piece in intercept(kind, to, frame):
            put(to, parties[to].receive(piece))
    return {role: parties[role].established for role in ROLES}


def established(parties: dict[Role, Handshake]) -> dict[Role, Established]:
    ends = run(parties)
    done = {role: end for role, end in ends.items() if end is not None}
    assert len(done) == 2
    return done


def talk(ends: dict[Role, Established]) -> None:
    """Sign and verify a transcript in each direction."""
    for sender in ROLES:
        a, b = ends[sender].authenticator, ends[other(sender)].authenticator
        sent, came = (x.transcript(sender, b"talk") for x in (a, b))
        sent.update(b"times")
        came.update(b"times")
        b.verify(came, a.sign(sent))


def framed(*parts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def poly1305(r: bytes, message: bytes) -> bytes:
    key = int.from_bytes(r, "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for begin in range(0, len(message), 16):
        block = int.from_bytes(message[begin : begin + 16] + b"\1", "little")
        total = (total + block) * key % ((1 << 130) - 5)
    return (total % (1 << 128)).to_bytes(16, "little")


# What comes of it.


def test_two_parties_with_a_pool_come_to_one_session_and_count_what_it_cost() -> None:
    pads = pools()
    ends = established(Ends(pads=pads).handshakes())
    assert ends["alice"].session == ends["bob"].session
    assert len(ends["alice"].session) == 16
    for role in ROLES:
        end = ends[role]
        assert (end.first_trust, end.provisional, end.settled) == (False, False, ())
        assert end.pads is pads[role]
        assert end.authenticator.pads_spent == 4
        assert end.authenticator.epsilon == 2 * TAG_EPSILON
        assert pads[role].position == (2, 2)
    talk(ends)
    again = established(Ends(pads=pads).handshakes())
    assert again["alice"].session != ends["alice"].session
    assert pads["alice"].position == (5, 5)


def test_a_frozen_handshake_of_this_version() -> None:
    frames: dict[tuple[str, Role], bytes] = {}

    def note(kind: str, to: Role, frame: bytes) -> list[bytes]:
        frames[kind, other(to)] = frame
        return [frame]

    pads = pools()
    parties: dict[Role, Handshake] = {
        "alice": Handshake(
            TERMS["alice"],
            pads=pads["alice"],
            committed=lambda blocks: [b for b in blocks if b.endswith("/2")],
            commits=8,
            random=nonces("alice"),
        ),
        "bob": Handshake(
            TERMS["bob"],
            pads=pads["bob"],
            pending=["00/1", "00/2"],
            commits=7,
            random=nonces("bob"),
        ),
    }
    ends = run(parties, note)
    assert ends["alice"] is not None
    assert ends["bob"] is not None
    assert ends["bob"].settled == ("00/2",)
    digest = hashlib.sha256(framed(*(frames[kind, role] for kind in KINDS for role in ROLES)))
    assert frames["hello", "bob"].hex() == HELLO
    assert digest.hexdigest() == "9ea5983a90bed76b32ff5d69107c45a814f6c5c3752a3452fbf7a50eff34ca68"
    assert ends["alice"].session.hex() == "1870acc4d8b2b0db1097ed148263f1b2"

    # The same from the description, by other means.
    said = framed(*(frames[kind, role] for kind in ("hello", "answer") for role in ROLES))
    names = hashlib.blake2b(digest_size=16, person=b"bellbench sessn")
    for role, name in zip(ROLES, (b"Vienna", b"Graz"), strict=True):
        for part in (role.encode(), name, nonces(role)(32)):
            names.update(bytes([len(part)]) + part)
    assert ends["alice"].session == names.digest()
    for side, role in enumerate(ROLES):
        proof = hmac.digest(
            SECRET[:32], b"bellbench handshake 1 " + role.encode() + b"\0" + said, "sha256"
        )
        assert frames["proof", role] == b"BBHS\1\2" + msgspec.msgpack.encode({"proof": proof})
        parts = [frames[kind, r] for kind in ("hello", "answer") for r in ROLES]
        hashed = b"bellbench transcript 1\0" + bytes([side]) + names.digest() + b"\x09handshake"
        hashed += b"".join(struct.pack("<Q", len(part)) + part for part in parts)
        hashed += struct.pack("<QQ", 4, sum(map(len, parts)))
        r, pad = (SECRET[32 + 32 * i + 16 * side :][:16] for i in (0, 1))
        tag = padded(poly1305(r, hashed), pad)
        assert frames["seal", role] == b"BBHS\1\3" + msgspec.msgpack.encode(
            {"index": 1, "tag": tag}
        )


def test_first_trust_makes_one_pool_from_ml_kem_bound_to_what_was_said() -> None:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

    frames: dict[tuple[str, Role], bytes] = {}

    def note(kind: str, to: Role, frame: bytes) -> list[bytes]:
        frames[kind, other(to)] = frame
        return [frame]

    ends = Ends()
    parties: dict[Role, Handshake] = {
        role: Handshake(TERMS[role], first_trust=ends.first_trust(role), random=nonces(role))
        for role in ROLES
    }
    done = run(parties, note)
    for role in ROLES:
        end = done[role]
        assert end is not None
        assert (end.first_trust, end.provisional) == (True, True)
        assert end.pads is ends.pads[role]
        assert end.pads.pool_id == f"first-{end.session.hex()}"
        assert end.pads.provisional == FIRST_POOL_PADS
        assert end.pads.position == (3, 3)

    # RFC 5869 by hand, over what Alice decapsulates.
    said = framed(*(frames[kind, role] for kind in ("hello", "answer") for role in ROLES))
    ciphertext = msgspec.msgpack.decode(frames["answer", "bob"][6:])["kem"]
    shared = MLKEM768PrivateKey.from_seed_bytes(nonces("alice")(64)).decapsulate(ciphertext)
    key = hmac.digest(hashlib.sha512(said).digest(), shared, "sha512")
    pool, block = b"", b""
    while len(pool) < HEAD_BYTES + PAIR_BYTES * FIRST_POOL_PADS:
        block = hmac.digest(
            key,
            block + b"bellbench handshake 1 first pool" + bytes([len(pool) // 64 + 1]),
            "sha512",
        )
        pool += block
    assert ends.adopted["alice"] == ends.adopted["bob"]
    assert ends.adopted["alice"] == [pool[: HEAD_BYTES + PAIR_BYTES * FIRST_POOL_PADS]]

    # The next session uses the pool; it is as computational as before, and keys only are new.
    again = established(ends.handshakes(trust=True))
    talk(again)
    assert not again["bob"].first_trust
    assert again["bob"].provisional
    assert len(ends.adopted["bob"]) == 1


def vectors(name: str, count: int) -> Iterator[dict[str, bytes]]:
    entry: dict[str, bytes] = {}
    with cryptography_vectors.open_vector_file(f"asymmetric/{name}", "r") as file:
        for line in file:
            field, _, value = line.strip().partition(" = ")
            if field == "count" and entry:
                yield entry
                entry = {}
                count -= 1
                if not count:
                    return
            elif value and field not in ("count", "mlen", "smlen"):
                entry[field] = bytes.fromhex(value)


def test_identities_agree_with_the_known_answers_of_ml_dsa_65() -> None:
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

    seen = 0
    for answer in vectors("MLDSA/kat_MLDSA_65_det_pure.rsp", 8):
        identity = Identity(MLDSA65PrivateKey.from_seed_bytes(answer["xi"]))
        message, context = answer["msg"], answer.get("ctx", b"")
        signature = answer["sm"][: -len(message)]
        assert identity.public.digest == hashlib.sha256(answer["pk"]).digest()
        assert identity.public.verifies(signature, message, context)
        assert not identity.public.verifies(signature, message + b"\0", context)
        assert not identity.public.verifies(signature, message, context + b"\0")
        assert not identity.public.verifies(signature[:-1], message, context)
        assert not identity.public.verifies(b"", message, context)
        own = identity.sign(message, context)
        assert len(own) == 3309
        assert identity.public.verifies(own, message, context)
        seen += 1
    assert seen == 8


def test_our_use_of_ml_kem_768_agrees_with_its_known_answers() -> None:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

    seen = 0
    for answer in vectors("MLKEM/kat_MLKEM_768.rsp", 8):
        key = MLKEM768PrivateKey.from_seed_bytes(answer["d"] + answer["z"])
        assert key.public_key().public_bytes_raw() == answer["pk"]
        assert key.decapsulate(answer["ct"]) == answer["ss"]
        assert key.decapsulate(answer["ct_n"]) == answer["ss_n"]
        seen += 1
    assert seen == 8


# Pending blocks.


def test_bob_commits_what_alice_committed_in_her_order() -> None:
    asked: list[list[str]] = []

    def committed(blocks: list[str]) -> list[str]:
        asked.append(blocks)
        return ["s/3", "s/1"]

    pads = pools()
    ends = established(
        {
            "alice": Handshake(TERMS["alice"], pads=pads["alice"], committed=committed, commits=2),
            "bob": Handshake(TERMS["bob"], pads=pads["bob"], pending=["s/1", "s/2", "s/3"]),
        }
    )
    assert asked == [["s/1", "s/2", "s/3"]]
    assert ends["bob"].settled == ("s/3", "s/1")
    assert ends["alice"].settled == ()


@pytest.mark.parametrize("answer", [["s/2"], ["s/1", "s/1"], ["s/1", "s/9"]])
def test_an_answer_about_other_blocks_is_refused(answer: list[str]) -> None:
    pads = pools()
    with pytest.raises(ProtocolError, match="alice answers about blocks that bob did not ask for"):
        run(
            {
                "alice": Handshake(
                    TERMS["alice"], pads=pads["alice"], committed=lambda blocks: answer
                ),
                "bob": Handshake(TERMS["bob"], pads=pads["bob"], pending=["s/1"]),
            }
        )
    assert pads["bob"].position == (0, 0)


def test_pending_blocks_are_bounded_and_only_bobs() -> None:
    pads = pools()
    blocks = [f"{'f' * 32}/{i}" for i in range(MOST_PENDING)]
    most = Handshake(TERMS["bob"], pads=pads["bob"], pending=blocks)
    assert len(most.start()[0]) < LONGEST_FRAME
    with pytest.raises(ProtocolError, match="malformed"):
        Handshake(TERMS["bob"], pads=pads["bob"], pending=[*blocks, "more"])
    with pytest.raises(ProtocolError, match="malformed"):
        Handshake(TERMS["bob"], pads=pads["bob"], pending=["x" * 101])
    alice = Handshake(TERMS["alice"], pads=pads["alice"], pending=["s/1"])
    with pytest.raises(ProtocolError, match="which she decides herself"):
        run({"alice": alice, "bob": Handshake(TERMS["bob"], pads=pads["bob"])})
    with pytest.raises(ProtocolError, match="nobody here knows about them"):
        run({"alice": Handshake(TERMS["alice"], pads=pads["alice"]), "bob": most_again(pads)})


def most_again(pads: dict[Role, MemoryPads]) -> Handshake:
    return Handshake(TERMS["bob"], pads=pads["bob"], pending=["s/1"])


# What must fit.


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"role": "alice"}, "the peer is alice too|the names"),
        ({"name": "Linz"}, "Linz wants to talk to Vienna, but Vienna to Graz|names"),
        ({"peer": "Linz"}, "names in the two configurations do not fit"),
        (
            {"protocol": 2},
            "version [12] of the messages, this party [12]: install the same version",
        ),
        ({"parameters": bytes(32)}, "are configured differently: compare their parameters"),
    ],
)
def test_what_is_configured_differently_is_told_in_one_sentence_and_costs_no_pad(
    change: dict[str, object], sentence: str
) -> None:
    for altered in ROLES:
        pads = pools()
        parties = {
            role: Handshake(
                dataclasses.replace(TERMS[role], **change) if role == altered else TERMS[role],  # type: ignore[arg-type]
                pads=pads[role],
            )
            for role in ROLES
        }
        if change == {"role": altered}:
            continue
        hellos = {role: parties[role].start()[0] for role in ROLES}
        for role in ROLES:
            with pytest.raises(ProtocolError, match=sentence):
                parties[role].receive(hellos[other(role)])
            assert pads[role].position == (0, 0)


def test_a_peer_of_another_version_is_told_to_install_the_same() -> None:
    for kind in range(4):
        for at in (4, 5):
            parties = Ends(pads=pools()).handshakes()
            frames = {role: bytearray(parties[role].start()[0]) for role in ROLES}
            frames["bob"][at] = 9 if at == 4 else kind
            if (at, kind) == (5, 0):
                continue
            sentence = "version 9 of the handshake, this party 1" if at == 4 else "out of order"
            with pytest.raises(ProtocolError, match=sentence):
                parties["alice"].receive(bytes(frames["bob"]))


def test_different_kinds_of_trust_and_keys_do_not_meet() -> None:
    ends = Ends(pads=pools())
    with pytest.raises(ProtocolError, match="trust by signatures, Graz by pool: configure both"):
        run(
            {
                "alice": Handshake(
                    TERMS["alice"], pads=ends.pads["alice"], first_trust=ends.first_trust("alice")
                ),
                "bob": Handshake(TERMS["bob"], pads=ends.pads["bob"]),
            }
        )
    stranger = FirstTrust(Identity.generate(), IDENTITIES["alice"].public, lambda *_: None)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match="are not those that were exchanged"):
        run(
            {
                "alice": Handshake(TERMS["alice"], first_trust=ends.first_trust("alice")),
                "bob": Handshake(TERMS["bob"], first_trust=stranger),
            }
        )
    with pytest.raises(ProtocolError, match="neither a common pool nor keys"):
        Handshake(TERMS["alice"])


def test_who_has_the_names_but_not_the_keys_makes_no_pool() -> None:
    # The stranger knows everything public and claims Bob's fingerprint.
    ends = Ends()
    false = Identity.generate()
    false.public = IDENTITIES["bob"].public
    parties = {
        "alice": Handshake(TERMS["alice"], first_trust=ends.first_trust("alice")),
        "bob": Handshake(
            TERMS["bob"],
            first_trust=dataclasses.replace(ends.first_trust("bob"), identity=false),
        ),
    }
    alice, bob = parties["alice"], parties["bob"]
    bob_hello = bob.start()[0]
    bob_answer = bob.receive(alice.start()[0])[0]
    alice_answer = alice.receive(bob_hello)[0]
    bob_proof = bob.receive(alice_answer)[0]
    alice.receive(bob_answer)
    with pytest.raises(ProtocolError, match="Graz did not prove who it is"):
        alice.receive(bob_proof)
    assert ends.pads == {}


def test_a_stranger_uses_up_no_pads() -> None:
    pads = pools()
    wrong = bytes(HEAD_BYTES) + SECRET[HEAD_BYTES:]  # all the pads, even, but not the filter
    for _ in range(3):
        with pytest.raises(ProtocolError, match=r"(Graz|Vienna) did not prove who it is"):
            run(
                {
                    "bob": Handshake(TERMS["bob"], pads=pools(wrong)["bob"]),
                    "alice": Handshake(TERMS["alice"], pads=pads["alice"]),
                }
            )
    assert pads["alice"].position == (0, 0)


def test_who_passes_the_filter_without_the_pads_is_not_trusted() -> None:
    wrong = SECRET[:HEAD_BYTES] + bytes(len(SECRET) - HEAD_BYTES)
    with pytest.raises(ProtocolError, match="their tag does not match"):
        run(Ends(pads={**pools(), "bob": pools(wrong)["bob"]}).handshakes())


@pytest.mark.parametrize("trust", [False, True])
def test_different_pools_do_not_meet(trust: bool) -> None:
    pads = {role: MemoryPads(SECRET, role, pool_id=role) for role in ROLES}
    with pytest.raises(ProtocolError, match="the other party another one: import the same pool"):
        run(Ends(pads=pads).handshakes(trust=trust))
    if trust:
        with pytest.raises(ProtocolError, match="has the pool bob, the other party none"):
            run(Ends(pads={"bob": pads["bob"]}).handshakes(trust=True))


def test_an_empty_pool_is_told() -> None:
    pads = pools(SECRET[: HEAD_BYTES + PAIR_BYTES])
    with pytest.raises(OutOfPads, match="holds no key any more"):
        run(Ends(pads=pads).handshakes())


# An adversary on the line.


def frames_of(trust: bool) -> dict[tuple[str, Role], bytes]:
    """Sizes of the frames of one handshake, by kind and receiver."""
    found: dict[tuple[str, Role], bytes] = {}

    def note(kind: str, to: Role, frame: bytes) -> list[bytes]:
        found[kind, to] = frame
        return [frame]

    ends = Ends() if trust else Ends(pads=pools())
    run(ends.handshakes(trust=trust), note)
    return found


def attacked(ends: Ends, trust: bool, kind: str, to: Role, frame: Callable[[bytes], bytes]) -> str:
    """Change one frame; whoever got it must never be established. Returns the error."""
    hit: list[str] = []

    def change(k: str, t: Role, f: bytes) -> list[bytes]:
        if (k, t) == (kind, to):
            changed = frame(f)
            assert changed != f
            hit.append(k)
            return [changed]
        return [f]

    parties = ends.handshakes(trust=trust)
    with pytest.raises(ProtocolError) as raised:
        run(parties, change)
    assert hit
    assert parties[to].established is None
    with pytest.raises(ProtocolError):
        parties[to].receive(b"")
    text = str(raised.value)
    assert text.isprintable()
    assert len(text) < 400
    return text


def flip(frame: bytes, bit: int) -> bytes:
    changed = bytearray(frame)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ROLES)
def test_a_changed_bit_of_any_byte_ends_the_handshake(kind: str, to: Role) -> None:
    size = len(frames_of(False)[kind, to])
    for byte in range(size):
        bit = 8 * byte + byte % 8
        attacked(Ends(pads=pools()), False, kind, to, partial(flip, bit=bit))


FIRST_SIZES = {key: len(frame) for key, frame in frames_of(True).items()}


@given(place=st.sampled_from(sorted(FIRST_SIZES)), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_a_changed_bit_ends_a_first_trust_and_makes_no_pool_alone(
    place: tuple[str, Role], share: float
) -> None:
    kind, to = place
    bit = int(share * 8 * FIRST_SIZES[place])
    ends = Ends()
    attacked(ends, True, kind, to, lambda f: flip(f, bit))
    if kind != "seal":
        assert to not in ends.pads
    # What the attack left behind is mended by the next handshake.
    talk(established(ends.handshakes(trust=True)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ROLES)
def test_cut_stretched_exchanged_and_foreign_frames_end_the_handshake(kind: str, to: Role) -> None:
    old = frames_of(False)
    damages: list[Callable[[bytes], bytes]] = [
        lambda f: f[:-1],
        lambda f: f[:6],
        lambda f: f[:3],
        lambda f: b"",
        lambda f: f + b"\0",
        lambda f: f + f,
        lambda f: f + bytes(LONGEST_FRAME),
        lambda f: f[:6] + b"\xc0",
        lambda f: f[:6] + b"\x80",
        lambda f: f[:6] + b"\x91" * 60_000,
        lambda f: f[:6] + msgspec.msgpack.encode({**msgspec.msgpack.decode(f[6:]), "more": 1}),
        recoded,
        lambda f: f[:6] + msgspec.msgpack.encode({**decode(f), "index": 1 << 62}),
        # Of an earlier session on the same pads, which were put back for it; the receiver's own.
        # An Answer that answers nothing is the same in both, and the Hello makes it another.
        *(lambda f, k=k, r=r: old[k, r] for k in KINDS for r in ROLES if k != "answer"),
    ]
    for damage in damages:
        pads = pools()
        attacked(Ends(pads=pads), False, kind, to, damage)


def recoded(frame: bytes) -> bytes:
    """The same message in another encoding of msgpack: a longer head of its map."""
    if frame[6] == 0xDE:
        return frame[:6] + b"\xdf\0\0" + frame[7:]
    return frame[:6] + b"\xde\0" + bytes([frame[6] & 15]) + frame[7:]


def decode(frame: bytes) -> dict[str, object]:
    found = msgspec.msgpack.decode(frame[6:])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("role", ROLES)
def test_a_partys_own_frames_sent_back_get_nowhere(role: Role, trust: bool) -> None:
    ends = Ends() if trust else Ends(pads=pools())
    party = ends.handshakes(trust=trust)[role]
    with pytest.raises(ProtocolError, match=f"the peer is {role} too"):
        party.receive(party.start()[0])

    # Even turned round into the other role, as far as anybody can.
    party = ends.handshakes(trust=trust)[role]
    hello = party.start()[0]
    turned = decode(hello)
    turned["role"] = other(role)
    turned["name"], turned["peer"] = turned["peer"], turned["name"]
    turned["identity"], turned["wanted"] = turned["wanted"], turned["identity"]
    turned["nonce"] = bytes(32)
    if trust:
        turned["kem"] = decode(ends.handshakes(trust=True)["alice"].start()[0])["kem"]
    out = party.receive(hello[:6] + msgspec.msgpack.encode(turned))
    if trust and role == "alice":
        with pytest.raises(ProtocolError, match="bob sent no ML-KEM-768 ciphertext"):
            party.receive(out[0])
        return
    out = party.receive(out[0])
    with pytest.raises(ProtocolError, match="did not prove who it is"):
        party.receive(out[0])


def test_an_old_session_said_again_to_either_party_is_refused_before_a_pad_is_spent() -> None:
    for to in ROLES:
        pads = pools()
        old: list[bytes] = []

        def note(
            kind: str, t: Role, frame: bytes, to: Role = to, old: list[bytes] = old
        ) -> list[bytes]:
            if t == to:
                old.append(frame)
            return [frame]

        run(Ends(pads=pads).handshakes(), note)
        before = pads[to].position
        fresh = Ends(pads=pads).handshakes()[to]
        fresh.start()
        fresh.receive(old[0])
        fresh.receive(old[1])
        with pytest.raises(ProtocolError, match="did not prove who it is"):
            fresh.receive(old[2])
        assert pads[to].position == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ROLES)
def test_lost_and_repeated_frames_establish_nothing_wrong(kind: str, to: Role) -> None:
    parties = Ends(pads=pools()).handshakes()
    with pytest.raises(ProtocolError, match="out of order") if kind != "seal" else nullcontext():
        run(parties, lambda k, t, f: [] if (k, t) == (kind, to) else [f])
    assert parties[to].established is None
    with pytest.raises(ProtocolError, match=r"out of order|ended or not begun"):
        run(
            Ends(pads=pools()).handshakes(),
            lambda k, t, f: [f, f] if (k, t) == (kind, to) else [f],
        )


def test_a_handshake_is_for_one_use() -> None:
    parties = Ends(pads=pools()).handshakes()
    with pytest.raises(ProtocolError, match="not begun"):
        parties["alice"].receive(b"")
    established(parties)
    with pytest.raises(ProtocolError, match="begun already"):
        parties["alice"].start()
    with pytest.raises(ProtocolError, match="ended"):
        parties["alice"].receive(b"x")
    with pytest.raises(ProtocolError, match="malformed"):
        Handshake(dataclasses.replace(TERMS["bob"], name="ä"), pads=pools()["bob"])


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20)
    | st.floats()
    | st.sampled_from(["alice", "bob", "pool", "signatures"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(0, 9), inner, max_size=4)
    ),
    max_leaves=8,
)
FIELDS = """protocol role name peer nonce trust parameters identity wanted pool provisional next_own
 next_peer pads kem pending committed proof index tag"""
fields = st.sampled_from(FIELDS.split())


@given(
    stage=st.integers(0, 3),
    garbage=st.one_of(
        st.binary(max_size=200),
        st.builds(lambda k, b: b"BBHS\1" + bytes([k]) + b, st.integers(0, 4), st.binary()),
        st.dictionaries(fields, values, max_size=4),
        values,
    ),
    trust=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_whatever_comes_there_is_a_protocol_error_and_no_more(
    stage: int, garbage: object, trust: bool
) -> None:
    ends = Ends() if trust else Ends(pads=pools())
    changed = 0

    def replace(kind: str, to: Role, frame: bytes) -> list[bytes]:
        nonlocal changed
        if kind != KINDS[stage]:
            return [frame]
        if isinstance(garbage, bytes):
            changed += 1
            return [garbage]
        wrong = {**decode(frame), **garbage} if isinstance(garbage, dict) else garbage
        damaged = frame[:6] + msgspec.msgpack.encode(wrong)
        changed += damaged != frame
        return [damaged]

    said = ""
    try:
        run(ends.handshakes(trust=trust), replace)
    except ProtocolError as error:
        said = str(error)
    assert bool(said) == bool(changed)
    assert said.isprintable()
    assert len(said) < 400


# Crashes, and pools that go apart.


def test_both_go_on_above_everything_used_or_seen() -> None:
    pads = pools()
    for _ in range(5):
        pads["alice"].draw()  # used, and lost on the way
    pads["bob"].peer(2)
    pads["bob"].draw()
    ends = established(Ends(pads=pads).handshakes())
    assert pads["alice"].position == (7, 3)
    assert pads["bob"].position == (3, 7)
    talk(ends)


@pytest.mark.parametrize("role", ROLES)
def test_a_store_put_back_from_a_copy_goes_on_above_what_its_peer_saw(role: Role) -> None:
    pads, old = pools(), pools()
    talk(established(Ends(pads=pads).handshakes()))
    assert pads[other(role)].position == (3, 3)
    talk(established(Ends(pads={**pads, role: old[role]}).handshakes()))
    assert old[role].position == pads[other(role)].position == (6, 6)


@pytest.mark.parametrize(
    ("alice", "bob", "pending", "right"),
    [(3, 3, 0, True), (3, 2, 1, True), (2, 3, 0, False), (3, 2, 0, False), (3, 3, 1, False)],
)
def test_a_key_store_put_back_from_a_copy_is_found_by_its_commits(
    alice: int, bob: int, pending: int, right: bool
) -> None:
    pads = pools()
    parties: dict[Role, Handshake] = {
        "alice": Handshake(
            TERMS["alice"], pads=pads["alice"], committed=lambda blocks: blocks, commits=alice
        ),
        "bob": Handshake(
            TERMS["bob"],
            pads=pads["bob"],
            pending=[f"s/{n}" for n in range(pending)],
            commits=bob,
        ),
    }
    if right:
        talk(established(parties))
        return
    with pytest.raises(ProtocolError, match=f"Vienna has committed {alice} .*Graz {bob}, .*copy"):
        run(parties)
    assert all(party.established is None for party in parties.values())


def test_nobody_but_the_peer_can_make_a_store_look_like_a_copy() -> None:
    """A number of commits that was changed on the way is refused by the filter, at no cost."""
    pads = pools()

    def change(kind: str, to: Role, frame: bytes) -> list[bytes]:
        if kind == "hello" and to == "alice":
            return [frame[:6] + msgspec.msgpack.encode(decode(frame) | {"commits": 5})]
        return [frame]

    with pytest.raises(ProtocolError, match="did not prove who it is"):
        run(Ends(pads=pads).handshakes(), change)
    assert pads["alice"].position == pads["bob"].position == (0, 0)


def test_the_rest_of_a_first_trust_is_burnt_once_both_hold_enough_of_qkd() -> None:
    ends = Ends()
    established(ends.handshakes(trust=True))
    ends.pads["alice"].extend(bytes(range(256)) * 8)
    one = established(ends.handshakes(trust=True))
    assert one["alice"].provisional  # Bob does not have it yet, or says so
    ends.pads["bob"].extend(bytes(range(256)) * 8)
    both = established(ends.handshakes(trust=True))
    for role in ROLES:
        assert not both[role].provisional
        assert ends.pads[role].position == (FIRST_POOL_PADS + 2, FIRST_POOL_PADS + 2)
        with pytest.raises(ProtocolError, match="used or skipped"):
            ends.pads[role].peer(FIRST_POOL_PADS - 1)
    talk(both)


def test_a_pool_that_only_one_party_got_is_made_anew() -> None:
    ends = Ends()
    ends.lost = "alice"
    with pytest.raises(Crash):
        run(ends.handshakes(trust=True))
    assert list(ends.pads) == ["bob"]
    ends.lost = None
    fresh = established(ends.handshakes(trust=True))
    assert fresh["alice"].first_trust
    talk(fresh)


def test_a_forged_seal_does_not_make_a_pool_of_one_party_final() -> None:
    ends = Ends()
    ends.lost = "bob"
    parties = ends.handshakes(trust=True)
    alice, bob = parties["alice"], parties["bob"]
    hello = bob.start()[0]
    answer = bob.receive(alice.start()[0])[0]
    proof = bob.receive(alice.receive(hello)[0])[0]
    alice.receive(answer)
    seal = decode(alice.receive(proof)[0])
    with pytest.raises(ProtocolError, match="tag does not match"):
        alice.receive(b"BBHS\1\3" + msgspec.msgpack.encode(seal))
    assert "alice" in ends.pads
    ends.lost = None
    assert established(ends.handshakes(trust=True))["bob"].first_trust


def test_a_pool_that_authenticated_the_peer_is_never_replaced_by_first_trust() -> None:
    for lost in ROLES:
        ends = Ends()
        established(ends.handshakes(trust=True))
        del ends.pads[lost]
        name = TERMS[other(lost)].name
        with pytest.raises(ProtocolError, match=f"{name} has the pool first-.*other party none"):
            run(ends.handshakes(trust=True))


class Line(RuleBasedStateMachine):
    """Two parties that crash at any step, at their key stores' steps too, and begin again.

    Durable: pools and sinks. Everything else is gone with a crash. Whatever happened, the next
    undisturbed handshake is established, both hold the same keys, and no pad was handed out twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: dict[Role, list[int]] = {"alice": [], "bob": []}
        self.heard: dict[Role, list[int]] = {"alice": [], "bob": []}
        self.fuse: dict[Role, int | None] = dict.fromkeys(ROLES)
        secret = hashlib.shake_256(b"line").digest(HEAD_BYTES + 900 * PAIR_BYTES)
        self.pads: dict[Role, MemoryPads] = {role: self.durable(role, secret) for role in ROLES}
        self.sinks = {role: MemorySink(append=self.pads[role].extend) for role in ROLES}
        self.parties: dict[Role, Handshake | None] = dict.fromkeys(ROLES)
        self.inbox: dict[Role, deque[bytes]] = {role: deque() for role in ROLES}
        self.blocks = 0

    def durable(self, role: Role, secret: bytes) -> MemoryPads:
        machine = self

        class Durable(MemoryPads):
            """Notes what it hands out, and loses its process right after it is on the disk."""

            def draw(self) -> tuple[int, bytes]:
                index, pad = super().draw()
                machine.log[role].append(index)
                machine.burn(role)
                return index, pad

            def peer(self, index: int) -> bytes:
                pad = super().peer(index)
                machine.heard[role].append(index)
                machine.burn(role)
                return pad

            def skip(self, own: int, peer: int) -> None:
                super().skip(own, peer)
                machine.burn(role)

        return Durable(secret, role, pool_id="line")

    def burn(self, role: Role) -> None:
        fuse = self.fuse[role]
        if fuse is not None:
            self.fuse[role] = fuse - 1
            if fuse == 0:
                self.fuse[role] = None
                raise Crash

    def gone(self, role: Role) -> None:
        self.parties[role] = None
        self.inbox[role].clear()
        self.fuse[role] = None

    def party(self, role: Role) -> Handshake:
        sink = self.sinks[role]
        if role == "alice":
            for block in sink.prepared():
                sink.discard(block)
            return Handshake(
                TERMS[role],
                pads=self.pads[role],
                committed=sink.committed,
                commits=sink.commits,
            )
        return Handshake(
            TERMS[role], pads=self.pads[role], pending=sink.prepared(), commits=sink.commits
        )

    def take(self, role: Role) -> None:
        party = self.parties[role]
        assert party is not None
        for out in party.receive(self.inbox[role].popleft()):
            self.inbox[other(role)].append(out)
        if party.established is not None and role == "bob":
            sink = self.sinks["bob"]
            for block in party.established.settled:
                sink.commit(block)
            for block in sink.prepared():
                sink.discard(block)

    @rule()
    def begin(self) -> None:
        for role in ROLES:
            self.gone(role)
        for role in ROLES:
            party = self.parties[role] = self.party(role)
            self.inbox[other(role)].extend(party.start())

    @rule(
        role=st.sampled_from(ROLES),
        count=st.integers(1, 8),
        fuse=st.none() | st.integers(0, 4),
    )
    def go_on(self, role: Role, count: int, fuse: int | None) -> None:
        """Deliver some frames in turns; ``role`` may crash after a step of its store."""
        self.fuse[role] = fuse
        for turn in range(count):
            to = role if turn % 2 == 0 else other(role)
            party = self.parties[to]
            if party is None or not self.inbox[to] or party.established is not None:
                continue
            try:
                self.take(to)
            except Crash:
                self.gone(to)
        self.fuse[role] = None

    @rule(role=st.sampled_from(ROLES))
    def crash(self, role: Role) -> None:
        self.gone(role)

    @precondition(lambda self: all(p and p.established for p in self.parties.values()))
    @rule(upto=st.integers(0, 5), fuse=st.none() | st.integers(0, 2), who=st.sampled_from(ROLES))
    def block(self, upto: int, fuse: int | None, who: Role) -> None:
        """A block of key by two-phase commit, cut off after any step."""
        live = {role: party.established for role, party in self.parties.items() if party}
        alice, bob = live["alice"], live["bob"]
        assert alice is not None
        assert bob is not None
        self.blocks += 1
        block = f"{alice.session.hex()}/{self.blocks}"
        key = hashlib.shake_256(block.encode()).digest(100)
        context = b"block %d" % self.blocks

        def tag(sender: Established, receiver: Established, part: bytes) -> None:
            role = sender.authenticator.role
            sent = sender.authenticator.transcript(role, context + part)
            came = receiver.authenticator.transcript(role, context + part)
            receiver.authenticator.verify(came, sender.authenticator.sign(sent))

        steps: list[Callable[[], None]] = [
            lambda: tag(alice, bob, b" verification"),
            lambda: self.sinks["bob"].prepare(block, key, 64),
            lambda: tag(bob, alice, b" verdict"),
            lambda: self.sinks["alice"].prepare(block, key, 64),
            lambda: self.sinks["alice"].commit(block),
            lambda: tag(alice, bob, b" confirmation"),
            lambda: self.sinks["bob"].commit(block),
        ]
        self.fuse[who] = fuse
        try:
            for number, action in enumerate(steps):
                if number > upto and upto < 5:
                    raise Crash
                action()
        except Crash:
            for role in ROLES:
                self.gone(role)
        self.fuse = dict.fromkeys(ROLES)

    @rule()
    def recover(self) -> None:
        self.begin()
        while any(self.inbox.values()):
            for role in ROLES:
                if self.inbox[role]:
                    self.take(role)
        ends = {role: p.established for role, p in self.parties.items() if p and p.established}
        assert len(ends) == 2
        talk(ends)
        assert ends["alice"].session == ends["bob"].session
        assert self.sinks["alice"]._keys == self.sinks["bob"]._keys
        assert list(self.sinks["alice"]._keys) == list(self.sinks["bob"]._keys)
        assert self.sinks["bob"].prepared() == []
        a, b = self.pads["alice"], self.pads["bob"]
        assert sum((a.position[0], a.remaining[0])) == sum((b.position[0], b.remaining[0]))

    @invariant()
    def no_pad_twice(self) -> None:
        for role in ROLES:
            for indices in (self.log[role], self.heard[role]):
                assert indices == sorted(set(indices))

    def teardown(self) -> None:
        self.recover()
        self.no_pad_twice()


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=50, stateful_step_count=15, deadline=None)


# Identities in files.


def test_an_identity_comes_back_from_its_files(tmp_path: Path) -> None:
    identity = IDENTITIES["alice"]
    private, public = tmp_path / "alice.identity", tmp_path / "alice.pem"
    identity.save(private, "correct horse", cost=4)
    identity.public.save(public)
    assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----")
    again = Identity.load(private, "correct horse")
    known = PublicIdentity.load(public)
    assert again.public.fingerprint == known.fingerprint == identity.public.fingerprint
    assert known.fingerprint.startswith("SHA256:")
    assert known.verifies(again.sign(b"data", b"context"), b"data", b"context")
    if sys.platform != "win32":
        assert os.stat(private).st_mode & 0o77 == 0
    seed = identity._key.private_bytes_raw()
    assert seed not in private.read_bytes()
    assert seed.hex() not in repr(identity) + repr(Ends().first_trust("alice"))
    with pytest.raises(FileExistsError):
        identity.save(private, "correct horse", cost=4)
    with pytest.raises(FileExistsError):
        identity.public.save(public)


def test_a_damaged_or_foreign_identity_is_refused(tmp_path: Path) -> None:
    private, public = tmp_path / "id", tmp_path / "pub"
    IDENTITIES["bob"].save(private, "pass", cost=4)
    with pytest.raises(ProtocolError, match=r"the passphrase of .* is wrong"):
        Identity.load(private, "Pass")
    with pytest.raises(ProtocolError, match="must not be empty"):
        IDENTITIES["bob"].save(tmp_path / "x", "")
    whole = msgspec.json.decode(private.read_bytes())
    for field, value in (("cost", 30), ("format", "bellbench identity 2"), ("salt", "AAAA")):
        private.write_bytes(msgspec.json.encode({**whole, field: value}))
        with pytest.raises(ProtocolError, match="no identity of Bellbench"):
            Identity.load(private, "pass")
    other_public = IDENTITIES["alice"].public._key.public_bytes_raw()
    private.write_bytes(msgspec.json.encode({**whole, "public": other_public}))
    with pytest.raises(ProtocolError, match="is wrong, or it is damaged"):
        Identity.load(private, "pass")
    private.write_bytes(b"\xff\xfe")
    with pytest.raises(ProtocolError, match="no identity of Bellbench"):
        Identity.load(private, "pass")

    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

    smaller = MLDSA44PrivateKey.generate().public_key()
    public.write_bytes(smaller.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    for content in (public.read_bytes(), b"", b"\xff", b"-----BEGIN PUBLIC KEY-----\nAA\n"):
        public.write_bytes(content)
        with pytest.raises(ProtocolError, match="holds no ML-DSA-65 public key"):
            PublicIdentity.load(public)
