"""Detectors."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from ...instruments import Unit
from .base import Fraction, Model, Rate, Seconds, Stage


class DetectorModel(Model):
    """One SNSPD."""

    efficiency: Fraction = 0.9
    """System detection efficiency at the operating bias."""
    dark_rate: Rate = 100.0
    """Dark counts at the operating bias, the background light included."""
    operating_bias: Annotated[float, Unit("A"), Field(gt=0)] = 18e-6
    switching_current: Annotated[float, Unit("A"), Field(gt=0)] = 22e-6
    jitter: Seconds = 50e-12
    """FWHM of the Gaussian timing jitter of the detector with its amplifier."""
    dead_time: Seconds = 30e-9


class SnspdModel(Model):
    """Array of SNSPDs on one electronics box."""

    stage: ClassVar[Stage] = "detect"
    kind: Literal["snspd"]
    detectors: Annotated[tuple[DetectorModel, ...], Field(min_length=1, max_length=64)]


class SnspdArray:
    """Knobs: ``bias_a``, ``trigger_v`` (per detector), ``enabled``, ``counting``.

    Reading: ``counts``, int64 per detector, of the block that has just ended; it is filled only
    while ``counting`` (somebody listens to counts) or while the tagger behind it records.
    """

    def __init__(self, model: SnspdModel) -> None:
        self.model = model
        n = len(model.detectors)
        self.bias_a: list[float] = [0.0] * n
        self.trigger_v: list[float] = [0.1] * n
        self.enabled = False
        self.counting = False
        self.counts: npt.NDArray[np.int64] = np.zeros(n, np.int64)
