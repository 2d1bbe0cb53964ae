"""BB84 with decoy states, prepared and measured: what each party does until a block is complete.

:class:`Bb84Alice` and :class:`Bb84Bob` are sifting parties of a :class:`.session.Session`::

    session = Session("alice", None, terms, sifting=lambda r, h: Bb84Alice(terms, r, h), ...)

Course. Alice plays *shots* (:mod:`.slots`), each with fresh choices: :meth:`Bb84Alice.prepare`
gives the pulses, :meth:`Bb84Alice.sent` says that they have left. Bob finds each shot in his
clicks and says so. A block is a number of shots fixed before (:attr:`Bb84Terms.shots`), so nothing
that is seen decides when it ends, and **nothing is announced of a block before its last shot has
been received**: slots, bases and intensities are told when no pulse of the block can be acted on
any more. Then, shot by shot, Bob tells slots and bases of his detections; Alice which have her
basis, their intensities, and her bits in the test basis X; Bob his bits there. The bits of the key
basis Z stay secret. Both count detections in Z and X and the errors in X by intensity, which by
:func:`block_terms` give the length of the key.

**Traffic.** A detection takes ``log2(slots a detection) + 1.5`` bits, 1 for its basis, 1 for
whether it is kept; a kept one 2 for its intensity, and in X 2 for the bits.

What the key rests on beside the bounds of :mod:`.decoy` (:data:`BB84_ASSUMPTIONS`):

- *Random phases.* Photon numbers are Poisson only if each pulse has a phase of its own that nobody
  knows. A laser driven below threshold between pulses does that; one carved out of continuous
  light by a modulator does not, without a phase modulator: neighbours then share their phase (Tang
  et al., PRA 88, 022308 (2013)). Nothing here checks it.
- *No correlations.* Modulators and their drivers remember: intensity and state of a pulse hang on
  the one before (Yoshino et al., npj Quantum Inf. 4, 8 (2018)), which opens the bounds.
- *No side channels of the source.* Intensity and state must not show in spectrum, timing or shape,
  nor be read by light sent in (Trojan horse). States are four points on one great circle, exactly;
  a loss-tolerant analysis of others is not done.
- *Intensities as stated.* The calibrated mean photon numbers are taken as exact.
- *Passive basis choice.* A beam splitter chooses Bob's basis; its ratio hangs on wavelength and
  could be steered (Li et al., PRA 84, 062308 (2011)). Double clicks become random bits in a random
  one of the bases that clicked (:func:`.slots.to_slots`), squashing proved for even odds.
- *Efficiency* that hangs neither on basis nor outcome: mismatch of detectors, time shifts at the
  gate's edges, blinding and back-flash are outside. Slots that a detector may have been blind in
  count as not detected. Per-basis rates are told (:attr:`Bb84Alice.tally`), not corrected for.
- *Delays* of the detectors found in the light of the link can be bent (``docs/security.md``):
  give own ones.
- *Authentic messages*, and randomness of the operating system.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...instruments import Loss, ProtocolError, TagBatch, concatenate
from ..timing._streams import live
from . import messages as msg
from .decoy import (
    DecoyBound,
    DecoySource,
    lim_key_length,
    rusca_key_length,
    variable_key_length,
)
from .distill import RawBlock, Terms
from .estimation import ErrorHistory, Errors
from .finite_key import KeyBound, leak_budget
from .parameters import BASES, Detectors
from .randomness import Randomness
from .sifting import corrected
from .sifting_party import Said
from .slots import (
    Detections,
    Pulses,
    channel_delays,
    draw_pulses,
    find_shot,
    public_pulses,
    to_slots,
)

__all__ = [
    "BB84_ASSUMPTIONS",
    "Bb84Alice",
    "Bb84Bob",
    "Bb84Terms",
    "DecoyCounts",
    "Tally",
    "block_bound",
    "block_terms",
    "calibration_pulses",
    "receiver_gains",
]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]

#: Index of the bases; Z makes the key.
_KEY, _TEST = 0, 1
#: Clicks of Bob that may wait: some 0.4 GB.
_WAITING = 1 << 25
#: Margin of the leak reserve over the error rate of the test basis, in standard deviations.
_MARGIN = 3.0
#: Blocks whose counts are remembered for the report.
_REMEMBERED = 1000

BB84_ASSUMPTIONS = (
    "pulses with photon numbers exactly Poisson at the stated intensities: phases random and of"
    " their own, no correlation between pulses, no other trace of intensity or state",
    "four states on one great circle, exactly; no light sent into the source comes back",
    "a passive choice of basis that nothing outside influences; double clicks become random bits",
    "detection efficiency that depends neither on basis nor on outcome; blinding is outside; slots"
    " within the dead time after a click count as not detected",
    "slots, bases and intensities of a block are told after its last pulse was received",
    "laboratories leak nothing; random numbers that nobody can foresee",
)


@dataclass(frozen=True, slots=True)
class Bb84Terms:
    """The terms of a session, fixed before the first pulse; the parties compare :meth:`digest`.

    Attributes:
        intensities: Mean photon numbers, the signal first; two or three.
        probabilities: Of each, the same in both bases.
        z_fraction: Probability that Alice prepares in Z, the key basis.
        shots: Shots that make one block.
        slots: Pulses of a shot behind its preamble.
        preamble: Public pulses before them; some 100 bright ones must be detected at least, and
            more where the weakest intensity is not much weaker.
        period_ps: Of the slots.
        gate_ps: Full width round a slot's centre in which clicks count; wide beside the jitter.
        dead_time_ps: At least the longest time that one of Bob's detectors is blind after a click.
        eps_sec: Secrecy of one block's key.
        eps_cor: Correctness of one block's key.
        total_epsilon: Bound on the sum over all blocks and tags of a session.
        tolerance: Error rate of the test basis above which there is no key.
        leak_efficiency: f at which the leak of reconciliation is reserved; above 1.
        bound: ``"variable"``: Tupkary et al., whose proof covers a length that follows from the
            counts; ``"lim"``: Lim et al., as is common, though its proof is for fixed lengths;
            both with two decoys. ``"rusca"``: Rusca et al., one decoy, of the same kind as Lim's.
            Phase errors by Serfling's tail, all three.
        clock_ppm: Most that the parties' clocks differ by, in parts per million.
        patience_ps: Bob gives a shot up this long after he heard that it was sent.
        reconciliation: See :func:`.distill.choose`.

    Raises:
        ValueError: for a value outside its range.
    """

    intensities: tuple[float, ...]
    probabilities: tuple[float, ...]
    z_fraction: float
    shots: int
    slots: int
    preamble: int
    period_ps: int
    gate_ps: int = 1000
    dead_time_ps: int = 50_000
    eps_sec: float = 1e-9
    eps_cor: float = 1e-12
    total_epsilon: float = 1e-6
    tolerance: float = 0.05
    leak_efficiency: float = 1.15
    bound: Literal["variable", "lim", "rusca"] = "variable"
    clock_ppm: float = 50.0
    patience_ps: int = 2 * 10**11
    reconciliation: Literal["auto", "cascade", "ldpc"] = "auto"

    def __post_init__(self) -> None:
        checks = {
            "bound rusca takes two intensities, the others three": (
                len(self.source.intensities) == (2 if self.bound == "rusca" else 3)
            ),
            "z_fraction must be above 0 and below 1": 0.0 < self.z_fraction < 1.0,
            "shots must be 1 to 65536": 1 <= self.shots <= 1 << 16,
            "slots must be 1 to 2^24": 1 <= self.slots <= msg.MAX_EVENTS,
            "preamble must be 64 to 2^20": 64 <= self.preamble <= 1 << 20,
            "period_ps must be 1 or more": self.period_ps >= 1,
            "gate_ps must be 1 or more, at most the period": 1 <= self.gate_ps <= self.period_ps,
            "dead_time_ps must be 0 to 1 ms": 0 <= self.dead_time_ps <= 10**9,
            "eps_sec and eps_cor must be above 0": min(self.eps_sec, self.eps_cor) > 0.0,
            "eps_cor must be 2^-128 or more": self.eps_cor >= 2.0**-128,
            "total_epsilon must be at least that of a block and below 1": (
                self.epsilon <= self.total_epsilon < 1.0
            ),
            "tolerance must be above 0 and below 0.5": 0.0 < self.tolerance < 0.5,
            "leak_efficiency must be above 1: no code reaches the Shannon limit": (
                1.0 < self.leak_efficiency < math.inf
            ),
            "bound must be variable, lim or rusca": self.bound in ("variable", "lim", "rusca"),
            "clock_ppm must be 0 to 1000": 0.0 <= self.clock_ppm <= 1000.0,
            "patience_ps must be 0 to 1000 s": 0 <= self.patience_ps <= 10**15,
            "reconciliation must be auto, cascade or ldpc": (
                self.reconciliation in ("auto", "cascade", "ldpc")
            ),
        }
        for text, fine in checks.items():
            if not fine:
                raise ValueError(text)

    @property
    def source(self) -> DecoySource:
        """Intensities and probabilities, checked."""
        return DecoySource(self.intensities, self.probabilities)

    @property
    def epsilon(self) -> float:
        """Security parameter of one block."""
        return self.eps_sec + self.eps_cor

    @property
    def verify_bits(self) -> int:
        """Length of the verification tag: ``ceil(log2(1/eps_cor))``."""
        return math.ceil(-math.log2(self.eps_cor))

    @property
    def shot_slots(self) -> int:
        """Slots of a shot with its preamble."""
        return self.preamble + self.slots

    def digest(self) -> bytes:
        """BLAKE2b of all terms, 32 bytes; what the parties compare."""
        text = ";".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return hashlib.blake2b(text.encode(), digest_size=32, person=b"bellbench bb84").digest()


def calibration_pulses(terms: Bb84Terms, count: int) -> Pulses:
    """A shot that everybody knows, for :meth:`Bb84Bob.calibrate`; it is played first."""
    return public_pulses(f"calibration {terms.digest().hex()}", count, len(terms.intensities) - 1)


def _preamble(terms: Bb84Terms, shot: int) -> Pulses:
    name = f"shot {shot} {terms.digest().hex()}"
    return public_pulses(name, terms.preamble, len(terms.intensities) - 1)


@dataclass(frozen=True, slots=True)
class DecoyCounts:
    """What is public of a block, by intensity.

    Attributes:
        key: Detections kept in Z.
        test: Detections kept in X.
        wrong: Errors among these.
    """

    key: tuple[int, ...]
    test: tuple[int, ...]
    wrong: tuple[int, ...]

    @property
    def test_error(self) -> float | None:
        """Error rate of the test basis, all intensities together; None without any."""
        return sum(self.wrong) / sum(self.test) if sum(self.test) else None

    @property
    def expected_error(self) -> float:
        """The same, guessed where little was counted: what reconciliation is prepared for."""
        return (sum(self.wrong) + 1) / (sum(self.test) + 2)

    @property
    def reserved_error(self) -> float:
        """Error rate of the key basis that the leak is reserved for: with a margin."""
        n, m, e = sum(self.key), sum(self.test), self.expected_error
        return min(0.5, e + _MARGIN * math.sqrt(e * (1.0 - e) * (1.0 / (m + 2) + 1.0 / (n + 1))))


def block_bound(
    terms: Bb84Terms, counts: DecoyCounts, key_errors: int | None = None
) -> tuple[DecoyBound, int]:
    """Length of a block's key, and the leak that is reserved and charged for it.

    The reserve follows from public counts before reconciliation begins,
    ``ceil(f h(e) n)`` with e three standard deviations above the error rate of the test basis, and
    the key is shortened by all of it, and one bit for the public verdict of the verification,
    **whatever reconciliation used**: that is what the proofs allow (Tupkary et al. take the leak as
    fixed by what is announced before). A block that needs more is given up. The two bases may err
    differently; then f must make up for it.

    **Bits of empty pulses count for nothing**, though Lim's formula has them: reconciliation speaks
    both ways, and we take the error pattern as public (``docs/security.md``). Bob's bit of an
    empty pulse may be the attacker's own choice, who then learns Alice's from the pattern.

    With one decoy the errors of the key basis bound what came from empty pulses: all of them are
    taken for errors of the decoy, which is on the safe side and tells nothing of where they are.

    Args:
        terms: The terms.
        counts: Of the block.
        key_errors: Errors that reconciliation found; before that, as many as are reserved for.

    Returns:
        The bound, and the reserve in bits.
    """
    n = sum(counts.key)
    reserve = leak_budget(n, counts.reserved_error, terms.leak_efficiency)
    source, charged = terms.source, reserve + 1
    eps = terms.eps_sec, terms.eps_cor
    key, test, wrong = counts.key, counts.test, counts.wrong
    if terms.bound == "rusca":
        if key_errors is None:
            key_errors = math.ceil(counts.reserved_error * n)
        decoy_errors = (0, min(key_errors, key[1]))
        found = rusca_key_length(
            source, key, decoy_errors, test, wrong, charged, *eps, sampling="serfling"
        )
    elif terms.bound == "lim":
        found = lim_key_length(source, key, test, wrong, charged, *eps, sampling="serfling")
    else:
        found = variable_key_length(source, key, test, wrong, charged, *eps)
    shown = math.ceil(found.vacuum)
    found = dataclasses.replace(found, length=max(0, found.length - shown), raw=found.raw - shown)
    return found, reserve


def block_terms(terms: Bb84Terms, counts: DecoyCounts) -> Terms:
    """What the proof says of a block; see :func:`block_bound`."""
    bound, reserve = block_bound(terms, counts)
    error = counts.test_error
    refusal = ""
    if error is None or error > terms.tolerance:
        shown = "unknown" if error is None else f"{error:.2%}"
        refusal = f"QBER {shown} in the test basis, above tolerance {terms.tolerance:.2%}"

    def counted(errors: int) -> KeyBound:
        return _as_key(block_bound(terms, counts, errors)[0])

    return Terms(
        sample_bits=0,
        leak_budget=reserve,
        verify_bits=terms.verify_bits,
        error_rate=min(counts.expected_error, terms.tolerance),
        tolerance=terms.tolerance,
        length=lambda leak: _as_key(bound),
        refusal=refusal,
        counted=counted if terms.bound == "rusca" else None,
    )


def _as_key(bound: DecoyBound) -> KeyBound:
    # The secrecy of the decoy bounds is one figure: all of it stands under estimation.
    return KeyBound(bound.length, math.nan, bound.correctness, bound.secrecy, 0.0, bound.raw)


def receiver_gains(
    photons: npt.ArrayLike, efficiency: float, dark: float, misalignment: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Gain and error of weak coherent pulses at a receiver of four detectors, in closed form.

    A beam splitter chooses the basis at even odds; double clicks become random as in
    :func:`.slots.to_slots`. The gain is Q_mu of Ma, Qi, Zhao and Lo, PRA 72, 012326 (2005),
    ``1 - (1 - Y0) exp(-eta mu)`` with ``1 - Y0 = (1 - dark)^4``. The error is theirs for a single
    photon; a strong pulse clicks in both bases, and half of the time the other one is taken.

    Args:
        photons: Mean photon numbers.
        efficiency: From the source to a click, of all detectors together.
        dark: Probability of a dark count per slot and detector.
        misalignment: Part of the light of a basis that goes to the wrong detector of it.

    Returns:
        Probability of a detection in any basis; of one in the basis of the pulse; error rate of
        these.
    """
    half = efficiency * np.asarray(photons, np.float64) / 2.0
    right, wrong, other = (
        1.0 - (1.0 - dark) * np.exp(-half * part)
        for part in (1.0 - misalignment, misalignment, 0.5)
    )
    none, none_other = (1.0 - right) * (1.0 - wrong), (1.0 - other) ** 2
    both = (1.0 - none) * (1.0 - none_other)
    kept = (1.0 - none) * none_other + both / 2.0
    errors = none_other * (wrong * (1.0 - right) + right * wrong / 2.0) + both / 4.0
    return 1.0 - none * none_other, kept, errors / kept


