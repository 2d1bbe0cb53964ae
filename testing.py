"""Checks that any driver can be put through, yours too: does it keep the promise of its role?

Each check takes an instrument (or what makes one), works it, and raises `AssertionError` saying
what is wrong. They need no test framework and run on twins and on the table alike::

    from bellbench.testing import check_instrument, check_time_tagger

    def test_my_tagger(clock):
        check_instrument(lambda: MyTagger("tagger", "COM5", MyTagger.Settings(), clock))
        with MyTagger("tagger", "COM5", MyTagger.Settings(), clock) as tagger:
            check_time_tagger(tagger, clock)

A check leaves settings as it found them. What moves or emits is said in its docstring.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np

from .instruments import (
    SPELLINGS,
    Attenuator,
    Clock,
    Deadline,
    DelayGenerator,
    DetectorArray,
    Identity,
    Instrument,
    InstrumentError,
    Levels,
    Limited,
    OpticalSwitch,
    PairSource,
    PolarizationController,
    PowerMeter,
    PulseSequence,
    PulseSequencer,
    QuantumMemory,
    Readable,
    Settable,
    TimeTagger,
    WeakCoherentSource,
)

__all__ = [
    "check_attenuator",
    "check_clock",
    "check_delay_generator",
    "check_detector_array",
    "check_instrument",
    "check_optical_switch",
    "check_pair_source",
    "check_polarization_controller",
    "check_power_meter",
    "check_pulse_sequencer",
    "check_quantum_memory",
    "check_readable",
    "check_settable",
    "check_time_tagger",
    "check_weak_coherent_source",
]

T = TypeVar("T")

_LOSSES = ("overflow", "gap", "late", "corrupt")


def check_clock(clock: Clock) -> None:
    """Check that time never goes back and that a sleep lasts; takes 0.2 s of bench time."""
    _check(isinstance(clock, Clock), f"{clock!r} lacks part of the Clock protocol")
    for seconds in (0.0, -1.0, 0.05, 0.15):
        before = clock.now()
        clock.sleep(seconds)
        passed = clock.now() - before
        _check(passed >= 0, f"time went back by {-passed:g} s in sleep({seconds:g})")
        # 1 ns for the rounding of times kept as floating-point seconds
        _check(passed >= seconds - 1e-9, f"sleep({seconds:g}) took {passed:g} s")


def check_instrument(make: Callable[[], Instrument]) -> None:
    """Check opening, closing, identity and signals.

    ``make`` returns a new, closed instrument each time. It is opened, read, closed and opened
    again; nothing is set.
    """
    device = make()
    _check(isinstance(device, Instrument), f"{device!r} lacks part of the Instrument protocol")
    _check(bool(device.name), f"{device!r} has no name")
    _refuses(device.identify, "identify() before open()")
    device.close()
    device.open()
    try:
        device.open()
        identity = device.identify()
        _check(isinstance(identity, Identity), f"identify() returned {identity!r}, no Identity")
        _check(bool(identity.model), "identify() names no model")
        _check(isinstance(device.ready(), bool), "ready() returned no bool")
        signals = device.signals
        names = [signal.name for signal in signals]
        _check(bool(names), f"{device.name} has no signals")
        twice = {name for name in names if names.count(name) > 1}
        _check(not twice, f"signals of the same name: {', '.join(sorted(twice))}")
        for signal in signals:
            check_readable(signal)
    finally:
        device.close()
    device.close()
    _refuses(device.identify, "identify() after close()")
    device.open()
    try:
        again = device.identify()
        _check(again == identity, f"after reopening it is {again}, before it was {identity}")
        reopened = [signal.name for signal in device.signals]
        _check(reopened == names, f"after reopening the signals are {reopened}, not {names}")
    finally:
        device.close()
    another = make()
    _check(another is not device, "make() must return a new instrument each time")


def check_readable(signal: Readable[object], *, unit: str | None = None) -> None:
    """Check a signal's name and unit, and that a number read from it is one.

    Args:
        signal: The signal, of an open instrument.
        unit: The unit it must have; None for any that Bellbench knows.
    """
    _check(isinstance(signal, Readable), f"{signal!r} lacks part of the Readable protocol")
    _check(signal.name.isidentifier(), f"signal name {signal.name!r} is no identifier")
    if unit is None:
        known = {"", *SPELLINGS}
        _check(signal.unit in known, f"{signal.name} has the unit {signal.unit!r}, not SI")
    else:
        _check(signal.unit == unit, f"{signal.name} has the unit {signal.unit!r}, not {unit!r}")
    value = signal.get()
    if isinstance(value, float):
        _check(not math.isnan(value), f"{signal.name} read as NaN")
    if isinstance(signal, Limited):
        limits = signal.limits
        _check(limits.low < limits.high, f"{signal.name} has the empty limits {limits}")


def check_settable(
    signal: Settable[T],
    values: Sequence[T],
    *,
    unit: str | None = None,
    tolerance: float = 0.0,
) -> None:
    """Check that values set are read back, and that limits are kept.

    Args:
        signal: The signal, of an open instrument; it is set, and restored.
        values: Values it must take.
        unit: As in :func:`check_readable`.
        tolerance: How far a number read back may be from the one set: the device's resolution.
    """
    _check(isinstance(signal, Settable), f"{signal!r} lacks part of the Settable protocol")
    check_readable(signal, unit=unit)
    with _restored(signal):
        for value in values:
            signal.set(value)
            read = signal.get()
            if isinstance(value, float) and isinstance(read, (int, float)):
                near = abs(read - value) <= tolerance + 1e-9 * abs(value)
            else:
                near = read == value
            _check(near, f"{signal.name} was set to {value!r} and reads {read!r}")
        if isinstance(signal, Limited):
            _check_limits(signal)


def check_pair_source(source: PairSource) -> None:
    """Check a pair source's signals and limits; emission is only switched off."""
    _check(isinstance(source, PairSource), f"{source!r} lacks part of the PairSource protocol")
    current = source.pump_current
    check_settable(current, [current.get()], unit="A", tolerance=1e-6)
    temperature = source.crystal_temperature
    check_settable(temperature, [temperature.get()], unit="degC", tolerance=1e-3)
    check_readable(source.measured_crystal_temperature, unit="degC")
    measured = source.measured_crystal_temperature.get()
    _check(-50 < measured < 400, f"the crystal is at {measured} degC, which no crystal is")
    check_readable(source.emission, unit="")
    source.emission.set(False)
    _check(source.emission.get() is False, "emission was switched off and reads as on")


