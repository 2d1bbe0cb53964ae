"""One block from sifted bits to a key: the same at every protocol, two small state machines.

Alice's bits are the reference. :class:`DistillAlice` and :class:`DistillBob` are given a
:class:`RawBlock` and the :class:`Terms` that the protocol's proof sets for a block of that length;
they take messages and say messages:

1. *estimation*, where the proof wants a random sample (``Terms.sample_bits``);
2. *reconciliation* by Cascade or one-way LDPC;
3. *verification* by a universal hash, charged;
4. *amplification* by a Toeplitz hash to the length that ``Terms.length`` gives for the leak.

A block that cannot give a key raises :class:`.BlockFailed`: the session reports it and goes on.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError
from . import ldpc
from . import messages as msg
from .amplify import Seeds, pack, toeplitz_hash_packed
from .cascade import Corrector, Reference
from .estimation import ErrorHistory, Errors, random_sample, split_sample
from .finite_key import KeyBound, binary_entropy
from .ledger import BlockFailed, LeakLedger
from .parameters import Parameters, SessionTerms
from .randomness import Randomness, random_bits
from .verify import collision_probability, tag_seed_bits, verification_tag

__all__ = [
    "DistillAlice",
    "DistillBob",
    "Distiller",
    "Pace",
    "RawBlock",
    "Terms",
    "choose",
    "sampled_terms",
]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Method = Literal["cascade", "ldpc"]


@dataclass(frozen=True, eq=False)
class RawBlock:
    """What sifting makes: the bits of one block that nobody revealed.

    Attributes:
        number: Of the block in the session, from 0.
        bits: uint8 zeros and ones. Secret, and not shown.
        bases: uint8, 0 for Z, 1 for X.
        times_ps: int64, the announced times.
        coincidences: Matched pairs of the block, whatever their bases.
        monitored: Revealed bits that have left the block, and the errors among them.
        tests: Outcomes both revealed for the tests of a protocol; see :mod:`.schemes`.
    """

    number: int
    bits: Bits = field(repr=False)
    bases: Bits
    times_ps: Indices
    coincidences: int
    monitored: Errors
    tests: Indices | None = None


@dataclass(frozen=True)
class Terms:
    """What the proof of a protocol says of one block, fixed before the block's bits are compared.

    Attributes:
        sample_bits: Size k of the random sample; 0 where the proof wants none, since errors are
            known from elsewhere (test bits of another basis, decoy counts).
        leak_budget: Bits reserved for reconciliation.
        verify_bits: Length of the verification tag.
        error_rate: Of the bits to reconcile as expected without a sample; only efficiency
            depends on it.
        tolerance: Error rate of the sample above which there is no key.
        length: Secure key for the bits that were disclosed in reconciliation. A proof for fixed
            lengths ignores them and charges the budget.
        counted: The same for the number of errors that reconciliation found, once it is known, for
            proofs that need it; it takes the place of ``length``.
        refusal: Why the block gives no key whatever it holds; empty else.
    """

    sample_bits: int
    leak_budget: int
    verify_bits: int
    error_rate: float
    tolerance: float
    length: Callable[[int], KeyBound | None]
    refusal: str = ""
    counted: Callable[[int], KeyBound | None] | None = None


def sampled_terms(parameters: Parameters, m: int) -> Terms:
    """Terms of Tomamichel and Leverrier's bound for ``m`` sifted bits: fixed lengths, a sample."""
    bound = parameters.key_bound(m)
    return Terms(
        sample_bits=min(parameters.sample_bits(m), m),
        leak_budget=parameters.leak_budget(m),
        verify_bits=parameters.verify_bits,
        error_rate=parameters.tolerance,
        tolerance=parameters.tolerance,
        length=lambda leak: bound,
    )


