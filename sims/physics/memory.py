"""Ensemble memories: combs (AFC), gases (EIT, GEM), write and read (DLCZ).

What becomes of a photon, cycle by cycle of the sequencer:

- AFC: the comb is burned once per cycle; an absorbed photon echoes a fixed time after it came in,
  unless a transfer pulse parks it as a spin wave until a recall pulse (Afzelius et al., PRA 79,
  052329 (2009); ``shared`` physics sheet, sec. 8).
- EIT: the gas is pumped once per cycle; while control light is on a photon crosses it slowly, while
  it is off the photon stands still as a spin wave (Fleischhauer and Lukin, PRL 84, 5094 (2000)).
- GEM: the same gas in a gradient, turned round for reading: last in, first out (Hosseini et al.,
  Nature 461, 241 (2009)).
- DLCZ: a write pulse makes photons and spin-wave excitations in pairs; a read pulse turns what is
  left of them into photons (Duan, Lukin, Cirac and Zoller, Nature 414, 413 (2001)).

Besides, closed forms: efficiency of a comb from its optical depth and finesse, decay with storage
time, modes, bandwidth, noise, and photon statistics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...instruments.errors import ConfigError
from . import pair_statistics

__all__ = [
    "NEVER",
    "Comb",
    "Cycles",
    "Decay",
    "Ensemble",
    "Fates",
    "Gas",
    "GasCycles",
    "comb_efficiency",
    "efficiency",
    "fates",
    "in_band",
    "noisy_g2",
    "readouts",
    "retained",
    "slow_fates",
    "temporal_modes",
]

Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]

#: Time of an edge that does not come, ps.
NEVER = 1 << 62


Decay = Literal["exponential", "gaussian"]


def _check_shares(efficiency: float, absorption: float, transparency: float) -> None:
    shares = {"efficiency": efficiency, "absorption": absorption, "transparency": transparency}
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"memory: {name} must lie in 0..1, not {share:g}")
    if efficiency > absorption:
        raise ConfigError(
            f"memory: efficiency {efficiency:g} exceeds absorption {absorption:g}: "
            "only an absorbed photon comes out again; raise absorption or lower efficiency"
        )


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
        _check_shares(self.efficiency, self.absorption, self.transparency)
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

    @classmethod
    def none(cls) -> Cycles:
        """No cycles."""
        no = np.empty(0, np.int64)
        return cls(no, no, no, np.empty(0, np.bool_), no, no)


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


# --- slow light


@dataclass(frozen=True)
class Gas:
    """What a fully pumped gas does to photons.

    Args:
        efficiency: Probability, 0..1, that a photon that comes in under control light comes out
            again, not counting its time as a spin wave; at most ``absorption``.
        absorption: Probability, 0..1, that the gas takes a photon in; the rest passes at once.
        transparency: Transmission, 0..1, when pumped to the other ground state instead.
        group_delay_ps: Time under control light from in to out, ps; of no use to a gradient echo.
        spin_coherence_time_ps: 1/e time of the efficiency as a spin wave, ps; may be infinite.
        decay: Its law (:func:`retained`).
        pump_time_ps: 1/e time of the approach of the efficiency to its full value in pumping, ps.
        pumped_lifetime_ps: 1/e time of its decay after the pumping, ps; may be infinite.
        gradient_echo: Whether it stands in a gradient that is turned round for reading, in place
            of transparency.
    """

    efficiency: float
    absorption: float
    transparency: float
    group_delay_ps: int
    spin_coherence_time_ps: float
    decay: Decay
    pump_time_ps: float
    pumped_lifetime_ps: float
    gradient_echo: bool = False

    def __post_init__(self) -> None:
        _check_shares(self.efficiency, self.absorption, self.transparency)
        for name in ("group_delay", "spin_coherence_time", "pump_time", "pumped_lifetime"):
            if not getattr(self, f"{name}_ps") > 0:
                raise ConfigError(f"memory: {name} must be above 0")

    @property
    def echo_time_ps(self) -> int:
        """From in to out without storage; 0 where nothing comes out by itself."""
        return 0 if self.gradient_echo else self.group_delay_ps


@dataclass(frozen=True)
class GasCycles:
    """Cycles of the sequencer in order of time; ``NEVER`` where an edge is missing.

    Args:
        starts_ps: T0 edges, int64 of shape (m,), rising: repumping light empties the memory.
        pump_begin_ps: Start of the optical pumping, int64 of shape (m,).
        pump_end_ps: Its end, int64 of shape (m,).
        pit: Whether the pumping goes to the other ground state, which is transparent, bool (m,).
        on_ps: When control light goes on, first to write, then to read, int64 of shape (m, 2);
            rising along each row.
        off_ps: When it goes off, int64 of shape (m, 2); each after its ``on_ps`` and not after the
            next. Both are ``NEVER`` for a pulse that does not come.
    """

    starts_ps: Times
    pump_begin_ps: Times
    pump_end_ps: Times
    pit: npt.NDArray[np.bool_]
    on_ps: Times
    off_ps: Times

    @classmethod
    def none(cls) -> GasCycles:
        """No cycles."""
        no, pairs = np.empty(0, np.int64), np.empty((0, 2), np.int64)
        return cls(no, no, no, np.empty(0, np.bool_), pairs, pairs)


def slow_fates(arrivals_ps: Times, cycles: GasCycles, gas: Gas) -> Fates:
    """Tell how each photon leaves a gas under control light.

    A photon belongs to the last cycle that began at or before it. It is lost before any cycle and
    until the pumping of its cycle has ended. After that a gas pumped to the other state lets it
    pass. Otherwise it is lost, but for the share ``1 - absorption`` that passes, unless control
    light is on: then it is a slow polariton, which leaves when it has been under control light
    for the group delay, and stands still as a spin wave while that is off (Fleischhauer and Lukin,
    PRL 84, 5094 (2000)):

    - written with ``off_ps[0]`` before it is out, read from ``on_ps[1]`` on, it comes out
      ``group delay + on_ps[1] - off_ps[0]`` after it came in, first in, first out;
    - while the control stays on it comes out after the group delay;
    - lost if the control does not stay on long enough, or if it would come out at the next T0 or
      later.

    In a gradient it becomes a spin wave at once, whose atoms get out of phase while the writing
    lasts, and into phase while the reading does (Hetet et al., PRL 100, 023601 (2008)): it comes
    out as long after ``on_ps[1]`` as it came in before ``off_ps[0]``, last in, first out. Without
    a reading it does not come out; its decay is that of all its time in the gas.

    The efficiency is that of :class:`Gas` times ``1 - exp(-pumping/pump_time)``, the decay from the
    end of the pumping to the arrival, and that in the dark (:func:`retained`).

    Args:
        arrivals_ps: Sorted arrival times, int64 of shape (n,).
        cycles: Every cycle that began before the last arrival, and the one after it if that is
            known.
        gas: The gas.

    Returns:
        The fate of each photon, in the order given.
    """
    t, need = arrivals_ps, gas.group_delay_ps
    recalled, delays = np.zeros(t.size), np.zeros(t.size, np.int64)
    pumped = (cycles.pump_begin_ps < NEVER) & (cycles.pump_end_ps < NEVER)
    ready = np.where(pumped, cycles.pump_end_ps, NEVER)
    # Photons are sorted: those of each cycle are a range, and so are those under control light.
    begins = np.searchsorted(t, cycles.starts_ps)
    ends = np.append(begins[1:], t.size)[: begins.size]
    opens = np.clip(np.searchsorted(t, ready), begins, ends)
    through = np.where(cycles.pit, gas.transparency, 1.0 - gas.absorption)
    early = begins[0] if begins.size else t.size
    passed = np.concatenate(
        [
            np.zeros(early),
            np.repeat(
                np.stack([np.zeros(begins.size), through], 1).ravel(),
                np.stack([opens - begins, ends - opens], 1).ravel(),
            ),
        ]
    )
    low, high = (
        np.clip(np.searchsorted(t, at), opens[:, None], ends[:, None])
        for at in (cycles.on_ps, cycles.off_ps)
    )
    counts = np.where(cycles.pit[:, None], 0, high - low)
    pulse = np.repeat(np.arange(counts.size), counts.ravel())
    row = np.arange(pulse.size) + (low.ravel() - np.cumsum(counts.ravel()) + counts.ravel())[pulse]
    cycle, reading = pulse // 2, pulse % 2 == 1
    at = t[row]
    lit = cycles.off_ps.ravel()[pulse] - at  # how long it is under this light
    left = lit if gas.gradient_echo else need - lit  # and has to be under the next one
    (_, read), (stop, end) = cycles.on_ps[cycle].T, cycles.off_ps[cycle].T
    kept = (left > 0) & ~reading & (read < NEVER) & (left <= end - read)
    dark = np.where(kept, read - stop, 0)
    delay = np.where(kept, lit + dark + left, need)
    next_start = np.append(cycles.starts_ps[1:], NEVER)[cycle]
    out = ((left <= 0) | kept) & (at + delay < next_start)
    with np.errstate(under="ignore"):
        length = np.where(pumped, cycles.pump_end_ps - cycles.pump_begin_ps, 0)
        full = -gas.efficiency * np.expm1(-length / gas.pump_time_ps)
        decay = np.exp(np.where(out, at - ready[cycle], 0) / -gas.pumped_lifetime_ps)
    share = full[cycle] * decay * out
    waited = delay if gas.gradient_echo else dark
    recalled[row] = share * retained(waited, 1.0, gas.spin_coherence_time_ps, gas.decay)
    delays[row] = np.where(recalled[row] > 0, delay, 0)
    return Fates(passed, recalled, delays)


# --- write and read


def readouts(born_ps: Times, reads_ps: Times, cleans_ps: Times) -> tuple[Times, Times]:
    """Tell which read pulse each spin-wave excitation meets, if nothing erases it before.

    Args:
        born_ps: When each was written, int64 (n,).
        reads_ps: Read pulses, sorted int64 (r,).
        cleans_ps: Beginnings of optical pumping, which erases what is stored, sorted int64 (c,).

    Returns:
        Number of the read pulse of each, and whether it is still stored (-1) or erased (-2)
        where there is none, int64 (n,); and the age at the read, ps, 0 without one, int64 (n,).
    """
    row = np.searchsorted(reads_ps, born_ps, side="right")
    read = np.append(reads_ps, NEVER)[row]
    clean = np.append(cleans_ps, NEVER)[np.searchsorted(cleans_ps, born_ps, side="right")]
    found = np.where(clean <= read, -2, row)
    found = np.where((read == NEVER) & (clean == NEVER), -1, found)
    return found, np.where(found >= 0, read - born_ps, 0)


# --- closed forms


def comb_efficiency(
    optical_depth: npt.ArrayLike,
    finesse: npt.ArrayLike,
    background: npt.ArrayLike = 0.0,
    *,
    backward: bool = False,
) -> Real:
    """Return the echo efficiency of a comb of Gaussian teeth.

    ``x^2 e^(-x) D e^(-d0)`` forward and ``(1 - e^(-x))^2 D e^(-d0)`` backward, with the mean depth
    of the comb ``x = (d/F) sqrt(pi/(4 ln 2))`` and dephasing ``D = exp(-pi^2/(2 ln2 F^2))``
    (Afzelius et al., PRA 79, 052329 (2009); often rounded to x = d/F and e^(-7/F^2)). Forward it
    never exceeds ``4 e^-2``, 54 %: the echo is absorbed again.

    Args:
        optical_depth: d at the top of a tooth.
        finesse: F, spacing over FWHM of the teeth.
        background: Depth d0 that preparation left between the teeth.
        backward: Whether the echo leaves backward, by two counter-propagating control pulses.
    """
    d, f = np.asarray(optical_depth, np.float64), np.asarray(finesse, np.float64)
    x = d / f * math.sqrt(math.pi / (4 * math.log(2)))
    shape = -np.expm1(-x) if backward else x * np.exp(-x / 2)
    dephasing = np.exp(-(math.pi**2) / (2 * math.log(2) * f**2))
    return np.asarray(shape**2 * dephasing * np.exp(-np.asarray(background)))


def retained(
    storage_s: npt.ArrayLike,
    initial: float,
    lifetime_s: float,
    decay: Decay = "exponential",
) -> Real:
    """Return the efficiency after a storage time, ``eta0 e^(-t/T)`` or ``eta0 e^(-(t/T)^2)``.

    Exponential for loss of atoms and of populations, and for an AFC whose teeth widen with the
    homogeneous line, ``T = T2/4`` (Jobez et al., arXiv 1512.02936, eq. 15). Gaussian for spin
    waves that dephase by a spread of frequencies or by atoms that move: EIT, GEM and DLCZ in gases,
    and AFC spin waves.
    """
    t = np.asarray(storage_s, np.float64) / lifetime_s
    with np.errstate(under="ignore"):
        return np.asarray(initial * np.exp(-t if decay == "exponential" else -(t**2)))


def temporal_modes(storage_s: float, bandwidth_hz: float) -> int:
    """Return how many modes in a row a comb holds, ``t BW / 2.5``.

    A mode of 2.5/BW keeps what leaks into its neighbours small (Afzelius et al., PRA 79, 052329).
    """
    return math.floor(storage_s * bandwidth_hz / 2.5)


def in_band(
    pulse_width_s: float, bandwidth_hz: float, window: Literal["gaussian", "square"]
) -> float:
    """Return the share of a Gaussian, transform-limited pulse that a memory's band takes in.

    Its spectrum is ``b = (2 ln 2 / pi) / pulse width`` wide, FWHM of intensity. A transparency
    window is Gaussian, ``B/sqrt(B^2 + b^2)``; a comb is square, ``erf(sqrt(ln 2) B/b)``.

    Args:
        pulse_width_s: FWHM in time.
        bandwidth_hz: B, FWHM of the band; infinite for all.
        window: Its shape.
    """
    b = 2 * math.log(2) / (math.pi * pulse_width_s)
    if window == "square":
        return math.erf(math.sqrt(math.log(2)) * bandwidth_hz / b)
    return 1 / math.hypot(1.0, b / bandwidth_hz)


def noisy_g2(g2: float, mean_photons: float, mu1: float) -> float:
    """Return the cross-correlation with the herald that noise of the memory leaves.

    ``g2 (SNR + 1)/(SNR + g2)``, SNR = mean_photons/mu1: noise comes with every read, signal g2
    times as often after a herald as without.

    Args:
        g2: Before storage.
        mean_photons: Mean number of photons at the input after a herald.
        mu1: That number at which signal and noise are read equally often.
    """
    snr = mean_photons / mu1
    return g2 * (snr + 1) / (snr + g2)


@dataclass(frozen=True)
class Ensemble:
    """A DLCZ memory: a write pulse makes thermal pairs of a photon and a spin-wave excitation.

    Args:
        excitations: Mean number per write pulse, in one mode.
        write_efficiency: Probability, 0..1, that a write photon is detected.
        read_efficiency: Probability, 0..1, that an excitation is retrieved at once, and its photon
            detected; multiply by :func:`retained` for later.
    """

    excitations: float
    write_efficiency: float
    read_efficiency: float

    def __post_init__(self) -> None:
        if not 0.0 < self.excitations < math.inf:
            raise ConfigError(f"ensemble: excitations must be above 0, not {self.excitations:g}")
        for name in ("write_efficiency", "read_efficiency"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"ensemble: {name} must lie in 0..1, not {getattr(self, name):g}")

    @property
    def clicks(self) -> tuple[float, float, float]:
        """Probabilities per trial of a write click, of a read click, and of both.

        Detectors that click or not; a pair escapes both with ``(1 - eta_w)(1 - eta_r)``.
        """
        w, r = self.write_efficiency, self.read_efficiency
        quiet = [pair_statistics.silence(eta, self.excitations) for eta in (w, r, w + r - w * r)]
        return 1 - quiet[0], 1 - quiet[1], 1 - quiet[0] - quiet[1] + quiet[2]

    @property
    def cross_g2(self) -> float:
        """g2 of write and read fields: ``1 + 1/p``, p = P(any excitation)."""
        return pair_statistics.cross_g2(self.excitations)

    @property
    def heralded_g2(self) -> float:
        """g2(0) of the read field after a write click; about 4 p for few excitations."""
        return pair_statistics.heralded_g2(self.excitations, efficiency=self.write_efficiency)

    def sample(self, rng: np.random.Generator, trials: int) -> tuple[npt.NDArray[np.bool_], Times]:
        """Draw trials: whether a write photon clicked, and photons detected on reading, (n,)."""
        made = pair_statistics.sample_numbers(rng, self.excitations, 1.0, trials)
        return rng.binomial(made, self.write_efficiency) > 0, rng.binomial(
            made, self.read_efficiency
        )
