"""Measurement-device-independent BB84: two senders, and a relay that nobody trusts.

Both parties send weak coherent pulses, each with an intensity, a basis and a bit chosen at random,
to a relay in the middle. It announces the slots in which it saw a Bell state, psi- or psi+ (Lo,
Curty and Qi, PRL 108, 130503 (2012)). Then, and only for those slots, the parties tell each other
bases and intensities. Z with both signals makes the key; everything else of one basis is revealed:
X tells the phase errors of single pairs, Z of other intensities what reconciliation has to expect.
Bob flips his bit as the Bell state wants: psi- always, psi+ in Z.

Each Bell state is a block of its own in the :class:`~.session.Session`, with its own counts, leak,
hashes and epsilons: the sum over Bell states in the key length of Curty et al., Nat. Commun. 5,
3732 (2014), :func:`~.mdi_bound.mdi_key_length`. A block is a number of shots set before; block 2b
takes the psi-, 2b + 1 the psi+ of the same shots.

**What it removes**: all that an attacker can do to detectors or the relay (blinding, efficiency
mismatch, time shifts, back flashes, a malicious station). What the relay says is only ever data: a
false announcement makes errors in X, or gains that fit no photon numbers, and shortens or
stops the key. It goes to Alice alone, who passes it on authenticated, so that it cannot say two
things.

**What stays**: the sources. Phases uniformly random from pulse to pulse and Poissonian photon
numbers at the stated means; the four states, exactly, at every intensity; no trace of the setting
in time, spectrum or the pulse before; no light sent into the modulators and back (Trojan horse);
and laboratories that leak nothing. None of it can be seen from the data here.

**Length.** Curty's proof is one for fixed terms: the reserve for reconciliation is charged whole,
whatever was told, and a block beyond it gives no key. The length follows from the public counts of
announcements, as in the paper; a proof that covers this as variable length, such as Tupkary et al.
give for BB84, is not published to our knowledge. All shots of a block are played before anything
is decided, so no counts end it early. Bases of a shot are told while later ones are still to come:
pulses are independent of each other, but an attacker who adapts to them is covered only as far as
Curty's independent trials are (their Methods), as with every implementation that sifts on the way.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError, TagBatch
from . import messages as msg
from . import wire
from .distill import RawBlock, Terms
from .estimation import ErrorHistory, Errors
from .finite_key import KeyBound, leak_budget
from .mdi_bound import MdiBound, MdiSources, mdi_key_length
from .randomness import Randomness
from .sifting_party import Said
from .slots import Pulses, channel_delays, draw_pulses, find_shot, public_pulses

__all__ = [
    "BELL_STATES",
    "DETECTORS",
    "MdiAlice",
    "MdiBob",
    "MdiTerms",
    "Relay",
    "Tally",
]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
Role = Literal["alice", "bob"]

BELL_STATES = ("psi-", "psi+")
#: Detectors of a relay: output of its beam splitter, and polarization.
DETECTORS = ("cH", "cV", "dH", "dV")

_VACUUM = 2
# Bell state of each pattern of clicks; bit j is DETECTORS[j]. H and V must both click.
_NONE = 2
_STATE_OF = np.full(16, _NONE, np.uint8)
_STATE_OF[[0b1001, 0b0110]] = 0
_STATE_OF[[0b0011, 0b1100]] = 1

_ASSUMPTIONS = (
    "pulses of random phase and Poissonian photon numbers of the stated means, at both parties",
    "the four states exactly, and no other trace of bit, basis or intensity in any pulse",
    "no light from outside that comes back out of the modulators",
    "nothing about the relay and its detectors",
    "bases of a shot are told while later shots are still to come",
    "the length follows the counts of announcements, by a bound that was proved for fixed terms",
    "laboratories leak nothing; random numbers that nobody can foresee",
)


@dataclass(frozen=True, slots=True)
class MdiTerms:
    """The terms of a session, fixed before the data. Both parties compare :meth:`digest`.

    Attributes:
        alice: Mean photon numbers of Alice's intensities: signal, decoy, weakest.
        bob: Bob's.
        probabilities: Of each intensity, at both parties, in both bases.
        z_fraction: Probability of Z at each party.
        period_ps: Time between two pulses.
        slots: Pulses of a shot, its preamble included.
        preamble: Pulses that everybody knows, at the beginning of each shot.
        shots: Shots of a block.
        gate_ps: Full width of the relay's gate round each slot.
        eps_sec: Secrecy of the key of one Bell state.
        eps_cor: Its correctness.
        total_epsilon: Bound on the sum over all keys and tags of a session.
        tolerance: Error rate of the key for which leak is reserved.
        leak_efficiency: f at which leak is reserved, ``f h(tolerance)`` per bit; above 1.
        reconciliation: See :func:`.distill.choose`.

    Raises:
        ValueError: for a value outside its range.
    """

    alice: tuple[float, float, float]
    bob: tuple[float, float, float]
    probabilities: tuple[float, float, float]
    z_fraction: float
    period_ps: int
    slots: int
    preamble: int
    shots: int
    gate_ps: int
    eps_sec: float = 1e-10
    eps_cor: float = 1e-15
    total_epsilon: float = 1e-6
    tolerance: float = 0.03
    leak_efficiency: float = 1.1
    reconciliation: Literal["auto", "cascade", "ldpc"] = "auto"

    def __post_init__(self) -> None:
        p = self.probabilities
        checks = {
            "three probabilities above 0 that add up to 1 are needed": (
                all(x > 0.0 for x in p) and math.isclose(sum(p), 1.0, abs_tol=1e-9)
            ),
            "z_fraction must be above 0 and below 1": 0.0 < self.z_fraction < 1.0,
            "period_ps must be 1 or more": self.period_ps >= 1,
            "a shot needs a preamble, pulses behind it, and 2^24 of both at most": (
                1 <= self.preamble < self.slots <= 1 << 24
            ),
            "a block needs 1 shot or more": self.shots >= 1,
            "gate_ps must be above 0, at most the period": 0 < self.gate_ps <= self.period_ps,
            "epsilons must be in (0, 1), eps_cor at least 2^-126": (
                0.0 < self.eps_sec < 1.0 and 2.0**-126 <= self.eps_cor < 1.0
            ),
            "total_epsilon must be at least that of one key and below 1": (
                self.epsilon <= self.total_epsilon < 1.0
            ),
            "tolerance must be above 0 and below 0.5": 0.0 < self.tolerance < 0.5,
            "leak_efficiency must be above 1: no code reaches the Shannon limit": (
                1.0 < self.leak_efficiency < math.inf
            ),
            "reconciliation must be auto, cascade or ldpc": (
                self.reconciliation in ("auto", "cascade", "ldpc")
            ),
        }
        for text, fine in checks.items():
            if not fine:
                raise ValueError(text)
        self.sources("Z")  # checks the intensities

    @property
    def epsilon(self) -> float:
        """Security parameter of the key of one Bell state."""
        return self.eps_sec + self.eps_cor

    @property
    def verify_bits(self) -> int:
        """Length t of the verification tag: it collides with less than ``eps_cor``.

        The bound's ``log2(8/eps_cor)`` pays for it and for the bit of the verdict.
        """
        return math.ceil(-math.log2(self.eps_cor)) + 1

    def sources(self, basis: Literal["Z", "X"]) -> MdiSources:
        """What both send in one basis, and how often."""
        both = self.z_fraction**2 if basis == "Z" else (1.0 - self.z_fraction) ** 2
        shares = self.probabilities
        return MdiSources.independent(self.alice, self.bob, shares, shares, both)

    def digest(self) -> bytes:
        """BLAKE2b of all terms, 32 bytes; what the parties compare."""
        text = ";".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self))
        return hashlib.blake2b(text.encode(), digest_size=32, person=b"bellbench mdi").digest()


def preamble(role: Role, shot: int, terms: MdiTerms) -> Pulses:
    """What everybody knows of the beginning of a shot."""
    return public_pulses(f"mdi {role} shot {shot}", terms.preamble, _VACUUM)


# ------------------------------------------------------------------------------------ relay


class Relay:
    """Finds both senders' shots in its clicks and announces Bell states; holds no secrets.

    Args:
        detectors: Channel of its tagger -> one of :data:`DETECTORS`.
        terms: The session's terms.

    Attributes:
        delays_ps: Of its channels, from the light itself; None before the first shot.
        offset: Of the last shot; see :class:`.messages.Heralds`.
        missed: Shots that it did not find.
        lost: Shots in which its tagger lost clicks.

    Raises:
        ValueError: where a detector is missing.
    """

    def __init__(self, detectors: Mapping[int, str], terms: MdiTerms) -> None:
        if sorted(detectors.values()) != sorted(DETECTORS):
            raise ValueError(f"a relay has one channel for each of {', '.join(DETECTORS)}")
        self.delays_ps: dict[int, int] | None = None
        self.offset = 0
        self.missed = 0
        self.lost = 0
        self._terms = terms
        self._detectors = dict(detectors)
        self._batches: list[TagBatch] = []

    def feed(self, batch: TagBatch) -> None:
        """Take the next clicks; they belong to the next announcement."""
        self._batches.append(batch.select(tuple(self._detectors)))

    def announce(self, shot: int) -> bytes:
        """Announce what was seen in all clicks since the last announcement: a frame for Alice.

        Raises:
            ProtocolError: where a detector shows no light at the first shot.
        """
        times, rows = self._take()
        empty = msg.Heralds(shot, 0, np.zeros(0, np.int64), np.zeros(0, np.uint8))
        found = self._find(times, shot)
        return wire.encode(wire.Frame(None, shot, found(times, rows) if found else empty))

    def _take(self) -> tuple[Indices, Bits]:
        batches, self._batches = self._batches, []
        times = np.concatenate([np.zeros(0, np.int64), *(b.times_ps for b in batches)])
        channels = np.concatenate([np.zeros(0, np.int16), *(b.channels for b in batches)])
        self.lost += any(batch.losses for batch in batches)
        if self.delays_ps is None:
            self.delays_ps = channel_delays(
                times, channels, self._detectors, float(self._terms.period_ps)
            )
        rows = np.zeros(times.size, np.uint8)
        for channel, label in self._detectors.items():
            own = channels == channel
            times[own] -= self.delays_ps[channel]
            rows[own] = DETECTORS.index(label)
        order = np.argsort(times, kind="stable")
        return times[order], rows[order]

    def _find(self, times: Indices, shot: int) -> _Gates | None:
        terms = self._terms
        roles: tuple[Role, Role] = ("alice", "bob")
        begins = []
        for role in roles:
            bright = (preamble(role, shot, terms).intensities == 0).astype(np.uint8)
            found = find_shot(times, bright, float(terms.period_ps))
            if found is None:
                self.missed += 1
                return None
            begins.append(found)
        alice, bob = begins
        self.offset = round((bob.begin_ps - alice.begin_ps) / alice.period_ps)
        return _Gates(shot, self.offset, alice.begin_ps, alice.period_ps, terms)


@dataclass(frozen=True, slots=True)
class _Gates:
    """Gates of a shot that was found; makes the announcement of its clicks."""

    shot: int
    offset: int
    begin_ps: float
    period_ps: float
    terms: MdiTerms

    def __call__(self, times: Indices, rows: Bits) -> msg.Heralds:
        terms = self.terms
        place = (times - self.begin_ps) / self.period_ps
        slot = np.rint(place).astype(np.int64)
        low, high = _common(self.offset, terms)
        gated = np.abs(place - slot) * (2.0 * self.period_ps) <= terms.gate_ps
        gated &= (slot >= low) & (slot < high)
        at, first = np.unique(slot[gated], return_index=True)
        clicked = np.left_shift(1, rows[gated]).astype(np.uint8)
        masks = np.bitwise_or.reduceat(clicked, first) if at.size else clicked
        states = _STATE_OF[masks]
        told = states != _NONE
        return msg.Heralds(self.shot, self.offset, at[told], states[told])


def _common(offset: int, terms: MdiTerms) -> tuple[int, int]:
    """Alice's slots, first and one behind the last, in which both send something secret."""
    return (
        terms.preamble + max(0, offset),
        terms.slots + min(0, offset),
    )


