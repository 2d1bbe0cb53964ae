"""One walk through every driver and every signal."""

import inspect
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

import bellbench.drivers
import pytest
from bellbench.drivers import DRIVERS, driver_keys, load_driver
from bellbench.drivers.agiltron.switch import AgiltronSwitch
from bellbench.drivers.id_quantique.id900 import IDQuantiqueID900
from bellbench.drivers.oz_optics.dd100mc import OzOpticsDD100MC
from bellbench.drivers.oz_optics.epc04 import OzOpticsEPC04
from bellbench.drivers.quantum_memory import EnsembleMemory
from bellbench.drivers.s_fifteen.lcr import SFifteenLCR
from bellbench.drivers.s_fifteen.tdc1 import SFifteenTDC1
from bellbench.drivers.single_quantum.websq import SingleQuantumWebSQ
from bellbench.drivers.spdc_source import SPDCSource
from bellbench.drivers.stanford.dg645 import StanfordDG645
from bellbench.drivers.swabian.pulse_streamer import SwabianPulseStreamer82
from bellbench.drivers.thorlabs.cld1015 import ThorlabsCLD1015
from bellbench.drivers.thorlabs.mpc320 import ThorlabsMPC320
from bellbench.drivers.thorlabs.pm100d import ThorlabsPM100D
from bellbench.drivers.thorlabs.tc200 import ThorlabsTC200
from bellbench.drivers.weak_coherent_source import WeakCoherentSource as WeakCoherentDriver
from bellbench.instruments import (
    SPELLINGS,
    Attenuator,
    ConfigError,
    DelayGenerator,
    DetectorArray,
    Instrument,
    InstrumentError,
    Limited,
    OpticalSwitch,
    PairSource,
    PolarizationController,
    PowerMeter,
    PulseSequencer,
    QuantumMemory,
    Readable,
    Settable,
    TimeTagger,
    WeakCoherentSource,
)

PART_DRIVERS = {
    "laser": "thorlabs.cld1015",
    "oven": "thorlabs.tc200",
    "sequencer": "stanford.dg645",
    "pulse_sequencer": "swabian.pulse_streamer",
}


def static_conformance(  # checked by mypy: each driver is what its role says
    source: SPDCSource,
    detectors: SingleQuantumWebSQ,
    tagger: IDQuantiqueID900,
    small_tagger: SFifteenTDC1,
    controller: ThorlabsMPC320,
    squeezers: OzOpticsEPC04,
    cells: SFifteenLCR,
    attenuator: OzOpticsDD100MC,
    switch: AgiltronSwitch,
    meter: ThorlabsPM100D,
    laser: ThorlabsCLD1015,
    oven: ThorlabsTC200,
    delays: StanfordDG645,
    memory: EnsembleMemory,
    pulses: SwabianPulseStreamer82,
    weak: WeakCoherentDriver,
) -> tuple[
    PairSource,
    DetectorArray,
    TimeTagger,
    TimeTagger,
    PolarizationController,
    PowerMeter,
    DelayGenerator,
    QuantumMemory,
    PulseSequencer,
    WeakCoherentSource,
]:
    instruments: list[Instrument] = [
        source,
        detectors,
        tagger,
        controller,
        squeezers,
        cells,
        attenuator,
        switch,
        meter,
        laser,
        oven,
        delays,
        memory,
        pulses,
        weak,
    ]
    assert instruments
    controllers: list[PolarizationController] = [controller, squeezers, cells]
    auxiliaries: tuple[Attenuator, OpticalSwitch] = attenuator, switch
    assert controllers
    assert auxiliaries
    return source, detectors, tagger, small_tagger, controller, meter, delays, memory, pulses, weak


def make(key: str, clock: Any, name: str = "it") -> Any:
    kind = load_driver(key)
    place: Mapping[str, Any] | str = ""  # any address is wrong for some
    if hasattr(kind, "PARTS"):
        place = {role: make(PART_DRIVERS[role], clock, role) for role in kind.PARTS}
    return kind(name, place, kind.Settings(), clock)


@pytest.mark.parametrize("key", sorted(DRIVERS))
def test_a_driver(key: str, clock: Any) -> None:
    kind = load_driver(key)
    device = make(key, clock)  # constructing connects to nothing
    assert isinstance(device, Instrument)
    assert device.name == "it"
    assert kind.MODEL
    assert kind.Settings.model_config["extra"] == "forbid"
    assert kind.Settings.model_config["frozen"]
    for name, member in inspect.getmembers(kind):
        if not name.startswith("_") and (
            inspect.isfunction(member) or inspect.isdatadescriptor(member)
        ):
            assert inspect.getdoc(member), f"{key}.{name} has no docstring"
    for name, field in kind.Settings.model_fields.items():
        assert field.description or name == "timeout", f"{key} setting {name} is not described"
        assert not field.is_required()


@pytest.mark.parametrize("key", sorted(DRIVERS))
def test_its_signals(key: str, clock: Any) -> None:
    device = make(key, clock)
    signals = device.signals
    assert signals
    names = [signal.name for signal in signals]
    assert len(set(names)) == len(names)
    for signal in signals:
        assert signal.name.isidentifier()
        assert signal.name in repr(signal)
        assert signal.unit in {"", *SPELLINGS}
        assert signal.label
        assert signal.label[0].isupper()
        assert isinstance(signal, Readable)
        if isinstance(signal, Limited):
            assert isinstance(signal, Settable)
            assert signal.limits.low < signal.limits.high
        with pytest.raises(InstrumentError, match="not open"):
            signal.get()


@pytest.mark.parametrize("key", sorted(DRIVERS))
def test_before_opening(key: str, clock: Any) -> None:
    device = make(key, clock)
    device.close()
    device.close()
    with pytest.raises(InstrumentError, match="not open"):
        device.identify()
    with pytest.raises(InstrumentError, match="not open"):
        device.ready()


def test_nearest_driver() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'thorlabs\.tc200'"):
        load_driver("thorlabs.tc20")
    assert set(driver_keys()) >= set(DRIVERS)


class Foreign:
    """A driver of another package."""


def test_drivers_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("acme.laser", f"{__name__}:Foreign", "bellbench.drivers"),
        EntryPoint("acme.broken", "no_such_module_xyz:Driver", "bellbench.drivers"),
    ]
    monkeypatch.setattr(bellbench.drivers, "entry_points", lambda group: points)
    monkeypatch.setitem(
        sys.modules, __name__, sys.modules.get(__name__) or inspect.getmodule(Foreign)
    )
    assert "acme.laser" in driver_keys()
    assert load_driver("acme.laser") is Foreign
    with pytest.raises(ConfigError, match=r"acme\.broken.*no_such_module_xyz"):
        load_driver("acme.broken")


def test_importing_the_room_is_light() -> None:
    code = (
        "import sys, bellbench.drivers as d; "
        "assert not {'pydantic', 'pyvisa', 'serial', 'zmq'} & set(sys.modules); "
        "[d.load_driver(k) for k in d.DRIVERS]; "
        "assert not {'pyvisa', 'serial', 'zmq', 'qcodes'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