#: Questions that Cascade asks one after the other, roughly, and the part of the budget that a
#: syndrome should leave free for more.
_ROUNDS = 400
_ROOM = 0.05
#: Bits per second, of one core, of Cascade and of the decoder, before any were measured.
_SPEEDS: dict[Method, float] = {"cascade": 10e6, "ldpc": 5e6}
#: Weight of the youngest block in what is measured.
_YOUNG = 0.3


class Pace:
    """Round trip and speed of reconciliation, as a session's earlier blocks showed them.

    Only Alice needs it: she chooses and tells. Times come from the session's ``tick``; without any,
    and in seeded runs, which must come out the same on every computer, the figures stay as they
    were.

    Args:
        now: Time in s; None where it is not known.

    Attributes:
        round_trip_s: Shortest time seen from a question to its answer.
        speeds: Bits per second beside the time of the round trips, by method.
    """

    def __init__(self, now: Callable[[], float | None] = lambda: None) -> None:
        self.now = now
        self.round_trip_s = 0.0
        self.speeds = dict(_SPEEDS)
        self._seen = False

    def answered(self, asked_s: float | None) -> None:
        """Note that the answer came to what was asked then."""
        now = self.now()
        if now is None or asked_s is None:
            return
        trip = max(0.0, now - asked_s)
        self.round_trip_s = min(self.round_trip_s, trip) if self._seen else trip
        self._seen = True

    def reconciled(self, method: Method, bits: int, rounds: int, begun_s: float | None) -> None:
        """Note that a block is reconciled that was begun then and took so many round trips."""
        now = self.now()
        if now is None or begun_s is None or now <= begun_s:
            return
        # Round trips vary: some of the time was always work.
        busy = max(now - begun_s - rounds * self.round_trip_s, 0.05 * (now - begun_s))
        self.speeds[method] *= (bits / busy / self.speeds[method]) ** _YOUNG


def choose(
    wish: Literal["auto", "cascade", "ldpc"],
    error_rate: float,
    n: int,
    leak_budget: int,
    pace: Pace,
) -> Method:
    """How to reconcile ``n`` bits: by error rate, round trip and measured speed, or as wished.

    Cascade leaks least, but asks some hundreds of questions one after the other. The codes are
    taken where that takes longer than decoding, and their syndrome leaves room in the budget. All
    that it goes by is public.

    Raises:
        BlockFailed: where LDPC is wished for and has no code for such a block.
    """
    least, most = ldpc.ERROR_RATES
    fits = n >= ldpc.MIN_BITS and least <= error_rate <= most
    if wish == "ldpc":
        if not fits:
            raise BlockFailed(
                f"no LDPC code for {n} bits with {error_rate:.2%} errors: it takes"
                f" {ldpc.MIN_BITS:,} bits or more and {least:.1%} to {most:.0%};"
                " choose reconciliation auto"
            )
        return "ldpc"
    if wish == "cascade" or not fits:
        return "cascade"
    if ldpc.leak_budget(n, error_rate).syndrome > (1.0 - _ROOM) * leak_budget:
        return "cascade"
    cascade = _ROUNDS * pace.round_trip_s + n / pace.speeds["cascade"]
    return "ldpc" if cascade > pace.round_trip_s + n / pace.speeds["ldpc"] else "cascade"


