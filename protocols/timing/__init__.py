"""Clicks in time: rates, coincidences, correlations, delays. Windows are full widths."""

from .clocks import ClockRecovery, ClockState, find_clock
from .coincidences import CoincidenceCounter, Coincidences, match
from .correlation import (
    Correlation,
    CorrelationHistogram,
    HistogramLogBins,
    LogCorrelation,
    delay_histogram,
)
from .events import EventFinder, EventTable, Matcher
from .histograms import (
    Histogram,
    Histogram2D,
    HistogramCounts,
    HistogramCounts2D,
    PhaseCounts,
    PhaseHistogram,
    StartStop,
)
from .multichannel import FoldCounter, FoldCounts
from .offset import ChannelDelays, OffsetEstimate, find_channel_delays, find_offset
from .one_clock import ClockLine, common_clock, follower, on_one_clock
from .peaks import PeakFit, PeakShape, fit_differences, fit_histogram, fit_peak
from .rates import Counter, CountRates, CountsOverTime, dead_time_corrected
from .statistics import (
    GateCounts,
    HeraldedG2,
    PairSource,
    car,
    car_at_least,
    g2_zero,
    klyshko,
    net_efficiency,
)
from .virtual import (
    Chain,
    CoincidenceChannel,
    Combiner,
    DeadTime,
    DelayedChannel,
    EventDivider,
    GatedChannel,
    VirtualChannel,
)

__all__ = [
    "Chain",
    "ChannelDelays",
    "ClockLine",
    "ClockRecovery",
    "ClockState",
    "CoincidenceChannel",
    "CoincidenceCounter",
    "Coincidences",
    "Combiner",
    "Correlation",
    "CorrelationHistogram",
    "CountRates",
    "Counter",
    "CountsOverTime",
    "DeadTime",
    "DelayedChannel",
    "EventDivider",
    "EventFinder",
    "EventTable",
    "FoldCounter",
    "FoldCounts",
    "GateCounts",
    "GatedChannel",
    "HeraldedG2",
    "Histogram",
    "Histogram2D",
    "HistogramCounts",
    "HistogramCounts2D",
    "HistogramLogBins",
    "LogCorrelation",
    "Matcher",
    "OffsetEstimate",
    "PairSource",
    "PeakFit",
    "PeakShape",
    "PhaseCounts",
    "PhaseHistogram",
    "StartStop",
    "VirtualChannel",
    "car",
    "car_at_least",
    "common_clock",
    "dead_time_corrected",
    "delay_histogram",
    "find_channel_delays",
    "find_clock",
    "find_offset",
    "fit_differences",
    "fit_histogram",
    "fit_peak",
    "follower",
    "g2_zero",
    "klyshko",
    "match",
    "net_efficiency",
    "on_one_clock",
]
