"""Wegman-Carter tags: exact vectors, domain separation, and pads that never serve twice."""

from __future__ import annotations

import struct
from fractions import Fraction

import pytest
from bellbench.instruments import ProtocolError
from bellbench.protocols.qkd.authentication import (
    HEAD_BYTES,
    KEPT_PADS,
    LONGEST_TRANSCRIPT,
    PAIR_BYTES,
    TAG_EPSILON,
    Authenticator,
    MemoryPads,
    OutOfPads,
    Role,
    Tag,
    Transcript,
    forgery_probability,
    memory_pads,
    padded,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

ROLES: tuple[Role, Role] = ("alice", "bob")
SESSION = bytes(range(16))
SECRET = bytes(i * 7 % 251 for i in range(HEAD_BYTES + 100 * PAIR_BYTES))


def poly1305(r: bytes, message: bytes) -> int:
    """Poly1305(r || 0) from RFC 8439, 2.5.1, by the book."""
    key = int.from_bytes(r, "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for begin in range(0, len(message), 16):
        block = int.from_bytes(message[begin : begin + 16] + b"\1", "little")
        total = (total + block) * key % ((1 << 130) - 5)
    return total % (1 << 128)


def pad(role: Role, index: int) -> bytes:
    """A pad of SECRET, from the layout as documented."""
    begin = HEAD_BYTES + PAIR_BYTES * index + (16 if role == "bob" else 0)
    return SECRET[begin : begin + 16]


def pair() -> tuple[Authenticator, Authenticator]:
    alice, bob = memory_pads(SECRET)
    return Authenticator(alice, "alice", SESSION), Authenticator(bob, "bob", SESSION)


def test_the_vector_of_rfc_8439_section_2_5_2_comes_out_of_hash_and_pad() -> None:
    key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
    message = b"Cryptographic Forum Research Group"
    from cryptography.hazmat.primitives.poly1305 import Poly1305

    digest = Poly1305.generate_tag(key[:16] + bytes(16), message)
    assert padded(digest, key[16:]).hex() == "a8061dc1305136c6c22b8baf0c0127a9"
    assert int.from_bytes(digest, "little") == poly1305(key[:16], message)


def test_adding_a_pad_carries_and_wraps() -> None:
    assert padded(b"\xff" * 16, b"\1" + bytes(15)) == bytes(16)
    assert padded(b"\xff" + bytes(15), b"\1" + bytes(15)) == b"\0\1" + bytes(14)


@pytest.mark.parametrize("role", ["alice", "bob"])
def test_a_tag_is_the_polynomial_of_the_documented_bytes_plus_its_pad(role: Role) -> None:
    alice, bob = pair()
    signer, verifier = (alice, bob) if role == "alice" else (bob, alice)
    messages = [b"", b"times", bytes(1000)]
    hashed = b"bellbench transcript 1\0" + (b"\1" if role == "bob" else b"\0") + SESSION
    hashed += b"\7block 3"
    hashed += b"".join(struct.pack("<Q", len(message)) + message for message in messages)
    hashed += struct.pack("<QQ", 3, 1005)

    sent, came = (who.transcript(role, b"block 3") for who in (signer, verifier))
    for message in messages:
        sent.update(message)
        came.update(message)
    assert sent.length == len(hashed)
    tag = signer.sign(sent)
    expected = poly1305(pad(role, 0), hashed) + int.from_bytes(pad(role, 1), "little")
    assert tag == Tag(1, (expected % (1 << 128)).to_bytes(16, "little"))
    verifier.verify(came, tag)


def test_a_frozen_tag_of_this_version() -> None:
    alice, _ = pair()
    transcript = alice.transcript("alice", b"golden")
    transcript.update(b"photons")
    assert alice.sign(transcript).tag.hex() == "2196204acf959a315c9fada61dbf717d"


@given(
    messages=st.lists(st.binary(max_size=40), max_size=4),
    other=st.lists(st.binary(max_size=40), max_size=4),
    cut=st.integers(0, 40),
)
@settings(max_examples=60, deadline=None)
def test_lists_of_messages_agree_exactly_where_their_tags_do(
    messages: list[bytes], other: list[bytes], cut: int
) -> None:
    def verdict(heard: list[bytes]) -> bool:
        alice, bob = pair()
        sent, came = alice.transcript("alice", b"x"), bob.transcript("alice", b"x")
        for message in messages:
            sent.update(message)
        for message in heard:
            came.update(message)
        try:
            bob.verify(came, alice.sign(sent))
        except ProtocolError:
            return False
        return True

    assert verdict(messages)
    assert verdict(other) == (other == messages)
    joined = b"".join(messages)
    divided = [joined[:cut], joined[cut:]]
    assert verdict(divided) == (divided == messages)


@pytest.mark.parametrize(
    ("session", "context"), [(bytes(16), b"block 1"), (SESSION, b"block 2"), (SESSION, b"block 1 ")]
)
def test_a_tag_counts_for_its_session_and_context_only(session: bytes, context: bytes) -> None:
    a, b = memory_pads(SECRET)
    alice, bob = Authenticator(a, "alice", SESSION), Authenticator(b, "bob", session)
    sent, came = alice.transcript("alice", b"block 1"), bob.transcript("alice", context)
    with pytest.raises(ProtocolError, match="altered on the way"):
        bob.verify(came, alice.sign(sent))


def test_a_tag_sent_back_does_not_pass_even_with_equal_pads_and_keys() -> None:
    # Both directions of this pool hold the same bytes: what is left is the direction in the hash.
    secret = bytes(HEAD_BYTES) + bytes(range(100, 116)) * 2 * 40
    a, b = memory_pads(secret)
    alice, _ = Authenticator(a, "alice", SESSION), Authenticator(b, "bob", SESSION)
    tag = alice.sign(alice.transcript("alice", b"block 1"))
    with pytest.raises(ProtocolError, match="altered"):
        alice.verify(alice.transcript("bob", b"block 1"), tag)


@given(bit=st.integers(0, 127), message=st.binary(max_size=100), flip=st.integers(0, 799))
@settings(max_examples=60, deadline=None)
def test_any_changed_bit_of_tag_or_message_is_refused_and_ends_the_session(
    bit: int, message: bytes, flip: int
) -> None:
    for damaged in ("tag", "message") if message else ("tag",):
        alice, bob = pair()
        sent, came = alice.transcript("alice", b"x"), bob.transcript("alice", b"x")
        sent.update(message)
        tag = alice.sign(sent)
        if damaged == "tag":
            wrong = int.from_bytes(tag.tag, "little") ^ 1 << bit
            tag = Tag(tag.index, wrong.to_bytes(16, "little"))
            came.update(message)
        else:
            place = flip % (8 * len(message))
            changed = int.from_bytes(message, "little") ^ 1 << place
            came.update(changed.to_bytes(len(message), "little"))
        with pytest.raises(ProtocolError, match="alice were altered"):
            bob.verify(came, tag)
        assert bob._pads.position == (1, 2)  # burnt, whatever came out
        with pytest.raises(ProtocolError, match="session is over"):
            bob.verify(bob.transcript("alice", b"y"), alice.sign(alice.transcript("alice", b"y")))
        with pytest.raises(ProtocolError, match="session is over"):
            bob.sign(bob.transcript("bob", b"y"))
        assert bob._pads.position == (1, 2)


@pytest.mark.parametrize("index", [0, 2, 99, 1 << 61])
def test_a_tag_under_another_pad_is_refused_before_any_pad_is_burnt(index: int) -> None:
    alice, bob = pair()
    tag = alice.sign(alice.transcript("alice", b"x"))
    with pytest.raises(ProtocolError, match=f"pad {index}, not 1"):
        bob.verify(bob.transcript("alice", b"x"), Tag(index, tag.tag))
    assert bob._pads.position == (1, 1)


@pytest.mark.parametrize(
    "tag", [Tag(-1, bytes(16)), Tag(1 << 62, bytes(16)), Tag(True, bytes(16)), Tag(1, bytes(15))]
)
def test_a_malformed_tag_is_refused(tag: Tag) -> None:
    _, bob = pair()
    with pytest.raises(ProtocolError):
        bob.verify(bob.transcript("alice", b"x"), tag)
    assert bob._pads.position == (1, 1)


def test_tags_out_of_order_are_refused() -> None:
    alice, bob = pair()
    alice.sign(alice.transcript("alice", b"1"))
    second = alice.sign(alice.transcript("alice", b"2"))
    with pytest.raises(ProtocolError, match="lost, repeated or forged"):
        bob.verify(bob.transcript("alice", b"2"), second)


def test_own_mistakes_are_refused() -> None:
    alice, bob = pair()
    with pytest.raises(ProtocolError, match="alice cannot sign"):
        alice.sign(alice.transcript("bob", b"x"))
    transcript = alice.transcript("alice", b"x")
    tag = alice.sign(transcript)
    with pytest.raises(ProtocolError, match="has its tag"):
        transcript.update(b"more")
    with pytest.raises(ProtocolError, match="one tag only"):
        alice.sign(transcript)
    with pytest.raises(ProtocolError, match="does not verify"):
        alice.verify(alice.transcript("alice", b"x"), tag)
    with pytest.raises(ProtocolError, match="255"):
        alice.transcript("alice", bytes(256))
    with pytest.raises(ProtocolError, match="16 bytes"):
        Authenticator(bob._pads, "bob", bytes(15))
    with pytest.raises(ProtocolError, match="at least 32"):
        memory_pads(bytes(31))


def test_a_transcript_beyond_what_is_charged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bellbench.protocols.qkd.authentication.LONGEST_TRANSCRIPT", 100)
    transcript = Transcript(bytes(16), "alice", SESSION, b"")
    transcript.update(bytes(100 - transcript.length - 8))
    assert transcript.length == 100
    with pytest.raises(ProtocolError, match="shorten blocks"):
        transcript.update(b"")


def test_the_chance_of_a_forgery_is_that_of_bernstein() -> None:
    for length, blocks in ((0, 0), (1, 1), (16, 1), (17, 2), (1024, 64), (10**7, 625_000)):
        assert Fraction(forgery_probability(length)) == Fraction(8 * blocks, 2**106)
    assert forgery_probability(1000) == pytest.approx(6.2e-30, rel=0.01)
    assert forgery_probability(LONGEST_TRANSCRIPT) == TAG_EPSILON == 2.0**-71


def test_every_pad_and_epsilon_is_counted() -> None:
    alice, bob = pair()
    assert (alice.pads_spent, alice.epsilon) == (2, 0.0)
    for i in range(5):
        sent, came = alice.transcript("alice", b"%d" % i), bob.transcript("alice", b"%d" % i)
        bob.verify(came, alice.sign(sent))
    back = alice.transcript("bob", b"x")
    alice.verify(back, bob.sign(bob.transcript("bob", b"x")))
    for party in (alice, bob):
        assert party.pads_spent == 8
        assert party.epsilon == 6 * TAG_EPSILON
    assert alice._pads.position == (6, 2)
    assert bob._pads.position == (2, 6)
    assert alice._pads.remaining == (94, 98)


def test_a_session_leaves_pads_for_handshakes() -> None:
    alice, _ = pair()
    for i in range(100 - 1 - KEPT_PADS):
        alice.sign(alice.transcript("alice", b"%d" % i))
    with pytest.raises(OutOfPads, match="16 pads left, which are kept"):
        alice.sign(alice.transcript("alice", b"one more"))
    assert alice._pads.remaining[0] == KEPT_PADS
    last = Authenticator(alice._pads, "alice", bytes(16))
    last.sign(last.transcript("alice", b"handshake"))


def test_nothing_secret_is_shown() -> None:
    alice, _ = pair()
    shown = repr(alice) + repr(alice._pads) + repr(alice.transcript("alice", b"x"))
    for secret in (pad("alice", 0), pad("bob", 0), pad("alice", 1), SECRET[:HEAD_BYTES]):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


class Pool(RuleBasedStateMachine):
    """Two ends of one pool under any calls: what is handed out is right, once, and accounted."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = bytearray(SECRET[: HEAD_BYTES + 6 * PAIR_BYTES])
        self.ends: dict[Role, MemoryPads] = {
            "alice": MemoryPads(bytes(self.secret), "alice"),
            "bob": MemoryPads(bytes(self.secret), "bob"),
        }
        self.taken: dict[Role, list[tuple[Role, int]]] = {"alice": [], "bob": []}
        self.low: dict[tuple[Role, Role], int] = {(end, side): 0 for end in ROLES for side in ROLES}

    @property
    def pairs(self) -> int:
        return (len(self.secret) - HEAD_BYTES) // PAIR_BYTES

    def pad(self, side: Role, index: int) -> bytes:
        begin = HEAD_BYTES + PAIR_BYTES * index + (16 if side == "bob" else 0)
        return bytes(self.secret[begin : begin + 16])

    @rule(end=st.sampled_from(ROLES))
    def draw(self, end: Role) -> None:
        if self.low[end, end] == self.pairs:
            with pytest.raises(OutOfPads):
                self.ends[end].draw()
            return
        index, value = self.ends[end].draw()
        assert index == self.low[end, end]
        assert value == self.pad(end, index)
        self.low[end, end] = index + 1
        self.taken[end].append((end, index))

    @rule(end=st.sampled_from(ROLES), index=st.integers(0, 12))
    def peer(self, end: Role, index: int) -> None:
        other: Role = "bob" if end == "alice" else "alice"
        if not self.low[end, other] <= index < self.pairs:
            with pytest.raises(ProtocolError):
                self.ends[end].peer(index)
            return
        assert self.ends[end].peer(index) == self.pad(other, index)
        self.low[end, other] = index + 1
        self.taken[end].append((other, index))

    @rule(end=st.sampled_from(ROLES), own=st.integers(0, 12), peer=st.integers(0, 12))
    def skip(self, end: Role, own: int, peer: int) -> None:
        other: Role = "bob" if end == "alice" else "alice"
        if max(own, peer) > self.pairs:
            with pytest.raises(OutOfPads):
                self.ends[end].skip(own, peer)
            return
        self.ends[end].skip(own, peer)
        self.low[end, end] = max(self.low[end, end], own)
        self.low[end, other] = max(self.low[end, other], peer)

    @rule(reserve=st.binary(min_size=32, max_size=80))
    def extend(self, reserve: bytes) -> None:
        for end in self.ends.values():
            end.extend(reserve)
        self.secret += reserve[: len(reserve) // 32 * 32]

    @invariant()
    def no_pad_twice_and_every_one_accounted(self) -> None:
        for end, pads in self.ends.items():
            assert len(set(self.taken[end])) == len(self.taken[end])
            other: Role = "bob" if end == "alice" else "alice"
            assert pads.position == (self.low[end, end], self.low[end, other])
            assert pads.remaining == (
                self.pairs - self.low[end, end],
                self.pairs - self.low[end, other],
            )
            for side in (end, other):
                for index in range(self.low[end, side]):
                    begin = PAIR_BYTES * index + (16 if side == "bob" else 0)
                    assert not any(pads._pads[begin : begin + 16])  # burnt is gone


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
