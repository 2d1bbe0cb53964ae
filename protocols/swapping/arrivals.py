"""Delays, arrival times within the pulse period, and efficiencies of a pulsed swap."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...instruments import ProtocolError, TagBatch, TimesPs
from .. import timing
from ..estimates import Estimate
from ..timing._streams import less_delays
from .analysis import Tally
from .swaps import Gate

__all__ = [
    "Arrivals",
    "Klyshko",
    "find_arrivals",
    "find_end_delays",
    "find_gate",
    "gated",
    "klyshko",
]

Delays = Mapping[int, int]

_NEAR_PS = 1_000_000_000  # search around an offset that is known
_SHIFTS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)  # pulses away, for accidentals


def find_end_delays(
    station: TagBatch,
    end: TagBatch,
    station_channels: Mapping[int, str],
    end_channels: Mapping[int, str],
    *,
    search_ps: int = 50_000_000_000,
) -> tuple[dict[int, int], dict[int, int]]:
    """Find the delays of a station's inputs and of one end's, from pairs of one source.

    The source must be such that the end's H goes with the station's H (phi+ or phi-, fibres
    compensated). Crossed pairs of channels are left out: in a pulsed experiment they show the
    accidentals of other pulses. What both halves share, D and A, ties them together.

    Args:
        station: Clicks of the station.
        end: Clicks of the end.
        station_channels: Detector of each input of the station.
        end_channels: Outcome of each input of the end.
        search_ps: Range of the unknown offset.

    Returns:
        Delays of the station's inputs, cH being the reference (0 ps), and of the end's.

    Raises:
        ProtocolError: without a peak (dark source), or for a channel without one.
    """
    at = {name: channel for channel, name in (*station_channels.items(), *end_channels.items())}
    everything = [
        corrected(batch, dict.fromkeys(channels, 0))
        for batch, channels in ((station, station_channels), (end, end_channels))
    ]
    # The wide search is done once, for all channels together.
    offset = timing.find_offset(everything[0], everything[1], search_ps=search_ps)
    coarse = round(offset.offset_ps) if offset.found else 0
    if offset.found:
        search_ps = min(search_ps, _NEAR_PS)
    near = dataclasses.replace(
        end,
        times_ps=end.times_ps - coarse,
        begin_ps=end.begin_ps - coarse,
        end_ps=end.end_ps - coarse,
        losses=tuple(
            dataclasses.replace(x, begin_ps=x.begin_ps - coarse, end_ps=x.end_ps - coarse)
            for x in end.losses
        ),
    )
    halves = []
    for pol in "HV":
        found = timing.find_channel_delays(
            station,
            near,
            channels_a=(at[f"c{pol}"], at[f"d{pol}"]),
            channels_b=(at[pol], at["D"], at["A"]),
            search_ps=search_ps,
        )
        halves.append((dict(found.delays_a), dict(found.delays_b)))
    (station_h, end_h), (station_v, end_v) = halves
    step = round(sum(end_h[at[x]] - end_v[at[x]] for x in "DA") / 2)
    return (
        station_h | {channel: delay + step for channel, delay in station_v.items()},
        {
            channel: delay + coarse
            for channel, delay in ({at["V"]: end_v[at["V"]] + step} | end_h).items()
        },
    )


@dataclass(frozen=True)
class Arrivals:
    """When the photons of both sources reach the station, within the period of the pulses.

    Attributes:
        west_ps: Phase of alice's source, in [0, period).
        east_ps: Phase of bob's.
        sigma_ps: Standard error of each.
        period_ps: Period of the pulses.
    """

    west_ps: float
    east_ps: float
    sigma_ps: float
    period_ps: float

    @property
    def late_ps(self) -> float:
        """How much later bob's photons arrive, from -period/2 to period/2."""
        half = self.period_ps / 2
        return (self.east_ps - self.west_ps + half) % self.period_ps - half