class _Block:
    """Sifted bits of a block as they come in."""

    def __init__(self, levels: int) -> None:
        self.bits: list[Bits] = [np.zeros(0, np.uint8)]
        self.times: list[Indices] = [np.zeros(0, np.int64)]
        self.detections = 0
        self.errors = Errors()
        self.key = np.zeros(levels, np.int64)
        self.test = np.zeros(levels, np.int64)
        self.wrong = np.zeros(levels, np.int64)
        self.announced = 0  # shots
        self.done = 0

    def counts(self) -> DecoyCounts:
        return DecoyCounts(
            tuple(self.key.tolist()), tuple(self.test.tolist()), tuple(self.wrong.tolist())
        )


class _Party:
    """What Alice and Bob have in common; see :class:`.sifting_party.SiftingParty`.

    Args:
        terms: The terms.
        randomness: Of this party.
        history: Takes the errors of the test basis.

    Attributes:
        blocks: Counts and bound of the last blocks, by number; public.
    """

    peer = ""

    def __init__(self, terms: Bb84Terms, randomness: Randomness, history: ErrorHistory) -> None:
        self.out: deque[Said | RawBlock] = deque()
        self.calibrating = False
        self.over = False
        self.hold = False
        self.coincidences = 0
        self.sifted = 0
        self.monitor = Errors()
        self.blocks: dict[int, tuple[DecoyCounts, DecoyBound]] = {}
        self._agreed = terms
        self._levels = len(terms.intensities)
        self._randomness = randomness
        self._history = history
        self._finished = False
        self._open: dict[int, _Block] = {}

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What keys rest on, for the report."""
        proof = {
            "variable": "length from the counts: Tupkary et al., Quantum 9, 1937 (2025)",
            "lim": "length from the counts as if fixed before: Lim et al., PRA 89, 022307 (2014)",
            "rusca": "length from the counts as if fixed before: Rusca et al., APL 112, 171104"
            " (2018)",
        }
        return (*BB84_ASSUMPTIONS, proof[self._agreed.bound])

    @property
    def expected_bits(self) -> int:
        """0: nothing is known of a block before it is announced."""
        return 0

    @property
    def double_clicks(self) -> int:
        """Of this party, so far."""
        return 0

    def terms(self, raw: RawBlock) -> Terms:
        """What the proof says of a finished block."""
        return block_terms(self._agreed, self.blocks[raw.number][0])

    def forget(self) -> None:
        """Let go of every outcome."""
        self.out.clear()
        self._open.clear()

    def _say(self, block: int, message: msg.Message) -> None:
        self.out.append(Said(block, message))

    def _expect(self, fine: bool, what: str) -> None:
        if not fine:
            raise ProtocolError(f"{self.peer} sent {what} that does not belong here")

    def _times(self, number: int, shot: int, slots: Indices) -> Indices:
        """Public times of slots, on a clock of their own: shots follow each other at once."""
        terms = self._agreed
        return ((number * terms.shots + shot) * terms.slots + slots) * terms.period_ps

    def _add(
        self,
        number: int,
        shot: int,
        slots: Indices,
        bases: Bits,
        bits: Bits,
        levels: Bits,
        mine: Bits,
        theirs: Bits,
    ) -> None:
        """Sort the kept slots of a shot into the block; ends it with the last one."""
        block = self._open[number]
        key = bases == _KEY
        block.bits.append(bits[key])
        times = self._times(number, shot, slots)
        block.times.append(times[key])
        tested = levels[~key]
        block.key += np.bincount(levels[key], minlength=self._levels)
        block.test += np.bincount(tested, minlength=self._levels)
        block.wrong += np.bincount(tested[mine != theirs], minlength=self._levels)
        errors = self._history.add(mine, theirs, bases[~key], times[~key])
        block.errors += errors
        self.monitor += errors
        self.sifted += slots.size
        block.done += 1
        if block.done == self._agreed.shots:
            self._complete(number, block)

    def _complete(self, number: int, block: _Block) -> None:
        del self._open[number]
        counts = block.counts()
        self.blocks[number] = counts, block_bound(self._agreed, counts)[0]
        self.blocks.pop(number - _REMEMBERED, None)
        bits = np.concatenate(block.bits)
        self.out.append(
            RawBlock(
                number,
                bits,
                np.zeros(bits.size, np.uint8),
                np.concatenate(block.times),
                block.detections,
                block.errors,
            )
        )
        self._end()

    def _end(self) -> None:
        self.over = self._finished and not self._open

    def _decoys(self) -> dict[str, Any]:
        return {
            str(number): dataclasses.asdict(counts) | {"bound": dataclasses.asdict(bound)}
            for number, (counts, bound) in self.blocks.items()
        }


@dataclass(eq=False)
class Tally:
    """What Alice sent and Bob announced, over all blocks; public.

    Attributes:
        sent: int64, pulses behind preambles by intensity and Alice's basis, shape (levels, 2).
        detected: int64, of these, by intensity, Alice's basis and Bob's, shape (levels, 2, 2).
        lost_shots: Shots that Bob did not find; their pulses are among those sent.
    """

    sent: Indices
    detected: Indices
    lost_shots: int = 0


class Bb84Alice(_Party):
    """Prepares pulses, and says which detections to keep.

    Attributes:
        tally: Pulses and detections by intensity and basis.
    """

    peer = "bob"

    def __init__(self, terms: Bb84Terms, randomness: Randomness, history: ErrorHistory) -> None:
        super().__init__(terms, randomness, history)
        levels = self._levels
        self.tally = Tally(np.zeros((levels, 2), np.int64), np.zeros((levels, 2, 2), np.int64))
        self._shot = 0  # next one
        self._playing = False
        self._pulses: dict[int, Pulses] = {}
        self._received = 0
        self._told: tuple[int, int, Bits, Indices] | None = None  # awaits Bob's test bits

    @property
    def waiting(self) -> bool:
        """Whether a shot is on its way that Bob has not spoken of."""
        return self._playing or self._received < self._shot

    @property
    def between_blocks(self) -> bool:
        """Whether no block has begun that is not complete: a moment to end."""
        return not self._open

    def prepare(self) -> Pulses:
        """The pulses of the next shot, preamble first, to be played once.

        Raises:
            ProtocolError: while a shot is on its way, or after the end.
        """
        if self._finished or self.waiting:
            raise ProtocolError("alice cannot prepare a shot now: one is on its way, or it is over")
        terms = self._agreed
        fresh = draw_pulses(
            self._randomness, self._shot, terms.slots, terms.probabilities, terms.z_fraction
        )
        self._pulses[self._shot] = fresh
        self._playing = True
        place = 2 * fresh.intensities.astype(np.int64) + fresh.bases
        self.tally.sent += np.bincount(place, minlength=2 * self._levels).reshape(-1, 2)
        self._open.setdefault(self._shot // terms.shots, _Block(self._levels))
        return fresh.after(_preamble(terms, self._shot))

    def sent(self) -> None:
        """All pulses that :meth:`prepare` gave have left, or never will."""
        if not self._playing:
            raise ProtocolError("alice has prepared no shot that could have been sent")
        self._playing = False
        number, shot = divmod(self._shot, self._agreed.shots)
        self._shot += 1
        self._say(number, msg.Sent(shot))

    def feed(self, batch: TagBatch) -> None:
        """Alice has no clicks.

        Raises:
            ProtocolError: always.
        """
        raise ProtocolError("alice prepares, and takes no clicks")

    def advance(self) -> None:
        """Nothing: she answers."""

    def finish(self) -> None:
        """No shot comes any more.

        Raises:
            ProtocolError: within a block: its end is fixed before, as a number of shots.
        """
        self._finished = True
        if self._shot % self._agreed.shots or self._playing:
            raise ProtocolError(
                f"the exchange ended after {self._shot % self._agreed.shots} of the"
                f" {self._agreed.shots} shots of a block"
            )
        self._end()

    def handle(self, block: int | None, message: msg.Message) -> None:
        """Take a message of Bob about sifting."""
        match message:
            case msg.Received():
                place = (self._received // self._agreed.shots, self._received % self._agreed.shots)
                fine = self._received < self._shot and (block, message.shot) == place
                self._expect(fine, "news of a shot")
                self._received += 1
                self.tally.lost_shots += not message.found
            case msg.Detected():
                assert block is not None
                self._answer(block, message)
            case msg.Tested() if self._told is not None:
                number, shot, mine, _ = self._told
                fine = (block, message.shot) == (number, shot) and message.bits.shape == mine.shape
                self._expect(fine, "test bits")
                self._sift(number, shot, message.bits)
            case _:
                self._expect(False, f"a {type(message).__name__}")

    def _answer(self, number: int, message: msg.Detected) -> None:
        found, shots = self._open.get(number), self._agreed.shots
        self._expect(
            found is not None
            and self._told is None
            and number == min(self._open)
            and self._received >= (number + 1) * shots
            and message.shot == found.announced
            and (not message.slots.size or int(message.slots[-1]) < self._agreed.slots),
            "detections",
        )
        assert found is not None
        found.announced += 1
        found.detections += message.slots.size
        self.coincidences += message.slots.size
        pulses = self._pulses[number * shots + message.shot]
        slots = message.slots
        level, basis = pulses.intensities[slots], pulses.bases[slots]
        place = 4 * level.astype(np.int64) + 2 * basis + message.bases
        self.tally.detected += np.bincount(place, minlength=4 * self._levels).reshape(-1, 2, 2)
        kept = basis == message.bases
        mine = pulses.bits[slots[kept & (basis == _TEST)]]
        self._told = number, message.shot, mine, slots[kept]
        self._say(number, msg.Prepared(message.shot, kept.astype(np.uint8), level[kept], mine))

    def _sift(self, number: int, shot: int, theirs: Bits) -> None:
        assert self._told is not None
        _, _, mine, slots = self._told
        self._told = None
        pulses = self._pulses.pop(number * self._agreed.shots + shot)
        self._add(
            number,
            shot,
            slots,
            pulses.bases[slots],
            pulses.bits[slots],
            pulses.intensities[slots],
            mine,
            theirs,
        )

    def counts(self) -> dict[str, Any]:
        """Pulses and detections, and the decoy counts of blocks; public, all of it."""
        return {
            "sent": self.tally.sent.tolist(),
            "detected": self.tally.detected.tolist(),
            "lost_shots": self.tally.lost_shots,
            "decoy_blocks": self._decoys(),
        }

    def forget(self) -> None:
        """Let go of every choice."""
        super().forget()
        self._pulses.clear()
        self._told = None


class Bb84Bob(_Party):
    """Finds shots in his clicks, and announces what he detected.

    Args:
        terms: The terms.
        randomness: For double clicks.
        history: Takes the errors of the test basis.
        detectors: What his channels mean.
        known_delays: Delay of each channel in ps, from a calibration of his own; without them
            :meth:`calibrate` must find them before the first shot.
    """

    peer = "alice"

    def __init__(
        self,
        terms: Bb84Terms,
        randomness: Randomness,
        history: ErrorHistory,
        detectors: Detectors,
        *,
        known_delays: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(terms, randomness, history)
        if known_delays is not None:
            missing = [c for c in detectors.channels if c not in known_delays]
            if missing:
                raise ProtocolError(f"no known delay for channels {missing}")
        self.detectors = detectors
        #: Delays of the channels in ps; None before they are known.
        self.delays = None if known_delays is None else dict(known_delays)
        self.calibrating = self.delays is None
        #: Errors of the calibration, all of its pulses being public.
        self.calibration = Errors()
        self.blind_slots = 0
        self.clicks_outside = 0
        self._own_delays = known_delays is not None
        self._doubles = 0
        self._singles = dict.fromkeys(detectors.channels, 0)
        self._batches: list[TagBatch] = []
        self._losses: list[Loss] = []
        self._end_ps: int | None = None
        self._awaited: tuple[int, int] | None = None  # block and shot
        self._deadline = 0
        self._over = 0  # where the awaited shot ends, once it is seen
        self._shots: dict[int, list[Detections]] = {}
        self._told: tuple[int, int] | None = None  # detections that await Alice's answer
        self._next = 0  # shot expected next, over all blocks

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What keys rest on, for the report."""
        delays = (
            "detector delays from an own calibration"
            if self._own_delays
            else "detector delays found in the light of the link, which an attacker can bend"
        )
        return (*super().assumptions, delays)

    @property
    def double_clicks(self) -> int:
        """Slots in which several outcomes clicked, so far."""
        return self._doubles

    def calibrate(self, batch: TagBatch, pulses: int, *, most_errors: float = 0.15) -> None:
        """Find the delays of the channels in a shot of :func:`calibration_pulses`.

        Args:
            batch: A recording that holds the shot and no other.
            pulses: Number of its pulses.
            most_errors: Error rate in each basis above which it is not trusted.

        Raises:
            ProtocolError: where the shot is not found, or its errors are too many.
        """
        terms = self._agreed
        batch = _alive(batch).select(self.detectors.channels)
        delays = channel_delays(
            batch.times_ps,
            batch.channels,
            self.detectors.channels,
            terms.period_ps,
            clock_ppm=terms.clock_ppm,
        )
        times, outcomes = corrected(batch, self.detectors, delays)
        known = calibration_pulses(terms, pulses)
        bright = (known.intensities == 0).astype(np.uint8)
        shot = find_shot(times, bright, terms.period_ps, clock_ppm=terms.clock_ppm)
        if shot is None:
            raise ProtocolError(
                "the calibration shot is not found: no light, too much loss, or cables that differ"
                f" by more than half a slot of {terms.period_ps / 1000:g} ns"
            )
        found = to_slots(
            times,
            outcomes,
            shot,
            pulses,
            gate_ps=terms.gate_ps,
            dead_time_ps=terms.dead_time_ps,
            randomness=self._randomness,
            purpose="double clicks of the calibration",
        )
        same = known.bases[found.slots] == found.bases
        slots = found.slots[same]
        self.calibration = Errors.count(known.bits[slots], found.bits[same], found.bases[same])
        for basis, name in enumerate(BASES):
            error = self.calibration.qber(basis)
            if error is None or error > most_errors:
                shown = "no detections" if error is None else f"{error:.1%} errors"
                raise ProtocolError(f"the calibration shows {shown} in {name}: align the receiver")
        self.delays = delays
        self.calibrating = False

    def feed(self, batch: TagBatch) -> None:
        """Take the next clicks; :meth:`advance` makes use of them.

        Raises:
            ProtocolError: where the batch does not follow the last one, or too many wait.
        """
        try:
            batch.checked()
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if self._end_ps is not None and batch.begin_ps != self._end_ps:
            raise ProtocolError(
                f"batch from {batch.begin_ps} ps does not follow the last, up to {self._end_ps} ps"
            )
        self._end_ps = batch.end_ps
        self._losses += batch.losses
        batch = _alive(batch).select(self.detectors.channels)
        for channel in self._singles:
            self._singles[channel] += int(np.count_nonzero(batch.channels == channel))
        self._batches.append(batch)
        if sum(len(one) for one in self._batches) > _WAITING:
            raise ProtocolError(f"more than {_WAITING:,} clicks wait: alice is silent")

    def finish(self) -> None:
        """No clicks come any more: a shot that is awaited was not received."""
        self._finished = True
        if self._awaited is not None:
            self._find(final=True)
        self._announce()
        self._end()

    def advance(self) -> None:
        """Say what can be said by now."""
        if self._awaited is not None:
            self._find(final=False)
        self._announce()

    def _find(self, *, final: bool) -> None:
        """Look for the awaited shot."""
        terms, delays = self._agreed, self.delays
        assert self._awaited is not None
        number, index = self._awaited
        end = self._end_ps or 0
        give_up = final or end >= max(self._deadline, self._over)
        found = None
        if self._batches and not self._over:  # no shot fits into less
            shortest = round(terms.shot_slots * terms.period_ps * (1 - 1e-6 * terms.clock_ppm))
            self._over = self._batches[0].begin_ps + shortest
        if self._batches and delays is not None and (end >= self._over or give_up):
            batch = concatenate(self._batches)
            self._batches = [batch]
            times, outcomes = corrected(batch, self.detectors, delays)
            global_shot = number * terms.shots + index
            bright = (_preamble(terms, global_shot).intensities == 0).astype(np.uint8)
            shot = find_shot(times, bright, terms.period_ps, clock_ppm=terms.clock_ppm)
            if shot is not None:
                over = self._over = shot.end_ps(terms.shot_slots) + max(delays.values())
                if over <= end:
                    found = to_slots(
                        times,
                        outcomes,
                        shot,
                        terms.shot_slots,
                        gate_ps=terms.gate_ps,
                        dead_time_ps=terms.dead_time_ps,
                        randomness=self._randomness,
                        purpose=f"double clicks of shot {global_shot}",
                        losses=self._losses,
                        delays_ps=delays,
                    )
                    self._batches = [batch.split(min(max(over, batch.begin_ps), end))[1]]
                    self._losses = [loss for loss in self._losses if loss.end_ps > over]
        if found is None and not give_up:
            return
        if found is None:
            self._batches, self._losses = [], []
            none = np.zeros(0, np.uint8)
            detections = Detections(np.zeros(0, np.int64), none, none, 0, 0, 0)
        else:
            detections = _behind(found, terms.preamble)
            self._doubles += found.doubles
            self.blind_slots += found.blind
            self.clicks_outside += found.outside
        self._shots.setdefault(number, []).append(detections)
        self._awaited = None
        self._say(number, msg.Received(index, found is not None))

    def _announce(self) -> None:
        """Tell the detections of a block that has been received, one shot after the other."""
        if self._told is not None or not self._shots:
            return
        number = min(self._shots)
        block = self._open[number]
        if len(self._shots[number]) < self._agreed.shots or (self.hold and not block.announced):
            return
        found = self._shots[number][block.announced]
        self._told = number, block.announced
        block.announced += 1
        block.detections += found.slots.size
        self.coincidences += found.slots.size
        self._say(number, msg.Detected(self._told[1], found.slots, found.bases))

    def handle(self, block: int | None, message: msg.Message) -> None:
        """Take a message of Alice about sifting."""
        match message:
            case msg.Sent():
                assert block is not None
                place = divmod(self._next, self._agreed.shots)
                fine = self._awaited is None and not self._finished and not self.calibrating
                self._expect(fine and (block, message.shot) == place, "a shot")
                self._next += 1
                self._open.setdefault(block, _Block(self._levels))
                self._awaited, self._over = (block, message.shot), 0
                self._deadline = (self._end_ps or 0) + self._agreed.patience_ps
                self.advance()
            case msg.Prepared() if self._told is not None:
                self._expect((block, message.shot) == self._told, "what she prepared")
                self._sift(message)
                self._announce()
            case _:
                self._expect(False, f"a {type(message).__name__}")

    def _sift(self, message: msg.Prepared) -> None:
        assert self._told is not None
        number, shot = self._told
        found = self._shots[number][shot]
        kept = message.kept.astype(np.bool_)
        self._expect(kept.shape == found.slots.shape, "what she prepared")
        bases, bits = found.bases[kept], found.bits[kept]
        test = bits[bases == _TEST]
        levels = message.intensities
        fine = message.bits.shape == test.shape
        fine = fine and (not levels.size or int(levels.max()) < self._levels)
        self._expect(fine, "what she prepared")
        self._told = None
        self._say(number, msg.Tested(shot, test))
        if shot == self._agreed.shots - 1:
            del self._shots[number]
        self._add(number, shot, found.slots[kept], bases, bits, levels, test, message.bits)

    def counts(self) -> dict[str, Any]:
        """Figures of this party's own clicks. **Not public**: singles count outcomes."""
        return {
            "singles": {str(channel): count for channel, count in self._singles.items()},
            "double_clicks": self._doubles,
            "blind_slots": self.blind_slots,
            "clicks_outside_gates": self.clicks_outside,
            "decoy_blocks": self._decoys(),
        }

    def forget(self) -> None:
        """Let go of every outcome."""
        super().forget()
        self._batches.clear()
        self._shots.clear()


def _alive(batch: TagBatch) -> TagBatch:
    """Without the clicks inside losses."""
    if not batch.losses:
        return batch
    seen = live(batch)
    return dataclasses.replace(batch, times_ps=batch.times_ps[seen], channels=batch.channels[seen])


def _behind(found: Detections, preamble: int) -> Detections:
    """Detections behind the preamble, slots counted from there."""
    seen = found.slots >= preamble
    return dataclasses.replace(
        found,
        slots=found.slots[seen] - preamble,
        bases=found.bases[seen],
        bits=found.bits[seen],
    )
