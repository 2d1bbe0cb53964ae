"""Clicks in time: rates, coincidences, correlations, delays. Windows are full widths."""

from .coincidences import CoincidenceCounter, Coincidences, match
from .correlation import Correlation, CorrelationHistogram, delay_histogram
from .offset import ChannelDelays, OffsetEstimate, find_channel_delays, find_offset
from .rates import CountRates

__all__ = [
    "ChannelDelays",
    "CoincidenceCounter",
    "Coincidences",
    "Correlation",
    "CorrelationHistogram",
    "CountRates",
    "OffsetEstimate",
    "delay_histogram",
    "find_channel_delays",
    "find_offset",
    "match",
]
