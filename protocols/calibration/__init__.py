"""Calibration routines: from a misaligned bench to the right setting, with its uncertainty.

Each sees roles and the bench's clock only. A bench that shows nothing to calibrate on gives a
result with ``ok`` false and a reason, and its settings back; errors of instruments are raised.
"""

from .bias import BiasResult, BiasScan, find_bias
from .delays import DelaysResult, find_delays
from .phase_matching import PhaseMatchingResult, find_phase_matching
from .polarization import PolarizationResult, Station, find_polarization

__all__ = [
    "BiasResult",
    "BiasScan",
    "DelaysResult",
    "PhaseMatchingResult",
    "PolarizationResult",
    "Station",
    "find_bias",
    "find_delays",
    "find_phase_matching",
    "find_polarization",
]
