"""Quantum key distribution: BBM92 from clicks to a secret key.

The classical channel is assumed to be authentic; see :mod:`.bbm92` and ``docs/security-notes.md``.
"""

from .bbm92 import Alice, Bob, Channel, FindDelays, Phase, Progress, Result, joint_result
from .finite_key import asymptotic_key_fraction, binary_entropy, secure_key_length
from .parameters import Detectors, Parameters
from .randomness import Randomness, SeededRandomness, SystemRandomness

__all__ = [
    "Alice",
    "Bob",
    "Channel",
    "Detectors",
    "FindDelays",
    "Parameters",
    "Phase",
    "Progress",
    "Randomness",
    "Result",
    "SeededRandomness",
    "SystemRandomness",
    "asymptotic_key_fraction",
    "binary_entropy",
    "joint_result",
    "secure_key_length",
]
