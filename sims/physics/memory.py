"""A spin-wave AFC memory: what becomes of a photon, cycle by cycle of the sequencer.

The comb is burned once per cycle; an absorbed photon echoes a fixed time after it came in, unless
a transfer pulse parks it as a spin wave until a recall pulse (Afzelius et al., PRA 79, 052329
(2009); ``shared`` physics sheet, sec. 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...instruments.errors import ConfigError

__all__ = ["NEVER", "Comb", "Cycles", "Fates", "efficiency", "fates"]

Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

#: Time of an edge that does not come, ps.
NEVER = 1 << 62


@dataclass(frozen=True)
class Comb:
    """What a fully burned comb does to photons.

    Args:
        efficiency: Probability, 0..1, that a photon comes out again after ``echo_time_ps``;
            at most ``absorption``.
        absorption: Probability, 0..1, that the comb takes a photon in; the rest passes at once.
        transparency: Transmission, 0..1, of a pit burned instead of a comb.
        echo_time_ps: Inverse tooth spacing: from in to out without spin-wave storage, ps.
        spin_coherence_time_ps: 1/e time T of the efficiency ``exp(-(wait/T)^2)`` in the
            spin state, ps; may be infinite.
        burn_time_ps: 1/e time of the approach of comb strength to 1 while burning, ps.
        comb_lifetime_ps: 1/e time of the comb's decay after the burn, ps; may be infinite.
    """

    efficiency: float
    absorption: float
    transparency: float
    echo_time_ps: int
    spin_coherence_time_ps: float
    burn_time_ps: float
    comb_lifetime_ps: float

    def __post_init__(self) -> None:
        for name in ("efficiency", "absorption", "transparency"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"memory: {name} must lie in 0..1, not {getattr(self, name):g}")
        if self.efficiency > self.absorption:
            raise ConfigError(
                f"memory: efficiency {self.efficiency:g} exceeds absorption {self.absorption:g}: "
                "only an absorbed photon comes out again; raise absorption or lower efficiency"
            )
        for name in ("echo_time", "spin_coherence_time", "burn_time", "comb_lifetime"):
            if not getattr(self, f"{name}_ps") > 0:
                raise ConfigError(f"memory: {name} must be above 0")


@dataclass(frozen=True)
class Cycles:
    """Cycles of the sequencer in order of time; ``NEVER`` where an edge is missing.

    Args:
        starts_ps: T0 edges, int64 of shape (m,), rising: the cleaning light empties the memory.
        burn_begin_ps: Start of the first burn at or after T0, int64 of shape (m,).
        burn_end_ps: End of that burn, int64 of shape (m,).
        pit: Whether a transparent pit is burned instead of a comb, bool of shape (m,).
        transfer_ps: Transfer pulse, int64 of shape (m,).
        recall_ps: First recall pulse later than the transfer, int64 of shape (m,).
    """

    starts_ps: Times
    burn_begin_ps: Times
    burn_end_ps: Times
    pit: npt.NDArray[np.bool_]
    transfer_ps: Times
    recall_ps: Times


@dataclass(frozen=True)
class Fates:
    """What becomes of n photons.

    Args:
        passed: Probability to pass at once, shape (n,).
        recalled: Probability to come out after ``delay_ps``, shape (n,).
        delay_ps: Storage time, int64 of shape (n,); 0 where ``recalled`` is.
    """

    passed: Real
    recalled: Real
    delay_ps: Times


def fates(arrivals_ps: Times, cycles: Cycles, comb: Comb) -> Fates:
    """Tell how each photon leaves the memory: at once, later, or not at all.

    A photon belongs to the last cycle that began at or before it. It is absorbed and lost before
    any cycle, in a cycle without burn, and until the burn of its cycle has ended: the cleaning
    light of T0 has erased the comb of the cycle before. After the burn a pit lets it pass; a comb
    takes it in, and gives it back

    - one echo time later (plain echo), where no transfer pulse falls between arrival and echo;
    - one echo time plus (recall - transfer) later, where one does (t < transfer < t + echo);
      lost if no recall follows in the cycle.

    Either way it is lost if it would come out at the next T0 or later: cleaning light empties
    the spin state, and drives the optical transition on which the teeth rephase, so a plain echo
    in flight dies as well. The efficiency is that of :class:`Comb` times
    ``1 - exp(-burn/burn_time)``, the decay of the comb from the end of the burn to the arrival,
    and that of the spin wave.

    Args:
        arrivals_ps: Sorted arrival times, int64 of shape (n,).
        cycles: Every cycle that began before the last arrival, and the one after it if that is
            known.
        comb: The comb.

    Returns:
        The fate of each photon, in the order given.
    """
    t, echo = arrivals_ps, comb.echo_time_ps
    # Photons are sorted: the cycle of each by the few starts, not by searching for each photon.
    first = np.searchsorted(t, cycles.starts_ps)
    sizes = np.diff(first, append=t.size)
    lost = int(first[0]) if first.size else t.size

    def spread(values: npt.NDArray[Any], before: float) -> npt.NDArray[Any]:  # to the photons
        return np.concatenate([np.full(lost, before, values.dtype), np.repeat(values, sizes)])

    burned = (cycles.burn_begin_ps < NEVER) & (cycles.burn_end_ps < NEVER)
    burn_end = np.where(burned, cycles.burn_end_ps, NEVER)
    wait = cycles.recall_ps - cycles.transfer_ps
    kept = (cycles.transfer_ps < NEVER) & (cycles.recall_ps < NEVER) & (wait > 0)
    wait = np.where(kept, wait, 0)
    next_start = np.append(cycles.starts_ps[1:], NEVER)[: cycles.starts_ps.size]
    with np.errstate(under="ignore"):
        length = np.where(burned, cycles.burn_end_ps - cycles.burn_begin_ps, 0)
        plain = -comb.efficiency * np.expm1(-length / comb.burn_time_ps)
        parked = plain * kept * np.exp(-((wait / comb.spin_coherence_time_ps) ** 2))

    ready = spread(burn_end, NEVER)
    after = t - ready
    open_ = after >= 0
    pit = spread(cycles.pit, False) & open_
    transfer = spread(cycles.transfer_ps, NEVER)
    held = (t < transfer) & (transfer - t < echo)
    delay = np.where(held, spread(wait, 0), 0) + echo
    out = open_ & ~pit & (t + delay < spread(next_start, NEVER))
    with np.errstate(under="ignore"):
        decay = np.exp(np.maximum(after, 0) / -comb.comb_lifetime_ps)
    recalled = np.where(held, spread(parked, 0), spread(plain, 0)) * decay * out
    passed = np.where(pit, comb.transparency, np.where(open_, 1.0 - comb.absorption, 0.0))
    return Fates(passed, recalled, np.where(recalled > 0, delay, 0))


def efficiency(storage_ps: npt.ArrayLike, comb: Comb) -> Real:
    """Return the efficiency of a fresh, fully burned comb after a storage time, same shape.

    ``eta0 exp(-((t - echo)/T)^2)``; 0 for less than the echo time, before which nothing comes out.
    """
    wait = np.asarray(storage_ps, np.float64) - comb.echo_time_ps
    with np.errstate(under="ignore"):
        decay = comb.efficiency * np.exp(-((wait / comb.spin_coherence_time_ps) ** 2))
    return np.where(wait >= 0, decay, 0.0)
