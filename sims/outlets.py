"""The detectors at the end of paths: from photons that come to them to pulses at the tagger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from . import elements as el
from .layout import Detection
from .physics.snspd import dark_rate_hz, efficiency, filter_dead_time

__all__ = ["Outlet", "cable_delays_s"]

_FWHM = 2 * math.sqrt(2 * math.log(2))
_LONG_AGO_PS = -(1 << 62)

Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


def cable_delays_s(model: el.TaggerModel | None, first: int, count: int) -> list[float]:
    """Delays of ``count`` inputs in a row, from input ``first`` (counted from 1), s."""
    known = () if model is None else model.cable_delays
    return [known[n] if n < len(known) else 0.0 for n in range(first - 1, first - 1 + count)]


class Outlet:
    """The detectors that a path ends at, and the tagger inputs they feed.

    Engines thin their light by :meth:`efficiencies` and :meth:`add` what is detected; then
    :meth:`finish` adds dark counts and hands on what reaches the tagger in the block. Cost: 0.1 us
    a click, most of it sorting.

    Args:
        detection: Where they are.
        elements: The world's elements.
        count: How many detectors.
    """

    def __init__(self, detection: Detection, elements: Mapping[str, object], count: int) -> None:
        array = elements[detection.array]
        tagger = elements[detection.tagger] if detection.tagger is not None else None
        assert isinstance(array, el.SnspdArray)
        assert tagger is None or isinstance(tagger, el.TaggerInputs)
        self.array, self.tagger = array, tagger
        self.count = count
        #: Keys its random draws.
        self.name = f"{detection.array}.{detection.detector + 1}"
        self._slots = slice(detection.detector, detection.detector + count)
        self._first_input = detection.first_input
        self._detectors = array.model.detectors[self._slots]
        tagger_jitter = 0.0 if tagger is None else tagger.model.jitter
        self._cable_s = cable_delays_s(
            None if tagger is None else tagger.model, detection.first_input, count
        )
        #: Rms jitter of each detector with its tagger input, ps.
        self.sigma_ps: Real = np.array(
            [math.hypot(d.jitter, tagger_jitter) / _FWHM * 1e12 for d in self._detectors]
        )
        self._delay_ps: Times = np.zeros(count, np.int64)
        self._dead_ps = np.array([round(d.dead_time * 1e12) for d in self._detectors], np.int64)
        self._last_ps = np.full(count, _LONG_AGO_PS, np.int64)
        # Packed clicks (time << 6 | detector): new ones, and those that arrive after the block.
        self._parts: list[Times] = []
        self._held: Times = np.empty(0, np.int64)
        self._silent = True
        #: Whether its clicks are nobody's: those of the block before somebody began to listen.
        self.muted = False

    def set_patch(self, patch_ps: int) -> None:
        """Lengthen every delay by the same: no click may come before its own block."""
        self._delay_ps = np.array([round(d * 1e12) + patch_ps for d in self._cable_s], np.int64)

    @property
    def longest_ps(self) -> int:
        """The longest delay of any of its cables."""
        return int(self._delay_ps.max())

    @property
    def listening(self) -> bool:
        """Whether anybody sees its clicks."""
        return self.array.counting or (self.tagger is not None and self.tagger.recording)

    def key(self) -> tuple[object, ...]:
        """Changes whenever efficiencies or dark rates do."""
        return (self.array.enabled, *self.array.bias_a[self._slots])

    def efficiencies(self) -> Real:
        """Efficiency of each detector at its bias now."""
        return self._at_bias(
            lambda bias, d: efficiency(bias, d.operating_bias, d.switching_current, d.efficiency)
        )

    def dark_rates(self) -> Real:
        """Dark counts of each detector at its bias now, Hz."""
        return self._at_bias(
            lambda bias, d: dark_rate_hz(bias, d.operating_bias, d.switching_current, d.dark_rate)
        )

    def add(
        self,
        times: Times,
        detectors: npt.NDArray[Any],
        rng: np.random.Generator | None = None,
    ) -> None:
        """Take photons that are detected.

        Args:
            times: When each comes to its detector, in any order, ps of world time.
            detectors: Which, from 0.
            rng: Draws the jitter; without it there is none, which nobody can tell where times
                are uniform and independent.
        """
        times = times + self._delay_ps[detectors]
        if rng is not None:
            jitter = rng.standard_normal(times.size) * self.sigma_ps[detectors]
            times += np.rint(jitter).astype(np.int64)
        self._parts.append((times << 6) | detectors)

    def finish(
        self, dark_rates: Real, rng: np.random.Generator, begin_ps: int, end_ps: int
    ) -> None:
        """Add the block's dark counts and hand on what reaches the tagger in it.

        Args:
            dark_rates: Of each detector in this block, Hz.
            rng: Of this outlet and block.
            begin_ps: Beginning of the block.
            end_ps: Its end.
        """
        dark = rng.poisson(dark_rates * ((end_ps - begin_ps) * 1e-12))
        times = begin_ps + rng.integers(0, end_ps - begin_ps, int(dark.sum()))
        packed = np.concatenate(
            [self._held, (times << 6) | np.repeat(np.arange(self.count), dark), *self._parts]
        )
        self._parts.clear()
        packed.sort()
        cut = int(np.searchsorted(packed, end_ps << 6))
        self._held = packed[cut:].copy()
        arrived, detector = packed[:cut] >> 6, (packed[:cut] & 63).astype(np.int16)
        alive = filter_dead_time(arrived, detector, self._dead_ps, self._last_ps)
        self._release(arrived[alive], detector[alive])
        self._silent = False

    def silence(self) -> None:
        """Forget everything: nobody listens."""
        if not self._silent:
            self._release(np.empty(0, np.int64), np.empty(0, np.int16))
            self._parts.clear()
            self._held = np.empty(0, np.int64)
            self._last_ps[:] = _LONG_AGO_PS
            self._silent = True

    def _release(self, times: Times, detector: npt.NDArray[np.int16]) -> None:
        if self.muted:
            return
        self.array.counts[self._slots] = np.bincount(detector, minlength=self.count)
        if self.tagger is not None:
            self.tagger.add(times, detector + np.int16(self._first_input))

    def _at_bias(self, curve: Callable[[float, el.DetectorModel], float]) -> Real:
        if not self.array.enabled:
            return np.zeros(self.count)
        biases = self.array.bias_a[self._slots]
        return np.array([curve(b, d) for b, d in zip(biases, self._detectors, strict=True)])
