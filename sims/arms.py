"""What stands between a source and a click: the optics of an arm, and the detectors at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from . import elements as el
from .layout import Detection, WorldModel
from .physics import polarization as pol
from .physics.snspd import dark_rate_hz, efficiency, filter_dead_time

__all__ = ["Arm", "Outlet", "cable_delays_s"]

_FWHM = 2 * math.sqrt(2 * math.log(2))
_C_M_PER_S = 299_792_458.0
_LONG_AGO_PS = -(1 << 62)

Real = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]


class Arm:
    """The optics of a path of light, in order; the last may split it into several outputs."""

    def __init__(
        self, model: WorldModel, elements: Mapping[str, object], names: Sequence[str]
    ) -> None:
        self._models = [model.elements[name] for name in names]
        self._elements = [elements.get(name) for name in names]
        self.memory: el.MemoryModel | None = None
        #: Flight time to the memory, and in all, s.
        self.flight_to_memory_s = 0.0
        self.flight_s = 0.0
        #: FWHM^2 that the fibres add to the arrival time, s^2.
        self.spread = 0.0
        loss = {"before": 0.0, "after": 0.0}
        for one in self._models:
            db = float(getattr(one, "loss", 0.0))
            if isinstance(one, el.FibreModel):
                self.flight_s += one.length * one.group_index / _C_M_PER_S
                self.spread += one.dispersion_broadening**2
                db += one.attenuation * one.length * 1e-3
            elif isinstance(one, el.MemoryModel):
                self.memory = one
                self.flight_to_memory_s = self.flight_s
            loss["before" if self.memory is None else "after"] += db
        #: Share of light that passes all but the memory, and all behind the memory.
        self.transmission = float(10 ** (-sum(loss.values()) / 10))
        self.transmission_after_memory = float(10 ** (-loss["after"] / 10))
        self.operators = _operators(self._models)

    def jones(self) -> pol.Complex:
        """Jones matrix, shape (2, 2), as fibres and paddles stand now."""
        matrix: pol.Complex = np.eye(2, dtype=np.complex128)
        for element in self._elements:
            if isinstance(element, el.Fibre):
                matrix = element.jones @ matrix
            elif isinstance(element, el.Paddles):
                matrix = pol.retarders(element.model.retardance, element.angles_deg) @ matrix
        return matrix

    def key(self) -> tuple[object, ...]:
        """Changes whenever :meth:`jones` does."""
        return tuple(
            element.jones.tobytes() if isinstance(element, el.Fibre) else tuple(element.angles_deg)
            for element in self._elements
            if isinstance(element, (el.Fibre, el.Paddles))
        )


def _operators(models: Sequence[object]) -> pol.Complex:
    """Measurement operators of the outputs, shape (n, 2, 2)."""
    for one in models:
        if isinstance(one, el.AnalyzerModel):
            return pol.analyzer_operators(one.z_fraction, one.extinction)
        if isinstance(one, el.SplitterModel):
            shares = np.array([one.transmission, 1 - one.transmission])
            return cast(pol.Complex, shares[:, None, None] * np.eye(2, dtype=np.complex128))
    return np.eye(2, dtype=np.complex128)[None]


def cable_delays_s(model: el.TaggerModel | None, first: int, count: int) -> list[float]:
    """Delays of ``count`` inputs in a row, from input ``first`` (counted from 1), s."""
    known = () if model is None else model.cable_delays
    return [known[n] if n < len(known) else 0.0 for n in range(first - 1, first - 1 + count)]


class Outlet:
    """The detectors at the end of a path, and the tagger inputs they feed.

    Args:
        detection: Where they are.
        elements: The world's elements.
        count: How many outputs the path has.
        flight_s: Time from the source to the detectors.
        spread: FWHM^2 of what widens the arrival besides the detectors and the tagger, s^2.
    """

    def __init__(
        self,
        detection: Detection,
        elements: Mapping[str, object],
        count: int,
        flight_s: float,
        spread: float,
    ) -> None:
        array = elements[detection.array]
        tagger = elements[detection.tagger] if detection.tagger is not None else None
        assert isinstance(array, el.SnspdArray)
        assert tagger is None or isinstance(tagger, el.TaggerInputs)
        self.array, self.tagger = array, tagger
        self.count = count
        self._slots = slice(detection.detector, detection.detector + count)
        self._first_input = detection.first_input
        self._detectors = array.model.detectors[self._slots]
        if tagger is not None:
            spread += tagger.model.jitter**2
        cables = cable_delays_s(
            None if tagger is None else tagger.model, detection.first_input, count
        )
        #: Per detector: from emission to the tagger (without the patch), ps, and rms jitter, ps.
        self.delay_s = [flight_s + cable for cable in cables]
        self.sigma_ps: Real = np.array(
            [math.sqrt(d.jitter**2 + spread) / _FWHM * 1e12 for d in self._detectors]
        )
        self.delay_ps: Times = np.zeros(count, np.int64)
        self._dead_ps = np.array([round(d.dead_time * 1e12) for d in self._detectors], np.int64)
        self._last_ps = np.full(count, _LONG_AGO_PS, np.int64)
        # Packed clicks (time << 6 | detector) that arrive after the block they were made in.
        self._held: Times = np.empty(0, np.int64)
        self._silent = True
        #: Whether its clicks are nobody's: those of the block before somebody began to listen.
        self.muted = False

    def set_patch(self, patch_ps: int) -> None:
        """Lengthen every delay by the same: no click may come before its own block."""
        self.delay_ps = np.array([round(d * 1e12 + patch_ps) for d in self.delay_s], np.int64)

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

    def deliver(self, times: Times, detectors: npt.NDArray[Any], end_ps: int) -> None:
        """Hand on what arrives before ``end_ps``, of these clicks and of those still on their way.

        Args:
            times: When each click reaches the tagger, in any order.
            detectors: Which detector made it.
            end_ps: End of the block.
        """
        packed = np.concatenate([self._held, (times << 6) | detectors])
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