def check_detector_array(detectors: DetectorArray) -> None:
    """Check detectors: as many signals as detectors, biases that are set one by one, and rates.

    Biases are moved by 1 % and restored; rates are read, which may take bench time.
    """
    _check(isinstance(detectors, DetectorArray), f"{detectors!r} lacks part of DetectorArray")
    count = detectors.detectors
    _check(count >= 1, f"it says it has {count} detectors")
    for name in ("bias_currents", "count_rates"):
        held = len(getattr(detectors, name))
        _check(held == count, f"{name} holds {held} signals for {count} detectors")
    before = [bias.get() for bias in detectors.bias_currents]
    for i, bias in enumerate(detectors.bias_currents):
        check_settable(bias, [before[i], before[i] * 0.99], unit="A", tolerance=1e-7)
        others = [other.get() for other in detectors.bias_currents]
        _check(
            all(abs(x - y) < 1e-7 for x, y in zip(others, before, strict=True)),
            f"setting {bias.name} moved another bias: {before} became {others}",
        )
    check_readable(detectors.enabled, unit="")
    for rate in detectors.count_rates:
        check_readable(rate, unit="Hz")
        _check(rate.get() >= 0, f"{rate.name} is negative")


def check_time_tagger(
    tagger: TimeTagger, clock: Clock, *, step_s: float = 0.1, steps: int = 10
) -> None:
    """Check a tagger: recording twice, with reads every ``step_s`` of bench time.

    It must not be recording. What it must promise is the watermark: batches join without gaps,
    hold sorted clicks of its own channels, and end at the clock less the latency, to within the
    tolerance that ``info`` states for the tagger's own clock.

    Args:
        tagger: An open tagger.
        clock: The bench's clock.
        step_s: Time between two reads, s.
        steps: Reads per recording.
    """
    _check(isinstance(tagger, TimeTagger), f"{tagger!r} lacks part of the TimeTagger protocol")
    info = tagger.info
    _check(bool(info.channels), "info names no channels")
    _check(info.resolution_ps >= 1, f"info says a resolution of {info.resolution_ps} ps")
    _check(info.max_rate_hz > 0, f"info says a rate of {info.max_rate_hz} Hz")
    _check(info.latency_s >= 0, f"info says a latency of {info.latency_s} s")
    _check(0 <= info.clock_tolerance < 1, f"info says a tolerance of {info.clock_tolerance:g}")
    _refuses(tagger.read, "read() before start()")
    tagger.stop()
    for _ in range(2):
        _check_recording(tagger, clock, step_s, steps)
    _refuses(tagger.read, "read() after stop()")