# ---------------------------------------------------------------------------------- parties


def _grid() -> Counts:
    return np.zeros((3, 3), np.int64)


@dataclass(eq=False)
class Tally:
    """Announcements of one Bell state in a block, by intensities [Alice][Bob]; all of it public.

    Attributes:
        pairs: Pulse pairs that the shots found had, whatever was sent in them.
        announced: Announcements, whatever was sent.
        key: Where both sent Z; of the first cell the key is made.
        key_wrong: Errors among those of the other cells, which are revealed.
        test: Where both sent X.
        test_wrong: Errors among those.
    """

    pairs: int = 0
    announced: int = 0
    key: Counts = field(default_factory=_grid)
    key_wrong: Counts = field(default_factory=_grid)
    test: Counts = field(default_factory=_grid)
    test_wrong: Counts = field(default_factory=_grid)

    @property
    def errors(self) -> Errors:
        """Revealed bits and errors among them, in Z and X."""
        compared = int(self.key.sum() - self.key[0, 0]), int(self.test.sum())
        return Errors(compared, (int(self.key_wrong.sum()), int(self.test_wrong.sum())))

    @property
    def expected_error(self) -> float:
        """Error rate of the key's bits, as the brighter of the other cells let one expect."""
        bright = np.s_[:_VACUUM, :_VACUUM]
        compared = int(self.key[bright].sum() - self.key[0, 0])
        return (int(self.key_wrong[bright].sum()) + 1) / (compared + 2)

    def bound(self, terms: MdiTerms, leak: int = 0) -> MdiBound:
        """Curty's bound for these counts, without the bits where Alice sent no photon.

        Reconciliation speaks both ways, and we take the error pattern as public
        (``docs/security.md``): who knows Bob's bit, as of two photons, then has Alice's.
        """
        found = mdi_key_length(
            terms.sources("Z"),
            self.key,
            terms.sources("X"),
            self.test,
            self.test_wrong,
            float(self.key[0, 0]),
            leak,
            terms.eps_sec,
            terms.eps_cor,
        )
        shown = math.ceil(found.vacuum)
        return replace(found, length=max(0, found.length - shown), raw=found.raw - shown)


