"""What both parties agree on before the first click."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol

from .chsh import TSIRELSON
from .finite_key import KeyBound, choose_sample, leak_budget, secure_key_length
from .schemes import SCHEMES, SchemeName

__all__ = ["BASES", "Detectors", "Parameters", "SessionTerms"]

BASES = ("Z", "X")


class SessionTerms(Protocol):
    """What every protocol's terms say to a session: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def epsilon(self) -> float:
        """Security parameter of one block."""
        ...

    @property
    def total_epsilon(self) -> float:
        """Bound on the sum over all blocks and tags of a session."""
        ...

    @property
    def tolerance(self) -> float:
        """Error rate above which there is no key."""
        ...

    @property
    def reconciliation(self) -> Literal["auto", "cascade", "ldpc"]:
        """See :func:`.distill.choose`."""
        ...

    def digest(self) -> bytes:
        """What the parties compare, 32 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Detectors:
    """What a click on each tagger channel means.

    Attributes:
        meaning: ``(channel, basis, bit)`` with basis ``"Z"`` or ``"X"``, sorted by channel.
    """

    meaning: tuple[tuple[int, str, int], ...]

    def __post_init__(self) -> None:
        channels = [channel for channel, _, _ in self.meaning]
        if channels != sorted(set(channels)):
            raise ValueError(f"channels {channels} are not sorted and different")
        for channel, basis, bit in self.meaning:
            if basis not in BASES or bit not in (0, 1) or not -(1 << 15) <= channel < 1 << 15:
                raise ValueError(f"channel {channel}: ({basis!r}, {bit!r}) is not (Z or X, 0 or 1)")
        if {basis for _, basis, _ in self.meaning} != set(BASES):
            raise ValueError("both bases need a detector")

    @classmethod
    def of(cls, meaning: dict[int, tuple[str, int]]) -> Detectors:
        """From ``{channel: (basis, bit)}``, for example ``{1: ("Z", 0), 2: ("Z", 1), ...}``."""
        return cls(tuple((channel, *meaning[channel]) for channel in sorted(meaning)))

    @property
    def channels(self) -> tuple[int, ...]:
        """The tagger channels, sorted."""
        return tuple(channel for channel, _, _ in self.meaning)

    @property
    def outcomes(self) -> tuple[int, ...]:
        """Outcome of each of :attr:`channels`: 0 to 3 for Z0, Z1, X0, X1."""
        return tuple(2 * BASES.index(basis) + bit for _, basis, bit in self.meaning)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The terms of a session, fixed before the data; :meth:`plan` fills in most of them.

    Both parties compare :meth:`digest` in the handshake.

    Attributes:
        window_ps: Coincidence window, full width.
        calibration_ps: Length of the segment sacrificed to find the delays.
        block_ps: Stretch of announced time that makes one block. A block ends at a time and not
            at a number of bits, so that nothing seen decides when it ends.
        tolerance: Error rate of the sample above which there is no key (delta).
        epsilon: Target of the security parameter of one block.
        total_epsilon: Bound on the sum over all blocks and tags of a session, which ends before
            it is exceeded.
        leak_efficiency: f at which leak is reserved, ``f h(delta)`` per bit; above 1.
        monitor_fraction: Chance of a sifted bit to be revealed at once and lost to the key.
        resolution_ps: Grid that announced times are rounded to.
        dead_time_ps: No key from events this soon after another click of the same party; at least
            the longest time that one of its detectors is blind after a click.
        sample_fraction: Part of the block that is revealed to estimate its errors (k/m).
        verify_bits: Length of the verification tag (t).
        clocks: ``"shared"`` where both taggers count on one reference, else Alice recovers Bob's
            clock from the coincidences.
        reconciliation: ``"cascade"``, ``"ldpc"``, or ``"auto"``: see :func:`.distill.choose`.
        calibration_error: Error rate among the calibration's coincidences above which it is not
            trusted.
        calibration_width: Rms width of the calibration's coincidences, as a part of the window,
            above which it is not trusted; 0.289 is that of a uniform background.
        delay_spread_ps: What the delays of one party's channels may differ by.
        scheme: What the bases are for; see :mod:`.schemes`.
        least_chsh: S below which a block of E91 gives no key; None where only errors count.
        tag_pairs: Whether each message of pairs is tagged before Bob tells their bases: a pad
            each, against forged messages that come true (``docs/security.md``).

    Raises:
        ValueError: for a value outside its range.
    """

    window_ps: int
    calibration_ps: int
    block_ps: int
    tolerance: float
    epsilon: float
    total_epsilon: float
    leak_efficiency: float
    monitor_fraction: float
    resolution_ps: int
    dead_time_ps: int
    sample_fraction: float
    verify_bits: int
    clocks: Literal["recovered", "shared"] = "recovered"
    reconciliation: Literal["auto", "cascade", "ldpc"] = "auto"
    calibration_error: float = 0.15
    calibration_width: float = 0.27
    delay_spread_ps: int = 100_000
    scheme: SchemeName = "bbm92"
    least_chsh: float | None = None
    tag_pairs: bool = False

    def __post_init__(self) -> None:
        checks = {
            "window_ps must be 1 or more": self.window_ps >= 1,
            "calibration_ps must be 1 or more": self.calibration_ps >= 1,
            "block_ps must be at least the window": self.block_ps >= self.window_ps,
            "tolerance must be above 0 and below 0.5": 0.0 < self.tolerance < 0.5,
            "epsilon must be above 0 and below 1": 0.0 < self.epsilon < 1.0,
            "total_epsilon must be at least epsilon and below 1": (
                self.epsilon <= self.total_epsilon < 1.0
            ),
            "leak_efficiency must be above 1: no code reaches the Shannon limit": (
                1.0 < self.leak_efficiency < math.inf
            ),
            "monitor_fraction must be 0 or more, below 1": 0.0 <= self.monitor_fraction < 1.0,
            "resolution_ps must be 1 or more, at most the window": (
                1 <= self.resolution_ps <= self.window_ps
            ),
            "dead_time_ps must be 0 or more": self.dead_time_ps >= 0,
            "sample_fraction must be above 0 and below 1": 0.0 < self.sample_fraction < 1.0,
            "verify_bits must be 1 to 128": 1 <= self.verify_bits <= 128,
            "clocks must be recovered or shared": self.clocks in ("recovered", "shared"),
            "reconciliation must be auto, cascade or ldpc": (
                self.reconciliation in ("auto", "cascade", "ldpc")
            ),
            "calibration_error must be above 0, at most 0.5": 0.0 < self.calibration_error <= 0.5,
            "calibration_width must be above 0, at most 1": 0.0 < self.calibration_width <= 1.0,
            "delay_spread_ps must be 0 to 1 us": 0 <= self.delay_spread_ps <= 10**6,
            f"scheme must be {', '.join(SCHEMES)}": self.scheme in SCHEMES,
            "least_chsh must be 0 or more, below 2 sqrt 2": (
                self.least_chsh is None or 0.0 <= self.least_chsh < TSIRELSON
            ),
        }
        for text, fine in checks.items():
            if not fine:
                raise ValueError(text)

    @classmethod
    def plan(
        cls,
        *,
        window_ps: int = 300,
        calibration_ps: int = 10**12,
        block_ps: int = 10 * 10**12,
        tolerance: float = 0.03,
        epsilon: float = 1e-10,
        total_epsilon: float | None = None,
        leak_efficiency: float = 1.1,
        monitor_fraction: float = 0.02,
        resolution_ps: int = 10,
        dead_time_ps: int = 50_000,
        expected_bits: int = 100_000,
        clocks: Literal["recovered", "shared"] = "recovered",
        reconciliation: Literal["auto", "cascade", "ldpc"] = "auto",
    ) -> Parameters:
        """Choose sample and tag length for the block expected (Tomamichel-Leverrier bound).

        Args:
            window_ps: See the class, as for the others.
            calibration_ps: One second by default.
            block_ps: Ten seconds by default.
            tolerance: Above the error rate expected, with room for its fluctuation.
            epsilon: See the class.
            total_epsilon: Ten thousand blocks by default, at most 0.5.
            leak_efficiency: See the class.
            monitor_fraction: See the class.
            resolution_ps: See the class.
            dead_time_ps: See the class; 50 ns suit SNSPDs, avalanche diodes need more.
            expected_bits: Sifted bits of a block, roughly; only the length of the key hangs on
                it, not its security.
            clocks: See the class.
            reconciliation: See the class.
        """
        plan = choose_sample(expected_bits, tolerance, leak_efficiency, epsilon)
        return cls(
            window_ps=window_ps,
            calibration_ps=calibration_ps,
            block_ps=block_ps,
            tolerance=tolerance,
            epsilon=epsilon,
            total_epsilon=total_epsilon or max(epsilon, min(0.5, 1e4 * epsilon)),
            leak_efficiency=leak_efficiency,
            monitor_fraction=monitor_fraction,
            resolution_ps=resolution_ps,
            dead_time_ps=dead_time_ps,
            sample_fraction=plan.sample / expected_bits,
            verify_bits=plan.verify,
            clocks=clocks,
            reconciliation=reconciliation,
        )

    def digest(self) -> bytes:
        """BLAKE2b of all terms, 32 bytes; what the parties compare."""
        text = ";".join(f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return hashlib.blake2b(text.encode(), digest_size=32, person=b"bellbench terms").digest()

    @property
    def block_steps(self) -> int:
        """Length of a block in steps of the time grid."""
        return max(1, round(self.block_ps / self.resolution_ps))

    def sample_bits(self, m: int) -> int:
        """Sample of a block of ``m`` bits."""
        return math.ceil(self.sample_fraction * m)

    def leak_budget(self, m: int) -> int:
        """Bits reserved for reconciling a block of ``m`` bits, without its sample."""
        return leak_budget(m - self.sample_bits(m), self.tolerance, self.leak_efficiency)

    def key_bound(self, m: int) -> KeyBound | None:
        """Key of a block of ``m`` sifted bits that passes all tests; None for a block too short.

        One bit beyond the hash is charged for the public verdict of the verification (Tsurumaru,
        Mizutani, Sasaki, arXiv:2507.21416).
        """
        k = self.sample_bits(m)
        if m - k < 16 or k < 1:
            return None
        return secure_key_length(
            m, k, self.tolerance, self.leak_budget(m) + 1, self.verify_bits, self.epsilon
        )