def check_polarization_controller(
    controller: PolarizationController,
    clock: Clock,
    *,
    tolerance: float,
    timeout_s: float = 60.0,
) -> None:
    """Check that each actuator moves a tenth of its range, arrives, and leaves the others alone.

    Actuators are moved, and moved back.

    Args:
        controller: An open controller.
        clock: The bench's clock.
        tolerance: How near an actuator comes to its target, in its own unit.
        timeout_s: Longest time a move takes, s of bench time.
    """
    _check(
        isinstance(controller, PolarizationController),
        f"{controller!r} lacks part of the PolarizationController protocol",
    )
    actuators = controller.actuators
    _check(bool(actuators), "it has no actuators")
    before = [actuator.get() for actuator in actuators]
    for i, actuator in enumerate(actuators):
        check_readable(actuator)
        target = before[i] + 1.0
        if isinstance(actuator, Limited):
            _check_limits(actuator)
            limits = actuator.limits
            tenth = (limits.high - limits.low) / 10
            target = before[i] + (tenth if before[i] + tenth <= limits.high else -tenth)
        for goal in (target, before[i]):
            actuator.set(goal)
            _arrive(controller, clock, timeout_s, actuator.name)
            wanted = [*before[:i], goal, *before[i + 1 :]]
            found = [each.get() for each in actuators]
            _check(
                all(abs(x - y) <= tolerance for x, y in zip(found, wanted, strict=True)),
                f"{actuator.name} was sent to {goal:g}: positions are {found}, not {wanted}",
            )


def check_power_meter(meter: PowerMeter) -> None:
    """Check a power meter: a power in W, a wavelength in m that is kept."""
    _check(isinstance(meter, PowerMeter), f"{meter!r} lacks part of the PowerMeter protocol")
    check_readable(meter.power, unit="W")
    wavelength = meter.wavelength.get()
    _check(
        100e-9 < wavelength < 100e-6, f"its wavelength is {wavelength} m: is that in another unit?"
    )
    check_settable(meter.wavelength, [wavelength, wavelength * 1.01], unit="m", tolerance=1e-10)


