"""Entanglement swapping: heralds of a Bell-state station, four-folds, and what follows from them.

A station mixes one photon of each of two pairs on a beam splitter with a polarizing beam splitter
in each output. Two clicks in different polarizations herald the Bell state psi- (opposite outputs)
or psi+ (same output) and leave the far photons in that state where both pairs were phi+. Labels
are never dropped: without them half of the fidelity is gone.
"""

from ..estimates import Estimate
from .analysis import (
    BELL_TENSORS,
    EmptyShares,
    Prediction,
    Tally,
    chsh,
    empty_shares,
    fidelity,
    predict,
    visibilities,
)
from .arrivals import Arrivals, Klyshko, find_arrivals, find_end_delays, find_gate, gated, klyshko
from .hom import HomDip, fit_dip
from .settings import SETTINGS, Analyzer, Setting, paddle_angles
from .swaps import BELL_LABELS, DETECTORS, OUTCOMES, Gate, SwapCounter, SwapCounts

__all__ = [
    "BELL_LABELS",
    "BELL_TENSORS",
    "DETECTORS",
    "OUTCOMES",
    "SETTINGS",
    "Analyzer",
    "Arrivals",
    "EmptyShares",
    "Estimate",
    "Gate",
    "HomDip",
    "Klyshko",
    "Prediction",
    "Setting",
    "SwapCounter",
    "SwapCounts",
    "Tally",
    "chsh",
    "empty_shares",
    "fidelity",
    "find_arrivals",
    "find_end_delays",
    "find_gate",
    "fit_dip",
    "gated",
    "klyshko",
    "paddle_angles",
    "predict",
    "visibilities",
]