class Distiller:
    """What both parties have in common.

    Args:
        block: Its bits.
        terms: What the proof says of it.
        parameters: The session's terms.
        randomness: For sample and seeds.
        history: Takes the errors of the sample.
        ledger: Counts what was told of the block.
        seeds: Of the session's amplifications.
        say: Sends a message of this block.
    """

    def __init__(
        self,
        block: RawBlock,
        terms: Terms,
        parameters: SessionTerms,
        randomness: Randomness,
        history: ErrorHistory,
        ledger: LeakLedger,
        seeds: Seeds,
        say: Callable[[msg.Message], None],
    ) -> None:
        self.number = block.number
        self.terms = terms
        self.m = block.bits.size
        self.monitored = block.monitored
        self.coincidences = block.coincidences
        #: Errors of the sample, once compared.
        self.sample: Errors | None = None
        #: Bits that reconciliation flipped, once it is done.
        self.corrected: int | None = None
        self.verified: bool | None = None
        self.method: Method | None = None
        self._bits = block.bits
        self._bases = block.bases
        self._times = block.times_ps
        self._parameters = parameters
        self._randomness = randomness
        self._history = history
        self._ledger = ledger
        self._seeds = seeds
        self._say = say
        ledger.budget = terms.leak_budget

    @property
    def n(self) -> int:
        """Bits of the block that are not in the sample."""
        return self.m - self.terms.sample_bits

    @property
    def bound(self) -> KeyBound | None:
        """Length of the key, and what its security rests on, for what was disclosed so far."""
        if self.terms.counted is not None and self.corrected is not None:
            return self.terms.counted(self.corrected)
        return self.terms.length(self._ledger.leak_bits)

    @property
    def key_bytes(self) -> int:
        """Length of the key in whole bytes."""
        bound = self.bound
        return bound.length // 8 if bound else 0

    @property
    def efficiency(self) -> float | None:
        """Leak over ``n h(Q)``, with Q as reconciliation found it; None where h(Q) is 0."""
        if not self.corrected or not 0 < self.corrected < self.n:
            return None
        return self._ledger.leak_bits / (self.n * binary_entropy(self.corrected / self.n))

    def forget(self) -> None:
        """Let go of all that the key could be made from."""
        self._bits = np.zeros(0, np.uint8)

    def _purpose(self, name: str) -> str:
        return f"{name} of block {self.number}"

    def _judge_terms(self) -> None:
        if self.terms.refusal:
            raise BlockFailed(self.terms.refusal)

    def _judge(self) -> None:
        """Raise BlockFailed where the sample or the bound allows no key."""
        qber, delta = self.sample.qber() if self.sample else None, self.terms.tolerance
        if self.sample is not None and (qber is None or qber > delta):
            shown = "unknown" if qber is None else f"{qber:.2%}"
            raise BlockFailed(f"QBER {shown} above tolerance {delta:.2%}")
        self._judge_length()

    def _judge_length(self) -> None:
        if self.key_bytes:
            return
        bound = self.bound
        raw = "none" if bound is None else f"{bound.raw:.0f} bits"
        raise BlockFailed(
            f"too few bits for a finite key: {self.m} sifted, {self.terms.sample_bits} of them"
            f" sampled, {self.terms.leak_budget} reserved for reconciliation at tolerance"
            f" {self.terms.tolerance:.2%}, {self.terms.verify_bits} for verification; the bound at"
            f" epsilon {self._parameters.epsilon:g} gives {raw}"
        )

    def _error_estimate(self) -> float:
        if self.sample is None:
            return self.terms.error_rate
        return (sum(self.sample.wrong) + 1) / (sum(self.sample.compared) + 2)

    def _compare(self, mine: Bits, theirs: Bits, positions: Indices) -> None:
        self.sample = self._history.add(
            mine, theirs, self._bases[positions], self._times[positions]
        )

    @property
    def correctness(self) -> float:
        """Chance that the keys differ though the tags agree."""
        return collision_probability(self.n, self.terms.verify_bits)

    def _tag(self, seed: Bits) -> Bits:
        return verification_tag(self._bits, seed, self.terms.verify_bits)

    def _amplified(self, seed: Bits) -> bytes:
        key = toeplitz_hash_packed(pack(self._bits), self.n, seed, 8 * self.key_bytes)
        self.forget()
        return key.tobytes()


