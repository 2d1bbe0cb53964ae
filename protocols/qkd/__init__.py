"""Quantum key distribution: from clicks at two parties to authenticated secret key in two stores.

:class:`Session` is one party; see :mod:`.session`, and ``docs/security.md`` for what a key
rests on.
"""

from .authentication import PadSource, memory_pads
from .bbm92 import FindDelays
from .finite_key import asymptotic_key_fraction, binary_entropy, secure_key_length
from .parameters import Detectors, Parameters
from .randomness import Randomness, SeededRandomness, SystemRandomness
from .report import BlockReport
from .session import Phase, Progress, Session, join
from .sink import KeySink, MemorySink

__all__ = [
    "BlockReport",
    "Detectors",
    "FindDelays",
    "KeySink",
    "MemorySink",
    "PadSource",
    "Parameters",
    "Phase",
    "Progress",
    "Randomness",
    "SeededRandomness",
    "Session",
    "SystemRandomness",
    "asymptotic_key_fraction",
    "binary_entropy",
    "join",
    "memory_pads",
    "secure_key_length",
]
