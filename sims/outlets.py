"""The detectors at the end of paths: from photons that come to them to pulses at the tagger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from . import elements as el
from .elements.detectors import Photodetectors
from .layout import Detection
from .physics.clicks import ClickMaker, Response
from .physics.constants import FWHM
from .physics.snspd import filter_dead_time

__all__ = ["Outlet", "cable_delays_s"]

# Before any world begins, by more than anything is remembered.
_LONG_AGO_PS = -(1 << 50)
_NEVER_PS = 1 << 62

Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


def cable_delays_s(model: el.TaggerModel | None, first: int, count: int) -> list[float]:
    """Delays of ``count`` inputs in a row, from input ``first`` (counted from 1), s."""
    known = () if model is None else model.cable_delays
    return [known[n] if n < len(known) else 0.0 for n in range(first - 1, first - 1 + count)]


@dataclass(frozen=True, eq=False)
class _Knobs:
    """What the detectors' knobs stand for in a block."""

    dark_rates: Real
    responses: tuple[Response, ...]


class Outlet:
    """The detectors that a path ends at, and the tagger inputs they feed.

    Engines thin their light by :meth:`efficiencies`, those of rested detectors, and :meth:`add`
    what they would detect between :meth:`begin` and :meth:`finish` of a block, which adds dark
    counts and hands on what reaches the tagger in it. Detectors with a dead time and Gaussian
    jitter only take the short way: jitter first, then one sort.

    Args:
        detection: Where they are.
        elements: The world's elements.
        count: How many detectors.
    """

    def __init__(self, detection: Detection, elements: Mapping[str, object], count: int) -> None:
        tagger = elements[detection.tagger] if detection.tagger is not None else None
        assert tagger is None or isinstance(tagger, el.TaggerInputs)
        self.array, self.tagger = cast(Photodetectors, elements[detection.array]), tagger
        self.count = count
        #: Keys its random draws.
        self.name = f"{detection.array}.{detection.detector + 1}"
        self._slots = slice(detection.detector, detection.detector + count)
        self._first_input = detection.first_input
        self._detectors = self.array.detectors[self._slots]
        tagger_jitter = 0.0 if tagger is None else tagger.model.jitter
        self._cable_s = cable_delays_s(
            None if tagger is None else tagger.model, detection.first_input, count
        )
        gauss: Real = np.array(
            [math.hypot(d.jitter, tagger_jitter) / FWHM * 1e12 for d in self._detectors]
        )
        #: Rms jitter of each detector with its tagger input, ps.
        self.sigma_ps: Real = np.hypot(gauss, [d.jitter_tail * 1e12 for d in self._detectors])
        self._delay_ps: Times = np.zeros(count, np.int64)
        self._dead_ps = np.array([round(d.dead_time * 1e12) for d in self._detectors], np.int64)
        self._last_ps = np.full(count, _LONG_AGO_PS, np.int64)
        responses = self.array.responses()[self._slots]
        #: Makes the clicks of detectors with more than a dead time and Gaussian jitter.
        self._maker = None if all(r.simple for r in responses) else ClickMaker(gauss, responses)
        # Packed clicks (time << 6 | detector): new ones, and those that arrive after the block.
        self._parts: list[Times] = []
        self._held: Times = np.empty(0, np.int64)
        # They count time from the beginning of the block: 57 bits hold 40 hours.
        self._origin_ps = 0
        self._offset_ps = self._delay_ps
        self._silent = True
        #: Most that a detector bears, Hz.
        self.bears_hz: Real = np.array([d.blinding_rate for d in self._detectors])
        self._bears_least_hz = float(self.bears_hz.min())
        # Which of them see more in this block, and when light on its way is to blind them.
        self._blind = np.zeros(count, np.bool_)
        self._glares: list[tuple[Times, Times]] = []
        self._known: tuple[tuple[object, ...], _Knobs] | None = None
        #: Whether its clicks are nobody's: those of the block before somebody began to listen.
        self.muted = False

    def set_patch(self, patch_ps: int) -> None:
        """Lengthen every delay by the same: no click may come before its own block."""
        self._delay_ps = np.array([round(d * 1e12) + patch_ps for d in self._cable_s], np.int64)

    @property
    def longest_ps(self) -> int:
        """Longest way from a detector to the tagger."""
        return int(self._delay_ps.max())

    @property
    def listening(self) -> bool:
        """Whether anybody sees its clicks."""
        return self.array.counting or (self.tagger is not None and self.tagger.recording)

    def key(self) -> tuple[object, ...]:
        """Changes whenever efficiencies or dark rates do."""
        return self.array.state()

    def efficiencies(self) -> Real:
        """Efficiency of each detector now, when rested and for its best polarization."""
        return self.array.efficiencies()[self._slots]

    def dark_rates(self) -> Real:
        """Dark counts of each detector now, when rested, Hz."""
        return self.array.dark_rates()[self._slots]

    def polarized(self, operators: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Measurement operators of the outputs before the detectors, with the detectors' own.

        Only what does not look at polarization yet is changed: behind an analyzer the light of each
        output has one polarization, taken to be the detector's best.

        Args:
            operators: Shape (count, 2, 2).
        """
        found = np.array(operators, np.complex128)
        for i, detector in enumerate(self._detectors):
            own = detector.polarization()
            if own is not None and np.allclose(found[i], found[i, 0, 0] * np.eye(2)):
                found[i] = found[i, 0, 0] * own
        return found

    def take(self) -> _Knobs:
        """Note what the knobs stand for in the block that begins."""
        key = self.key()
        if self._known is None or self._known[0] != key:
            responses = self.array.responses()[self._slots]
            self._known = key, _Knobs(self.dark_rates(), responses)
        return self._known[1]

    def begin(self, begin_ps: int) -> None:
        """Begin a block whose clicks are to be made."""
        passed = begin_ps - self._origin_ps
        self._origin_ps = begin_ps
        self._offset_ps = self._delay_ps - begin_ps
        if self._held.size:
            self._held -= passed << 6
        if self._maker is not None:
            self._maker.pass_time(passed)

    def bear(
        self, rates_hz: Real, from_ps: Times | None = None, until_ps: Times | None = None
    ) -> Real:
        """Return the rates of light that are worth making photons of: 0 where it blinds.

        Ask it of all that comes to a detector together, before any of it is drawn. A detector is
        blind as long as light above its blinding rate is on.

        Args:
            rates_hz: What each detector would detect of a block's light, shape (count,).
            from_ps: When that begins to come to each, world time, (count,); None for the block that
                is being made.
            until_ps: When it ends.
        """
        blinding = rates_hz > self.bears_hz
        if not blinding.any():
            return rates_hz
        if from_ps is None or until_ps is None:
            self._blind |= blinding
        else:
            begin = np.where(blinding, from_ps + self._delay_ps, _NEVER_PS)
            self._glares.append((begin, np.where(blinding, until_ps + self._delay_ps, 0)))
        return np.where(blinding, 0.0, rates_hz)

    def add(
        self,
        times: Times,
        detectors: npt.NDArray[Any],
        rng: np.random.Generator | None = None,
    ) -> None:
        """Take photons that rested detectors would detect.

        Args:
            times: When each comes to its detector, in any order, ps of world time.
            detectors: Which, from 0.
            rng: Draws the jitter; without it there is none, which nobody can tell where times
                are uniform and independent.
        """
        times = times + self._offset_ps[detectors]
        if rng is not None and self._maker is None:
            jitter = rng.standard_normal(times.size) * self.sigma_ps[detectors]
            times += np.rint(jitter).astype(np.int64)
        self._parts.append((times << 6) | detectors)

    def finish(self, knobs: _Knobs, rng: np.random.Generator, begin_ps: int, end_ps: int) -> None:
        """Add the block's dark counts and hand on what reaches the tagger in it.

        Args:
            knobs: What :meth:`take` noted of this block.
            rng: Of this outlet and block.
            begin_ps: Beginning of the block.
            end_ps: Its end.
        """
        span_ps = end_ps - begin_ps
        # Where jitter comes last, photons are looked at that much ahead of it.
        ahead = 0 if self._maker is None else self._maker.early_ps
        dark = rng.poisson(self.bear(knobs.dark_rates) * (span_ps * 1e-12))
        times = ahead + rng.integers(0, span_ps, int(dark.sum()))
        packed = np.concatenate(
            [
                self._held,
                (times << 6) | np.repeat(np.arange(self.count), dark),
                *self._parts,
            ]
        )
        self._parts.clear()
        packed.sort()
        cut = int(np.searchsorted(packed, (span_ps + ahead) << 6))
        self._held = packed[cut:].copy()
        come = self._seen(packed[:cut], span_ps, span_ps + ahead)
        if self._maker is None:
            arrived, detector = come >> 6, (come & 63).astype(np.int16)
            arrived += begin_ps
            alive = filter_dead_time(arrived, detector, self._dead_ps, self._last_ps)
            arrived, detector = arrived[alive], detector[alive]
        else:
            keys = rng.bit_generator.random_raw(come.size)
            pulses = self._maker.run(knobs.responses, come, keys, span_ps + ahead, span_ps)
            arrived, detector = pulses >> 6, (pulses & 63).astype(np.int16)
            arrived += begin_ps
        self._release(arrived, detector)
        self._silent = False

    def silence(self) -> None:
        """Forget everything: nobody listens."""
        if not self._silent:
            self._release(np.empty(0, np.int64), np.empty(0, np.int16))
            if self.tagger is not None:
                self.tagger.rest(self._first_input, self.count)
            self._parts.clear()
            self._held = np.empty(0, np.int64)
            self._glares.clear()
            self._last_ps[:] = _LONG_AGO_PS
            if self._maker is not None:
                self._maker.forget()
            self._silent = True

    def _seen(self, come: Times, span_ps: int, until_ps: int) -> Times:
        """What comes to detectors that are not blind, of what comes until then."""
        if come.size > self._bears_least_hz * (span_ps * 1e-12):
            counts = np.bincount(come & 63, minlength=self.count)
            self._blind |= counts > self.bears_hz * (span_ps * 1e-12)
        if not (self._glares or self._blind.any()):
            return come
        detector = come & 63
        seen = ~self._blind[detector]
        self._blind[:] = False
        on_its_way = []
        for begin, end in self._glares:
            since, until = begin - self._origin_ps, end - self._origin_ps
            if since.min() < until_ps:
                times = come >> 6
                seen &= (times < since[detector]) | (times >= until[detector])
            if until.max() > until_ps:
                on_its_way.append((begin, end))
        self._glares = on_its_way
        found: Times = come[seen]
        return found

    def _release(self, times: Times, detector: npt.NDArray[np.int16]) -> None:
        inputs = detector + np.int16(self._first_input)
        if self.muted:
            if self.tagger is not None:
                self.tagger.warm_up(times, inputs)
            return
        self.array.counts[self._slots] = np.bincount(detector, minlength=self.count)
        if self.tagger is not None:
            self.tagger.add(times, inputs)