@dataclass(eq=False)
class _Open:
    """A block that is being sifted."""

    next: int
    bits: list[Bits] = field(default_factory=list)
    slots: list[Indices] = field(default_factory=list)
    #: Of a shot that waits for the peer's answer.
    waiting: _Shot | None = None


@dataclass(frozen=True, eq=False)
class _Shot:
    """What one party sent in the heralded slots of a shot, and what the peer says he sent."""

    number: int
    offset: int
    slots: Indices
    bases: Bits
    intensities: Bits
    bits: Bits = field(repr=False)
    their_bases: Bits | None = None
    their_intensities: Bits | None = None


class _Party:
    """What both senders have in common: a :class:`~.sifting_party.SiftingParty`.

    Args:
        terms: The session's terms.
        randomness: For choices of pulses; the session's.
        history: Takes the revealed errors; the session's.
    """

    role: ClassVar[Role]

    def __init__(self, terms: MdiTerms, randomness: Randomness, history: ErrorHistory) -> None:
        self.out: deque[Said | RawBlock] = deque()
        self.calibrating = False
        self.over = False
        self.hold = False
        self.coincidences = 0
        self.sifted = 0
        self.monitor = Errors()
        #: Public counts of each block.
        self.tallies: dict[int, Tally] = {}
        #: The bound on each block's key, for what is reserved; once it is complete.
        self.bounds: dict[int, MdiBound] = {}
        self._terms = terms
        self._randomness = randomness
        self._history = history
        self._prepared = 0
        self._sent: dict[int, Pulses] = {}
        self._open: dict[int, _Open] = {}
        self._finished = False

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What keys rest on, for the report."""
        return _ASSUMPTIONS

    @property
    def expected_bits(self) -> int:
        """Key of both Bell states of the youngest block, if it ended now and passed all tests."""
        youngest = sorted(self.tallies)[-2:]
        return sum(self._bound(self.tallies[block]).length for block in youngest)

    @property
    def double_clicks(self) -> int:
        """None: a sender has no detectors."""
        return 0

    def prepare(self) -> Pulses:
        """Choose the pulses of the next shot, its preamble first. Secret until announced."""
        shot, terms = self._prepared, self._terms
        self._prepared += 1
        count = terms.slots - terms.preamble
        pulses = draw_pulses(self._randomness, shot, count, terms.probabilities, terms.z_fraction)
        self._sent[shot] = pulses
        return pulses.after(preamble(self.role, shot, terms))

    def feed(self, batch: TagBatch) -> None:
        """Nothing: senders have no clicks."""
        raise ProtocolError(f"{self.role} sends pulses and takes no clicks: feed the relay")

    def advance(self) -> None:
        """Nothing to say unasked."""

    def finish(self) -> None:
        """No more shots. Within a block that is an error: its length was set before."""
        self._finished = True
        self._see_whether_over()

    def terms(self, raw: RawBlock) -> Terms:
        """What Curty's proof says of the block."""
        terms, tally = self._terms, self.tallies[raw.number]
        n = raw.bits.size
        bound = self.bounds[raw.number] = self._bound(tally)
        key = KeyBound(
            length=bound.length,
            nu=0.0,
            correctness=bound.correctness,
            # of the 266 equal failures one is that of the hash
            estimation=bound.secrecy * 265 / 266,
            amplification=bound.secrecy / 266,
            raw=bound.raw,
        )
        refusal = ""
        if not bound.length // 8:
            state = BELL_STATES[raw.number % 2]
            refusal = (
                f"{state}: too few announcements for a finite key: of {n} bits at least"
                f" {bound.vacuum:.0f} came of vacuum and {bound.single:.0f} of single pairs, with a"
                f" phase error up to {bound.phase_error:.1%}; the bound at epsilon"
                f" {terms.epsilon:g} gives {bound.raw:.0f} bits"
            )
        return Terms(
            sample_bits=0,
            leak_budget=self._reserve(n),
            verify_bits=terms.verify_bits,
            error_rate=tally.expected_error,
            tolerance=terms.tolerance,
            length=lambda leak: key,
            refusal=refusal,
        )

    def counts(self) -> dict[str, Any]:
        """Figures of this party's own. **Not public**."""
        return {"shots": self._prepared}

    def forget(self) -> None:
        """Let go of every choice."""
        self._sent.clear()
        self._open.clear()

    def _reserve(self, n: int) -> int:
        return leak_budget(n, self._terms.tolerance, self._terms.leak_efficiency)

    def _bound(self, tally: Tally) -> MdiBound:
        return tally.bound(self._terms, self._reserve(int(tally.key[0, 0])))

    def _turn(self, block: int | None, shot: int) -> tuple[int, _Open]:
        """The block of a message, and where it stands."""
        shots = self._terms.shots
        if block is None or block // 2 != shot // shots:
            raise ProtocolError(f"shot {shot} does not belong to block {block}")
        opened = self._open.get(block)
        if opened is None:
            if block in self.tallies:
                raise ProtocolError(f"block {block} is complete, and was told of once more")
            opened = self._open[block] = _Open(block // 2 * shots)
            self.tallies[block] = Tally()
        if shot != opened.next:
            raise ProtocolError(f"shot {shot} came in place of shot {opened.next}")
        return block, opened

    def _chosen(self, shot: int, offset: int, slots: Indices, own: Indices) -> _Shot:
        """What this party sent in its slots ``own``; ``slots`` are Alice's."""
        sent = self._sent.get(shot)
        if sent is None:
            raise ProtocolError(f"shot {shot} was announced, which {self.role} has not sent")
        low, high = _common(offset, self._terms)
        if slots.size and not (low <= slots[0] and slots[-1] < high):
            raise ProtocolError(f"shot {shot}: announced slots in which not both sent")
        at = own - self._terms.preamble
        return _Shot(shot, offset, slots, sent.bases[at], sent.intensities[at], sent.bits[at])

    def _close_shot(self, block: int, opened: _Open, shot: _Shot, theirs: Bits) -> None:
        """Count a shot whose test bits are known to both, and keep what makes the key."""
        assert shot.their_bases is not None
        assert shot.their_intensities is not None
        both = (shot.intensities, shot.their_intensities)
        alice, bob = both if self.role == "alice" else both[::-1]
        key, test = _parts(shot)
        cell = 3 * alice.astype(np.int64) + bob
        in_x = shot.bases == 1
        same = shot.bases == shot.their_bases
        wrong = np.zeros(cell.size, np.bool_)
        wrong[test] = shot.bits[test] != theirs

        def grid(which: npt.NDArray[np.bool_]) -> Counts:
            return np.bincount(cell[which], minlength=9).reshape(3, 3)

        tally = self.tallies[block]
        low, high = _common(shot.offset, self._terms)
        tally.pairs += high - low
        tally.announced += cell.size
        tally.key += grid(same & ~in_x)
        tally.key_wrong += grid(wrong & ~in_x)
        tally.test += grid(same & in_x)
        tally.test_wrong += grid(wrong & in_x)
        self.coincidences += cell.size
        self.sifted += int(np.count_nonzero(same))
        times = (shot.number * self._terms.slots + shot.slots) * self._terms.period_ps
        self.monitor += self._history.add(shot.bits[test], theirs, shot.bases[test], times[test])
        opened.bits.append(shot.bits[key])
        opened.slots.append(times[key])
        opened.waiting = None
        opened.next += 1
        if opened.next % self._terms.shots == 0:
            self._close_block(block, opened)

    def _close_block(self, block: int, opened: _Open) -> None:
        del self._open[block]
        bits, times = np.concatenate(opened.bits), np.concatenate(opened.slots)
        tally = self.tallies[block]
        self.out.append(
            RawBlock(block, bits, np.zeros_like(bits), times, tally.announced, tally.errors)
        )
        self._see_whether_over()

    def _see_whether_over(self) -> None:
        self.over = self._finished and not self._open


def _parts(shot: _Shot) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of the slots make key, and which are revealed."""
    assert shot.their_intensities is not None
    same = shot.bases == shot.their_bases
    signals = (shot.intensities == 0) & (shot.their_intensities == 0)
    key = same & signals & (shot.bases == 0)
    return key, same & ~key


def _check_settings(sender: str, shot: _Shot, bases: Bits, intensities: Bits) -> None:
    if bases.shape != shot.slots.shape or intensities.shape != shot.slots.shape:
        raise ProtocolError(f"{sender} tells another number of settings than was announced")
    if intensities.size and int(intensities.max()) > _VACUUM:
        raise ProtocolError(f"{sender} tells of an intensity that there is not")


class MdiAlice(_Party):
    """Takes what the relay announces, and passes it on. Her bits are the reference."""

    role = "alice"

    def __init__(self, terms: MdiTerms, randomness: Randomness, history: ErrorHistory) -> None:
        super().__init__(terms, randomness, history)
        self._announced = 0
        self._frames: deque[bytes] = deque()

    def heralds(self, frame: bytes) -> None:
        """Take the relay's next frame; call :meth:`~.session.Session.advance` then.

        Nothing in it is trusted. What is malformed ends the session there.
        """
        self._frames.append(frame)

    def advance(self) -> None:
        """Tell Bob of each announcement, Bell state by Bell state, in the blocks of each."""
        while self._frames:
            self._pass_on(self._frames.popleft())

    def finish(self) -> None:
        """See :class:`_Party`."""
        if self._open or self._announced % self._terms.shots:
            raise ProtocolError("the exchange ended within a block: play all of its shots")
        super().finish()

    def _pass_on(self, frame: bytes) -> None:
        heralds = wire.decode(frame).message
        if not isinstance(heralds, msg.Heralds):
            raise ProtocolError(f"the relay sent a {type(heralds).__name__}")
        shot = heralds.shot
        if shot != self._announced:
            raise ProtocolError(f"the relay announced shot {shot} in place of {self._announced}")
        if abs(heralds.offset) >= self._terms.slots - self._terms.preamble:
            raise ProtocolError(f"the relay says that the shots differ by {heralds.offset} slots")
        parts = []
        for state in range(len(BELL_STATES)):
            slots = heralds.slots[heralds.states == state]
            parts.append(self._chosen(shot, heralds.offset, slots, slots))
        del self._sent[shot]
        self._announced += 1
        for state, part in enumerate(parts):
            block, opened = self._turn(2 * (shot // self._terms.shots) + state, shot)
            if opened.waiting is not None:
                raise ProtocolError("an announcement came before Bob answered the last one")
            opened.waiting = part
            self.out.append(
                Said(
                    block,
                    msg.Heralded(shot, part.offset, part.slots, part.bases, part.intensities),
                )
            )

    def handle(self, block: int | None, message: msg.Message) -> None:
        """Take Bob's settings and test bits."""
        if not isinstance(message, msg.Matched):
            raise ProtocolError(f"bob sent a {type(message).__name__}, which is not of MDI")
        number, opened = self._turn(block, message.shot)
        waiting = opened.waiting
        if waiting is None:
            raise ProtocolError("bob answered what was not asked")
        _check_settings("bob", waiting, message.bases, message.intensities)
        shot = replace(waiting, their_bases=message.bases, their_intensities=message.intensities)
        test = _parts(shot)[1]
        if message.bits.size != np.count_nonzero(test):
            raise ProtocolError("bob revealed another number of bits than are for testing")
        self.out.append(Said(number, msg.Compared(shot.number, shot.bits[test])))
        self._close_shot(number, opened, shot, message.bits)


class MdiBob(_Party):
    """Answers with his settings, and turns his bits to Alice's."""

    role = "bob"

    def handle(self, block: int | None, message: msg.Message) -> None:
        """Take Alice's announcement, or her test bits."""
        if isinstance(message, msg.Heralded):
            self._answer(block, message)
        elif isinstance(message, msg.Compared):
            self._compare(block, message)
        else:
            raise ProtocolError(f"alice sent a {type(message).__name__}, which is not of MDI")

    def _answer(self, block: int | None, message: msg.Heralded) -> None:
        number, opened = self._turn(block, message.shot)
        if opened.waiting is not None:
            raise ProtocolError("alice announced a shot before she compared the last one")
        if abs(message.offset) >= self._terms.slots - self._terms.preamble:
            raise ProtocolError(f"alice says that the shots differ by {message.offset} slots")
        own = self._chosen(
            message.shot, message.offset, message.slots, message.slots - message.offset
        )
        _check_settings("alice", own, message.bases, message.intensities)
        # Both anticorrelate in Z, in X only psi- does.
        flip = np.uint8(1) if number % 2 == 0 else (own.bases ^ np.uint8(1))
        shot = opened.waiting = replace(
            own,
            bits=own.bits ^ flip,
            their_bases=message.bases,
            their_intensities=message.intensities,
        )
        test = _parts(shot)[1]
        self.out.append(
            Said(number, msg.Matched(shot.number, shot.bases, shot.intensities, shot.bits[test]))
        )

    def _compare(self, block: int | None, message: msg.Compared) -> None:
        number, opened = self._turn(block, message.shot)
        shot = opened.waiting
        if shot is None:
            raise ProtocolError("alice compared what was not announced")
        if message.bits.size != np.count_nonzero(_parts(shot)[1]):
            raise ProtocolError("alice revealed another number of bits than are for testing")
        self._close_shot(number, opened, shot, message.bits)
        if all(self._passed(shot.number, state) for state in range(len(BELL_STATES))):
            self._sent.pop(shot.number, None)

    def _passed(self, shot: int, state: int) -> bool:
        block = 2 * (shot // self._terms.shots) + state
        if block in self._open:
            return self._open[block].next > shot
        return block in self.tallies