def find_arrivals(
    station: TagBatch,
    alice: TagBatch,
    bob: TagBatch,
    delays: tuple[Delays, Delays, Delays],
    *,
    period_ps: float,
    window_ps: int,
) -> Arrivals:
    """Find the arrival times from the station's clicks that coincide with an end's.

    Tagger and pulses must share a reference: the clicks are folded by the period.

    Raises:
        ProtocolError: without coincidences.
    """
    centre = corrected(station, delays[0])
    phases, errors = [], []
    for name, batch, shifts in (("alice", alice, delays[1]), ("bob", bob, delays[2])):
        hits, _ = timing.match(centre, corrected(batch, shifts), window_ps)
        if not hits.size:
            raise ProtocolError(f"no coincidences between the station and {name}: a dark source?")
        phase = np.mod(centre[hits], period_ps)
        turn = 2j * math.pi / period_ps
        guess = float(np.angle(np.mean(np.exp(turn * phase)))) * period_ps / (2 * math.pi)
        for _ in range(20):  # accidentals lie at the other source's phase
            step = np.mod(phase - guess + period_ps / 2, period_ps) - period_ps / 2
            near = step[np.abs(step) <= window_ps / 2]
            if not near.size:
                break
            shift = float(np.median(near))
            guess += shift
            if abs(shift) < 0.1:
                break
        if near.size < 2:
            raise ProtocolError(f"the station's clicks with {name} do not follow the pulses")
        phases.append(guess % period_ps)
        errors.append(1.25 * float(np.std(near)) / math.sqrt(near.size))
    return Arrivals(phases[0], phases[1], max(errors), period_ps)


_BINS = 1000