def check_attenuator(
    attenuator: Attenuator, clock: Clock, *, tolerance: float = 0.02, timeout_s: float = 60.0
) -> None:
    """Check that an attenuator goes half way to its most and comes back; light changes meanwhile.

    Args:
        attenuator: An open attenuator.
        clock: The bench's clock.
        tolerance: How near it comes to what it is set to, dB.
        timeout_s: Longest time a move takes, s of bench time.
    """
    _check(isinstance(attenuator, Attenuator), f"{attenuator!r} lacks part of Attenuator")
    signal = attenuator.attenuation
    check_readable(signal, unit="dB")
    most = 1.0
    if isinstance(signal, Limited):
        _check_limits(signal)
        _check(signal.limits.low >= 0, f"{signal.name} goes below 0 dB: {signal.limits}")
        most = signal.limits.high
    before = signal.get()
    for goal in (most / 2, before):
        signal.set(goal)
        _arrive(attenuator, clock, timeout_s, signal.name)
        found = signal.get()
        near = abs(found - goal) <= tolerance
        _check(near, f"{signal.name} was set to {goal:g} dB and reads {found:g} dB")


def check_optical_switch(switch: OpticalSwitch, clock: Clock, *, timeout_s: float = 10.0) -> None:
    """Check that a switch goes to each of its outputs and nowhere else; it ends where it was.

    Args:
        switch: An open switch.
        clock: The bench's clock.
        timeout_s: Longest time it takes, s of bench time.
    """
    _check(isinstance(switch, OpticalSwitch), f"{switch!r} lacks part of OpticalSwitch")
    _check(switch.outputs >= 2, f"it says it has {switch.outputs} outputs")
    check_readable(switch.output, unit="")
    before = switch.output.get()
    for goal in (*range(1, switch.outputs + 1), before):
        switch.output.set(goal)
        _arrive(switch, clock, timeout_s, switch.output.name)
        found = switch.output.get()
        _check(found == goal, f"it was set to output {goal} and is at {found}")
    for wrong in (0, switch.outputs + 1):
        _refuses(partial(switch.output.set, wrong), f"output {wrong}")
    _check(switch.output.get() == before, "a refused output moved it")


def check_delay_generator(generator: DelayGenerator) -> None:
    """Check a delay generator: delays on its grid that move alone, levels, triggers and bursts.

    It fires, once or more, at its present levels; delays are moved by 1000 steps of its grid.
    Delays come out as they were, counted from the trigger: channels linked to others do not.
    """
    _check(
        isinstance(generator, DelayGenerator),
        f"{generator!r} lacks part of the DelayGenerator protocol",
    )
    info = generator.info
    _check(bool(info.channels), "info names no channels")
    _check(0 < info.resolution_s < info.max_delay_s, f"info says {info}")
    _check(info.dead_time_s >= 0, f"info says a dead time of {info.dead_time_s} s")
    for source in ("internal", "single"):
        _check(source in info.trigger_sources, f"it has no trigger source {source!r}")
    for name, wanted in (
        ("delays", info.channels),
        ("amplitudes", tuple(info.outputs)),
        ("positive", tuple(info.outputs)),
    ):
        held = tuple(getattr(generator, name))
        _check(set(held) == set(wanted), f"{name} holds {held}, info says {wanted}")
    with _restored(generator.trigger_source), _restored(generator.burst):
        check_settable(generator.trigger_source, ["single"], unit="")
        _refuses(partial(generator.trigger_source.set, "no such source"), "an unknown source")
        _check_delays(generator)
        for output in info.outputs:
            amplitude, positive = generator.amplitudes[output], generator.positive[output]
            check_settable(amplitude, [amplitude.get()], unit="V", tolerance=0.02)
            check_settable(positive, [positive.get()], unit="")
        check_settable(generator.trigger_rate, [1000.0], unit="Hz", tolerance=0.01)
        check_settable(generator.burst, [True, False], unit="")
        check_settable(generator.burst_count, [3], unit="")
        check_settable(generator.burst_period, [1e-3], unit="s", tolerance=1e-6)
        generator.trigger()
        generator.trigger_source.set("internal")
        _refuses(generator.trigger, "trigger() on the internal source")


