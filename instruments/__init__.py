"""What a device is: roles, signals, tags, units. No device I/O lives here."""

from .clock import Clock, Deadline, SystemClock
from .errors import (
    BellbenchError,
    ConfigError,
    InstrumentError,
    InstrumentTimeout,
    ProtocolError,
    TagFileError,
    TwinError,
)
from .pulse_sequencer import Levels, PulseSequence, PulseSequencer, PulseSequencerInfo
from .roles import (
    DelayGenerator,
    DelayGeneratorInfo,
    DetectorArray,
    Identity,
    Instrument,
    MemoryInfo,
    PairSource,
    PolarizationController,
    PolarizationStabilizer,
    PowerMeter,
    QuantumMemory,
    Retrieval,
    TaggerInfo,
    TimeTagger,
)
from .signals import Limited, Limits, Readable, Settable
from .tags import Channels, Loss, TagBatch, TimesPs, concatenate
from .units import SPELLINGS, Unit, parse_quantity
from .weak_coherent_source import WeakCoherentSource, WeakCoherentSourceInfo

__all__ = [
    "SPELLINGS",
    "BellbenchError",
    "Channels",
    "Clock",
    "ConfigError",
    "Deadline",
    "DelayGenerator",
    "DelayGeneratorInfo",
    "DetectorArray",
    "Identity",
    "Instrument",
    "InstrumentError",
    "InstrumentTimeout",
    "Levels",
    "Limited",
    "Limits",
    "Loss",
    "MemoryInfo",
    "PairSource",
    "PolarizationController",
    "PolarizationStabilizer",
    "PowerMeter",
    "ProtocolError",
    "PulseSequence",
    "PulseSequencer",
    "PulseSequencerInfo",
    "QuantumMemory",
    "Readable",
    "Retrieval",
    "Settable",
    "SystemClock",
    "TagBatch",
    "TagFileError",
    "TaggerInfo",
    "TimeTagger",
    "TimesPs",
    "TwinError",
    "Unit",
    "WeakCoherentSource",
    "WeakCoherentSourceInfo",
    "concatenate",
    "parse_quantity",
]