def find_gate(
    station: TagBatch,
    end: TagBatch,
    delays: tuple[Delays, Delays],
    *,
    period_ps: float,
    length_ps: float,
    window_ps: int,
) -> Gate:
    """Find when a memory takes photons in, from the station's clicks that coincide with its end's.

    The gate is the stretch of this length that holds most of them.

    Args:
        station: Clicks of the station.
        end: Clicks of the end behind the memory.
        delays: Of the station's inputs, and of the end's with the storage time in them.
        period_ps: From one cycle of the memory to the next; the tagger shares its reference.
        length_ps: Length of the memory's window.
        window_ps: Coincidence window, full width.

    Raises:
        ProtocolError: where the coincidences do not follow the cycles.
    """
    centre = corrected(station, delays[0])
    hits, _ = timing.match(centre, corrected(end, delays[1]), window_ps)
    bins = np.floor(np.mod(centre[hits], period_ps) / period_ps * _BINS).astype(np.int64)
    counts = np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)
    wide = max(1, min(_BINS - 1, round(length_ps / period_ps * _BINS)))
    total = np.concatenate([[0], np.cumsum(np.tile(counts, 2))])
    inside = total[wide : wide + _BINS] - total[:_BINS]
    best = int(inside.max())
    share = wide / _BINS
    if best < 20 or best - hits.size * share < 5 * math.sqrt(hits.size * share):
        raise ProtocolError(
            f"{hits.size} photons came back after the storage time, and they do not follow the"
            " memory's cycle: is it prepared, does it recall, is its sequencer on the reference?"
        )
    # of equally good places the middle one
    places = np.flatnonzero(inside >= best - 2 * math.sqrt(best))
    near = (places - int(inside.argmax()) + _BINS // 2) % _BINS - _BINS // 2
    place = int(inside.argmax()) + int(np.median(near))
    return Gate(period_ps, place % _BINS / _BINS * period_ps, length_ps)


def gated(station: TagBatch, delays: Delays, gates: Sequence[Gate]) -> TagBatch:
    """Return only the station's clicks that come while all gates are open."""
    known, times = less_delays(station, delays)
    keep = np.ones(times.size, np.bool_)
    for gate in gates:
        keep &= gate.open(times)
    return dataclasses.replace(known, times_ps=known.times_ps[keep], channels=known.channels[keep])


@dataclass(frozen=True)
class Klyshko:
    """One source and both of its arms, from singles and coincidences alone.

    Attributes:
        end: Efficiency of the end, from crystal to click.
        station: Efficiency of the station for this source.
        pairs_per_pulse: Mean number of pairs in a pulse.
        visibility: Of the pairs in Z, accidentals subtracted.
    """

    end: Estimate
    station: Estimate
    pairs_per_pulse: Estimate
    visibility: Estimate


def klyshko(
    station: TagBatch,
    end: TagBatch,
    station_channels: Mapping[int, str],
    end_channels: Mapping[int, str],
    delays: tuple[Delays, Delays],
    *,
    phase_ps: float,
    other_ps: float,
    period_ps: float,
    pulses_hz: float,
    window_ps: int,
) -> Klyshko:
    """Measure a source whose photons reach the station apart from the other's.

    Accidentals are counted some pulses away and darks between the pulses; both are subtracted. Of
    two pairs in one pulse, a share of half the pairs per pulse stays (the photons of one mode
    bunch), so the efficiencies hold to leading order in that number. Of a station that was gated,
    the efficiency of the end is right, what is seen from the end is not.

    Args:
        station: Clicks of the station.
        end: Clicks of the end.
        station_channels: Detector of each input of the station.
        end_channels: Outcome of each input of the end.
        delays: Of the station's inputs and of the end's.
        phase_ps: When this source's photons reach the station, within the period.
        other_ps: When the other's do.
        period_ps: Period of the pulses.
        pulses_hz: Pulses per second, on the mean: fewer than the period says where they come in
            bursts.
        window_ps: Coincidence window, full width.

    Raises:
        ProtocolError: where the sources are not apart, or without coincidences.
    """
    apart = abs((other_ps - phase_ps + period_ps / 2) % period_ps - period_ps / 2)
    if apart < 1.5 * window_ps:
        raise ProtocolError(
            f"the sources reach the station {apart:.0f} ps apart; {1.5 * window_ps:.0f} ps needed"
        )
    counter = timing.CoincidenceCounter(
        tuple(station_channels),
        tuple(end_channels),
        window_ps,
        delays_a=delays[0],
        delays_b=delays[1],
        shifts_ps=[round(k * period_ps) for k in _SHIFTS],
    )
    counter.add(station, end)
    found = counter.finish()
    net = found.counts - found.accidentals
    pairs = float(net.sum())
    if pairs <= 0:
        raise ProtocolError("no coincidences above the accidentals: a dark source?")
    at_station = _in_phase(
        corrected(station, delays[0]), phase_ps, (phase_ps, other_ps), period_ps, window_ps
    )
    at_end = _in_phase(corrected(end, delays[1]), phase_ps, (phase_ps,), period_ps, window_ps)
    at_station *= found.live_s / station.live_s  # in the time both were live, as the pairs
    at_end *= found.live_s / end.live_s
    per_pulse = at_station * at_end / pairs / (found.live_s * pulses_hz)
    noise = float(found.accidentals.sum()) * (1 + 1 / len(_SHIFTS))
    return Klyshko(
        timing.net_efficiency(pairs, at_station, noise),
        timing.net_efficiency(pairs, at_end, noise),
        Estimate(per_pulse, per_pulse / math.sqrt(pairs), round(pairs)),
        _visibility(found.counts, found.accidentals, station_channels, end_channels),
    )


def _visibility(
    counts: npt.NDArray[np.int64],
    accidentals: npt.NDArray[np.float64],
    station_channels: Mapping[int, str],
    end_channels: Mapping[int, str],
) -> Estimate:
    """Visibility of H and V with the station's H and V."""
    rows = np.array([name[-1] for name in station_channels.values()])  # cH -> H
    columns = np.array(list(end_channels.values()))
    same = rows[:, None] == columns[None, :]
    either = np.isin(columns, ("H", "V"))[None, :] & np.ones_like(same)
    agreed, total = int(counts[same].sum()), int(counts[either].sum())
    false_same, false_all = float(accidentals[same].sum()), float(accidentals[either].sum())
    if total - false_all <= 0:
        return Estimate(math.nan, math.nan)
    value = (2 * (agreed - false_same) - (total - false_all)) / (total - false_all)
    scale = total / (total - false_all)
    return Estimate(value, Tally(agreed, total).estimate.sigma * scale, total)


def _in_phase(
    times: TimesPs,
    phase_ps: float,
    bright: tuple[float, ...],
    period_ps: float,
    window_ps: int,
) -> float:
    """Clicks within the window around a phase, less the darks found between the pulses."""

    def near(centre: float, width: float) -> npt.NDArray[np.bool_]:
        step = np.mod(times - centre + period_ps / 2, period_ps) - period_ps / 2
        return np.asarray(np.abs(step) <= width / 2)

    dark = np.ones(times.size, np.bool_)
    for centre in bright:
        dark &= ~near(centre, 2 * window_ps)
    between = period_ps - 2 * window_ps * len(bright)
    darks = np.count_nonzero(dark) * window_ps / between if between > 0 else 0.0
    return float(np.count_nonzero(near(phase_ps, window_ps)) - darks)


def corrected(batch: TagBatch, delays: Delays) -> TimesPs:
    """Times of the clicks on the channels named, less their delays, sorted; none in losses."""
    return np.sort(less_delays(batch, delays)[1])