def check_pulse_sequencer(sequencer: PulseSequencer, clock: Clock) -> None:
    """Check a sequencer: what it plays, when it starts and ends, and what it refuses.

    Its first digital output pulses for some bench time; it ends with every output low and at 0 V.
    """
    _check(isinstance(sequencer, PulseSequencer), f"{sequencer!r} lacks part of PulseSequencer")
    info = sequencer.info
    _check(info.digital_outputs >= 1, "info names no digital output")
    _check(info.max_steps >= 2, f"info says {info.max_steps} steps")
    for name in ("resolution_ps", "analog_resolution_ps", "run_resolution_ps"):
        grid = getattr(info, name)
        _check(grid >= 1 and grid % info.resolution_ps == 0, f"info says {name} {grid}")
    for source in ("immediate", "software"):
        _check(source in info.trigger_sources, f"it has no trigger source {source!r}")
    _check("internal" in info.clock_sources, "it has no clock source 'internal'")
    check_readable(sequencer.clock_source, unit="")
    half = info.run_resolution_ps * -(-10_000_000_000 // info.run_resolution_ps)
    rest = Levels(0, (0.0,) * info.analog_outputs)

    def square(digital: int, level_v: float, duration_ps: int = half) -> PulseSequence:
        return PulseSequence(
            np.full(2, duration_ps, np.int64),
            np.array([digital, 0], np.uint32),
            np.array([[level_v] * info.analog_outputs, [0.0] * info.analog_outputs]),
        )

    def expect(streaming: bool, finished: bool, when: str) -> None:
        found = sequencer.streaming.get(), sequencer.finished.get()
        wanted = streaming, finished
        _check(found == wanted, f"{when} (streaming, finished) read {found}, not {wanted}")

    high = info.analog_limits_v.high
    with _restored(sequencer.trigger_source):
        try:
            _refuses(partial(sequencer.trigger_source.set, "no such source"), "an unknown source")
            sequencer.trigger_source.set("immediate")
            sequencer.hold(rest)
            expect(False, False, "while levels are held")
            sequencer.stream(square(1, high))
            clock.sleep(0.1)
            expect(True, False, "in an endless sequence")
            for what, call in (
                ("a digital output too many", partial(square, 1 << info.digital_outputs, 0.0)),
                ("an analog level too high", partial(square, 1, high * 1.01)),
                ("steps off the grid", partial(square, 1, 0.0, half + info.resolution_ps // 2)),
            ):
                if what == "steps off the grid" and info.resolution_ps == 1:
                    continue
                _refuses(partial(sequencer.stream, call()), what)
                expect(True, False, f"after it has refused {what}")
            for runs in (0, -1):
                _refuses(partial(sequencer.stream, square(1, 0.0), runs=runs), f"{runs} runs")
            _refuses(partial(sequencer.hold, Levels(1 << info.digital_outputs)), "a mask too wide")
            _refuses(sequencer.start, "start() without a software trigger")
            expect(True, False, "after refusals")
            sequencer.stream(square(1, 0.0), runs=2)
            clock.sleep(0.2)
            expect(False, True, "after two runs")
            sequencer.trigger_source.set("software")
            sequencer.stream(square(1, 0.0), runs=1)
            clock.sleep(0.1)
            expect(False, False, "before start()")
            sequencer.start()
            clock.sleep(0.1)
            expect(False, True, "after start() and one run")
            sequencer.hold(rest)
            expect(False, False, "after hold()")
            _refuses(sequencer.start, "start() without a sequence")
        finally:
            sequencer.hold(rest)


def check_weak_coherent_source(source: WeakCoherentSource, clock: Clock) -> None:
    """Check a weak coherent source: its patterns, their timing, and what it refuses.

    Patterns are played with the laser as it is, for some bench time; it ends with none playing.
    """
    _check(isinstance(source, WeakCoherentSource), f"{source!r} lacks part of WeakCoherentSource")
    info = source.info
    _check(bool(info.intensities), "info names no intensities")
    _check(all(mean >= 0 for mean in info.intensities.values()), "a negative mean photon number")
    _check(bool(info.states), "info names no states")
    _check(len(set(info.states)) == len(info.states), f"states of the same name: {info.states}")
    _check(info.max_rate_hz > 0, f"info says a rate of {info.max_rate_hz} Hz")
    _check(info.max_pulses >= 1, f"info says {info.max_pulses} pulses")
    check_readable(source.emission, unit="")
    step = info.period_resolution_ps
    period = step * math.ceil(max(1e12 / info.max_rate_hz, 100_000) / step)
    rate = 1e12 / period
    count = min(16, info.max_pulses)
    which = np.arange(count) % len(info.intensities)
    states = np.arange(count) % len(info.states)

    def expect(playing: bool, when: str) -> None:
        found = source.playing.get()
        _check(found == playing, f"{when} playing read {found}")

    try:
        times = source.play(which, states, rate)
        _check(times.shape == (count,), f"times of shape {times.shape} for {count} pulses")
        _check(times.dtype == np.int64, f"times are {times.dtype}, not int64")
        _check(bool((np.diff(times) == period).all()), f"pulses every {period} ps leave at {times}")
        _check(bool(times[0] >= 0), f"the first pulse leaves at {times[0]} ps")
        clock.sleep(0.1)
        expect(True, "in an endless pattern")
        for what, bad in (
            ("an unknown intensity", (which + len(info.intensities), states, rate)),
            ("an unknown state", (which, states - 1 - len(info.states), rate)),
            ("intensities without states", (which, states[:0], rate)),
            ("no pulses", (which[:0], states[:0], rate)),
            ("a rate too high", (which, states, info.max_rate_hz * 1.01)),
            ("no rate", (which, states, 0.0)),
        ):
            _refuses(partial(source.play, *bad), what)
            expect(True, f"after it has refused {what}")
        _refuses(partial(source.play, which, states, rate, runs=0), "0 runs")
        source.play(which, states, rate, runs=1000)
        clock.sleep(0.1 + 1000 * count / rate)
        expect(False, "after its runs")
        source.play(which, states, rate)
        clock.sleep(0.1)
        source.stop()
        expect(False, "after stop()")
    finally:
        source.stop()


def check_quantum_memory(
    memory: QuantumMemory, clock: Clock, *, tolerance_s: float = 1e-9, timeout_s: float = 10.0
) -> None:
    """Check a memory: its verbs in and out of order, its limits, its word about heralded photons.

    It runs through all its states and ends stopped; light goes in as it comes.

    Args:
        memory: An open memory; an :class:`Instrument`, too.
        clock: The bench's clock.
        tolerance_s: How far storage times read back may be from those asked for.
        timeout_s: Longest preparation, s of bench time.
    """
    _check(isinstance(memory, QuantumMemory), f"{memory!r} lacks part of QuantumMemory")
    assert isinstance(memory, Instrument)
    info = memory.info
    begin, end = info.window_s
    in_order = 0 <= info.prepared_s <= begin < end <= info.cycle_s
    _check(in_order, f"prepared at {info.prepared_s:g} s, open {info.window_s}: no such cycle")
    _check(info.modes >= 1, f"info says it has {info.modes} modes")
    filled = info.modes * info.mode_duration_s
    _check(
        info.mode_kind != "temporal" or filled <= (end - begin) * (1 + 1e-9),
        f"{info.modes} modes take {filled:g} s, the window lasts {end - begin:g} s",
    )
    low, high = info.min_storage_s, info.max_storage_s
    _check(0 <= info.echo_s <= low <= high, f"storage times {info.echo_s:g}, {low:g}, {high:g} s")
    _check(info.decay in ("gaussian", "exponential"), f"no such decay: {info.decay!r}")
    _check(info.noise_per_mode >= 0, f"a noise of {info.noise_per_mode} photons")
    _check_model(memory)

    def expect(state: str, storage_s: float) -> None:
        found, stored = memory.state.get(), memory.storage_time.get()
        _check(found == state, f"the state is {found!r}, not {state!r}")
        near = abs(stored - storage_s) <= tolerance_s
        _check(near, f"storage_time reads {stored:g} s, not {storage_s:g} s")

    def refuses(call: Callable[[], object], what: str, state: str, storage_s: float) -> None:
        _refuses(call, what)
        expect(state, storage_s)  # left as it was

    def settle(state: str, storage_s: float) -> None:
        deadline = Deadline(clock, timeout_s)
        while not memory.ready():
            _check(not deadline.passed, f"it is not {state} after {timeout_s:g} s")
            clock.sleep(0.01)
        expect(state, storage_s)

    check_readable(memory.state, unit="")
    check_readable(memory.storage_time, unit="s")
    memory.off()
    try:
        expect("idle", 0.0)
        refuses(memory.store, "store() of an idle memory", "idle", 0.0)
        refuses(lambda: memory.retrieve(low), "retrieve() of an idle memory", "idle", 0.0)
        refuses(lambda: memory.herald(begin), "herald() to an idle memory", "idle", 0.0)
        memory.bypass()
        settle("bypassed", 0.0)
        refuses(memory.store, "store() in the bypass", "bypassed", 0.0)
        refuses(lambda: memory.herald(begin), "herald() in the bypass", "bypassed", 0.0)
        memory.prepare()
        settle("ready", info.echo_s)
        refuses(lambda: memory.retrieve(low), "retrieve() before store()", "ready", info.echo_s)
        if info.echo_s:
            _check_herald(memory, info.echo_s, tolerance_s)
        if not info.on_demand:
            refuses(memory.store, "store() with a fixed delay", "ready", info.echo_s)
            return
        memory.store()
        settle("storing", 0.0)
        refuses(lambda: memory.herald(begin), "herald() without recall", "storing", 0.0)
        beyond = (low - 2 * tolerance_s, high + 2 * tolerance_s, math.nan)
        for storage_s in (low, high):
            memory.retrieve(storage_s)
            settle("retrieving", storage_s)
            _check_herald(memory, storage_s, tolerance_s)
            for bad in beyond:
                call = partial(memory.retrieve, bad)
                refuses(call, f"retrieve({bad:g})", "retrieving", storage_s)
        memory.store()
        settle("storing", 0.0)
        memory.prepare()
        settle("ready", info.echo_s)
    finally:
        memory.off()
    expect("idle", 0.0)


def _check_model(memory: QuantumMemory) -> None:
    low, high = memory.info.min_storage_s, memory.info.max_storage_s
    times = [low + (high - low) * k / 10 for k in range(11)]
    model = [memory.efficiency(t) for t in times]
    _check(all(0 <= e <= 1 for e in model), f"efficiencies out of 0 to 1: {model}")
    falls = all(a >= b for a, b in pairwise(model))
    _check(falls, f"the efficiency grows with the storage time: {model}")
    _refuses(lambda: memory.efficiency(1.1 * high), "the efficiency beyond the longest storage")


def _check_herald(memory: QuantumMemory, storage_s: float, tolerance_s: float) -> None:
    info = memory.info
    begin, end = info.window_s
    last = begin + (info.modes - 0.5) * info.mode_duration_s
    for arrival_s, mode in ((begin, 0), (last, info.modes - 1)):
        found = memory.herald(arrival_s)
        if info.mode_kind == "temporal":
            _check(found.mode == mode, f"{arrival_s:g} s is mode {found.mode}, not {mode}")
        late = found.out_s - arrival_s - storage_s
        _check(abs(late) <= tolerance_s, f"out {late:g} s later than stored for {storage_s:g} s")
        _check(abs(found.storage_s - storage_s) <= tolerance_s, f"{found}, not {storage_s:g} s")
    for arrival_s in (begin - 1e-9, end, end + info.cycle_s, math.nan):
        _refuses(partial(memory.herald, arrival_s), f"herald({arrival_s:g}) outside the window")


def _check_delays(generator: DelayGenerator) -> None:
    info = generator.info
    before = [generator.delays[channel].get() for channel in info.channels]
    for channel, delay in zip(info.channels, before, strict=True):
        generator.delays[channel].set(delay)  # counted from the trigger from now on
    near = 0.51 * info.resolution_s
    for i, channel in enumerate(info.channels):
        signal = generator.delays[channel]
        moved = before[i] + 1000 * info.resolution_s
        if moved > info.max_delay_s:
            moved = before[i] - 1000 * info.resolution_s
        check_settable(signal, [before[i], moved], unit="s", tolerance=near)
        with _restored(signal):
            signal.set(moved)
            found = [generator.delays[each].get() for each in info.channels]
            wanted = [*before[:i], moved, *before[i + 1 :]]
            _check(
                all(abs(x - y) <= near + 1e-9 * y for x, y in zip(found, wanted, strict=True)),
                f"channel {channel} was set to {moved:g} s: delays are {found}, not {wanted}",
            )


def _check_recording(tagger: TimeTagger, clock: Clock, step_s: float, steps: int) -> None:
    info = tagger.info
    earliest = clock.now()
    tagger.start()
    latest = clock.now()
    try:
        _refuses(tagger.start, "start() while recording")
        end_ps = 0
        for _ in range(steps):
            clock.sleep(step_s)
            slow, fast = 1 - info.clock_tolerance, 1 + info.clock_tolerance
            low = round(((clock.now() - latest) * slow - info.latency_s) * 1e12)
            batch = tagger.read().checked()
            high = round(((clock.now() - earliest) * fast - info.latency_s) * 1e12)
            _check(
                batch.begin_ps == end_ps,
                f"a batch begins at {batch.begin_ps} ps, the one before ended at {end_ps} ps",
            )
            end_ps = batch.end_ps
            _check(
                max(0, low) - 1 <= end_ps <= max(0, high) + 1,
                f"the watermark is {end_ps} ps; the clock less the latency is {low} to {high} ps"
                f" with a tolerance of {info.clock_tolerance:g}",
            )
            strange = set(batch.channels.tolist()) - set(info.channels)
            _check(not strange, f"clicks on channels that info does not name: {sorted(strange)}")
            _check(batch.start_unix_ns > 0, "a batch carries no host time of the start")
            for loss in batch.losses:
                _check(loss.end_ps > loss.begin_ps, f"an empty interval was lost: {loss}")
                _check(loss.kind in _LOSSES, f"no such kind of loss: {loss.kind!r}")
    finally:
        tagger.stop()
        tagger.stop()


def _check_limits(signal: object) -> None:
    assert isinstance(signal, Settable)
    assert isinstance(signal, Limited)
    limits = signal.limits
    before = signal.get()
    span = limits.high - limits.low
    for outside in (limits.low - 0.01 * span, limits.high + 0.01 * span, math.nan):
        if not math.isinf(outside):
            _refuses(partial(signal.set, outside), f"setting {signal.name} to {outside:g}")
    _check(signal.get() == before, f"{signal.name} moved although the value was refused")


def _arrive(
    device: PolarizationController | Attenuator | OpticalSwitch,
    clock: Clock,
    timeout_s: float,
    name: str,
) -> None:
    deadline = Deadline(clock, timeout_s)
    while not device.ready():
        _check(not deadline.passed, f"{name} has not arrived after {timeout_s:g} s")
        clock.sleep(0.05)


def _refuses(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except InstrumentError as error:
        _check(bool(str(error)), f"{what} is refused without a word")
        return
    raise AssertionError(f"{what} must raise InstrumentError")


@contextmanager
def _restored(signal: Settable[T]) -> Iterator[None]:
    before = signal.get()
    try:
        yield
    finally:
        signal.set(before)


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