class DistillAlice(Distiller):
    """The reference: draws sample and seeds, answers what Bob asks for."""

    _cascade: Reference | None = None
    _ldpc: ldpc.Reference | None = None
    _sampled: tuple[Bits, Indices] | None = None
    _seed: Bits | None = None
    #: Whether reconciliation is over and :meth:`verify` may be called.
    reconciled = False

    #: Of the session; set before :meth:`begin`.
    pace = Pace()
    _asked_s: float | None = None
    _begun_s: float | None = None
    _rounds = 1

    def begin(self) -> None:
        """Say the first message."""
        self._judge_terms()
        k = self.terms.sample_bits
        if self.n < 16 or (not k and not self.key_bytes):
            self._judge_length()
        if not k:
            self._reconcile()
            return
        positions = random_sample(self.m, k, self._randomness, self._purpose("sample"))
        mine, self._bits = split_sample(self._bits, positions)
        self._sampled = mine, positions
        self._asked_s = self.pace.now()
        self._say(msg.Sample(self.m, positions, mine, self.terms.leak_budget))

    def handle(self, message: msg.Message) -> None:
        """Take a message of Bob's about this block."""
        match message:
            case msg.SampleReply() if self._sampled is not None:
                mine, positions = self._sampled
                if message.bits.shape != mine.shape:
                    raise ProtocolError("bob sent a sample of another size")
                self._sampled = None
                self.pace.answered(self._asked_s)
                self._compare(mine, message.bits, positions)
                self._judge()
                self._reconcile()
            case msg.ParityRequest() if self._cascade is not None:
                if self._rounds == 1 and not self.terms.sample_bits:
                    self.pace.answered(self._begun_s)
                self._rounds += 1
                self._say(msg.ParityReply(self._cascade.answer(message.wanted)))
            case msg.Undecoded() if self._ldpc is not None:
                self._rounds += 1
                self._say(msg.Syndrome(self._ldpc.more(message.frames)))
            case msg.Reconciled() if self._cascade is not None or self._ldpc is not None:
                if message.errors > self.n:
                    raise ProtocolError("bob sent a number of errors that does not belong here")
                self._cascade = self._ldpc = None
                if self.method is not None:
                    self.pace.reconciled(self.method, self.n, self._rounds, self._begun_s)
                self.corrected = message.errors
                self._judge_length()
                self.reconciled = True
            case msg.Verdict() if self._seed is not None:
                self.verified = message.equal
                if not message.equal:
                    raise BlockFailed("verification failed: the corrected blocks differ")
            case _:
                raise _unexpected("bob", message)

    def _reconcile(self) -> None:
        rate = self._error_estimate()
        self.method = choose(
            self._parameters.reconciliation,
            rate,
            self.n,
            self.terms.leak_budget,
            self.pace,
        )
        self._begun_s = self.pace.now()
        words = self._randomness.words(self._purpose("permutations"), 0, 2)
        key = words.astype("<u8").tobytes()
        self._say(msg.Reconciliation(self.method, key))
        number = int.from_bytes(key, "little")
        if self.method == "ldpc":
            self._ldpc = ldpc.Reference(self._bits, rate, number)
            self._say(msg.Syndrome(self._ldpc.syndrome()))
        else:
            self._cascade = Reference(self._bits, rate, number)

    def verify(self, reserve: int) -> None:
        """Draw the seeds, now, after the block's last click, and for this block only.

        Args:
            reserve: Bytes of the key that go to the authentication pool.
        """
        length = self.key_bytes
        count = tag_seed_bits(self.n, self.terms.verify_bits)
        seed = random_bits(self._randomness, self._purpose("verify"), count)
        self._seed = self._seeds.draw(self._randomness, str(self.number), self.n, 8 * length)
        self.reconciled = False
        self._say(
            msg.Verification(
                pack(seed).tobytes(), self._tag(seed), self._seed.tobytes(), length, reserve
            )
        )

    def key(self) -> bytes:
        """The key, once; the block is forgotten."""
        assert self.verified
        assert self._seed is not None
        return self._amplified(self._seed)

    def forget(self) -> None:
        """See :class:`Distiller`."""
        super().forget()
        self._cascade = self._ldpc = self._sampled = None


class DistillBob(Distiller):
    """Corrects his bits to Alice's."""

    _cascade: Corrector | None = None
    _ldpc: ldpc.Corrector | None = None
    _awaits: type[msg.Message] | None = None
    _reconciled = False

    def begin(self) -> None:
        """Wait for Alice."""
        self._judge_terms()
        self._awaits = msg.Sample if self.terms.sample_bits else msg.Reconciliation

    def handle(self, message: msg.Message) -> bytes | None:
        """Take a message of Alice's about this block; returns the key once it is verified."""
        if self._awaits is None or not isinstance(message, self._awaits):
            raise _unexpected("alice", message)
        if isinstance(message, (msg.ParityReply, msg.Syndrome)):
            try:
                self._correct(message)
            except ProtocolError as error:
                raise BlockFailed(str(error)) from error
            return None
        match message:
            case msg.Sample():
                self._take_sample(message)
            case msg.Reconciliation():
                rate, key = self._error_estimate(), int.from_bytes(message.key, "little")
                if message.method == "ldpc":
                    self.method = "ldpc"
                    self._ldpc = ldpc.Corrector(self._bits, rate, key)
                    self._awaits = msg.Syndrome
                else:
                    self.method = "cascade"
                    self._cascade = Corrector(self._bits, rate, key)
                    self._ask(self._cascade)
            case msg.Verification():
                return self._check(message)
            case _:
                raise _unexpected("alice", message)
        return None

    def _take_sample(self, message: msg.Sample) -> None:
        if (message.block, message.positions.size, message.leak_budget) != (
            self.m,
            self.terms.sample_bits,
            self.terms.leak_budget,
        ):
            raise ProtocolError("the parties derive different lengths from the same parameters")
        self._awaits = msg.Reconciliation
        mine, self._bits = split_sample(self._bits, message.positions)
        self._compare(mine, message.bits, message.positions)
        self._say(msg.SampleReply(mine))
        self._judge()

    def _correct(self, message: msg.ParityReply | msg.Syndrome) -> None:
        if isinstance(message, msg.ParityReply):
            assert self._cascade is not None
            self._cascade.accept(message.parities)
            self._ask(self._cascade)
            return
        assert self._ldpc is not None
        frames = self._ldpc.accept(message.bits)
        if frames is None:
            self._corrected(self._ldpc)
        else:
            self._say(msg.Undecoded(frames))

    def _ask(self, corrector: Corrector) -> None:
        wanted = corrector.request()
        if wanted is None:
            self._corrected(corrector)
        else:
            self._awaits = msg.ParityReply
            self._say(msg.ParityRequest(wanted))

    def _corrected(self, corrector: Corrector | ldpc.Corrector) -> None:
        self._bits = corrector.bits
        self.corrected = corrector.errors
        self._cascade = self._ldpc = None
        self._awaits = msg.Verification
        self._say(msg.Reconciled(self.corrected))
        self._judge_length()

    def _check(self, message: msg.Verification) -> bytes | None:
        self._awaits = None
        if message.tag.size != self.terms.verify_bits or message.key_bytes != self.key_bytes:
            raise ProtocolError("the parties derive different lengths from the same parameters")
        count = tag_seed_bits(self.n, self.terms.verify_bits)
        if len(message.seed) != count // 8:
            raise ProtocolError("alice sent a seed of another size")
        tag = self._tag(np.unpackbits(np.frombuffer(message.seed, np.uint8)))
        self.verified = hmac.compare_digest(tag.tobytes(), message.tag.tobytes())
        if not self.verified:
            return None
        seed = np.frombuffer(message.amplification_seed, np.uint8)
        return self._amplified(
            self._seeds.admit(str(self.number), seed, self.n, 8 * self.key_bytes)
        )

    def forget(self) -> None:
        """See :class:`Distiller`."""
        super().forget()
        self._cascade = self._ldpc = None


def _unexpected(sender: str, message: msg.Message) -> ProtocolError:
    return ProtocolError(f"{sender} sent a {type(message).__name__} that does not belong here")
