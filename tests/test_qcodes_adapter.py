"""Bellbench instruments are at home in QCoDeS: Station, Measurement, do1d, snapshot."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import bellbench
import pytest
from bellbench.instruments import Identity, Limits

qcodes = pytest.importorskip("qcodes", reason='needs the extra "bellbench[qcodes]"')
from bellbench.qcodes_adapter import BellbenchInstrument, station  # noqa: E402
from qcodes.dataset import (  # noqa: E402
    Measurement,
    do1d,
    initialise_or_create_database_at,
    load_or_create_experiment,
)


class Knob:
    """A signal as strangers write it: no base class of ours."""

    def __init__(self, name: str, unit: str, limits: Limits) -> None:
        self.name, self.unit, self.limits, self.value = name, unit, limits, 0.0

    def get(self) -> float:
        return self.value

    def set(self, value: float) -> None:
        self.value = value


class Reading:
    name, unit, label = "power", "W", "optical power"

    def __init__(self, knob: Knob) -> None:
        self._knob = knob

    def get(self) -> float:
        return 0.5 * self._knob.get()


class Laser:
    """A driver for these tests; the real ones are tried in the last one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.current = Knob("current", "A", Limits(0.0, 0.2))
        self.signals = (self.current, Reading(self.current))
        self.closed = False

    def open(self) -> None: ...
    def close(self) -> None:
        self.closed = True

    def identify(self) -> Identity:
        return Identity("Vendor", "Model", "7", "1.0")

    def ready(self) -> bool:
        return True

    def off(self) -> None: ...
    def safe(self) -> None: ...


@pytest.fixture
def laser() -> Iterator[Laser]:
    yield Laser("pump")
    qcodes.instrument.Instrument.close_all()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[None]:
    initialise_or_create_database_at(tmp_path / "test.db")
    load_or_create_experiment("bench", sample_name="twin")
    yield
    qcodes.dataset.experiment_container.conn_from_dbpath_or_conn(None, None).close()


def test_parameters_forward_to_the_signals(laser: Laser) -> None:
    instrument = BellbenchInstrument(laser)
    instrument.current(0.1)
    assert laser.current.value == 0.1
    assert instrument.power() == pytest.approx(0.05)
    assert instrument.power.unit == "W"
    assert instrument.power.label == "optical power"
    assert instrument.get_idn()["serial"] == "7"


def test_limits_are_asked_at_each_set_and_readings_cannot_be_set(laser: Laser) -> None:
    instrument = BellbenchInstrument(laser)
    with pytest.raises(ValueError, match=r"not in 0 to 0\.2"):
        instrument.current(0.3)
    laser.current.limits = Limits(0.0, 0.4)
    instrument.current(0.3)
    with pytest.raises(NotImplementedError):
        instrument.power(1.0)


def test_snapshot_holds_values_and_units(laser: Laser) -> None:
    bench = station(SimpleNamespace(instruments={"pump": laser}))
    bench.pump.current(0.12)
    snapshot = bench.snapshot(update=True)["instruments"]["pump"]["parameters"]
    assert snapshot["current"]["value"] == 0.12
    assert snapshot["current"]["unit"] == "A"


def test_two_benches_live_beside_each_other_with_a_prefix() -> None:
    here = station(SimpleNamespace(instruments={"pump": Laser("pump")}), prefix="a_")
    there = station(SimpleNamespace(instruments={"pump": Laser("pump")}), prefix="b_")
    here.a_pump.current(0.1)
    assert there.b_pump.current() == 0.0
    qcodes.instrument.Instrument.close_all()


def test_closing_the_qcodes_instrument_leaves_the_bench_alone(laser: Laser) -> None:
    BellbenchInstrument(laser).close()
    assert not laser.closed


@pytest.mark.usefixtures("database")
def test_do1d_scans_and_the_dataset_holds_the_scan(laser: Laser) -> None:
    instrument = BellbenchInstrument(laser)
    dataset, _, _ = do1d(
        instrument.current, 0, 0.1, 5, 0, instrument.power, show_progress=False, do_plot=False
    )
    powers = dataset.get_parameter_data()["pump_power"]["pump_power"]
    assert powers == pytest.approx([0.0, 0.0125, 0.025, 0.0375, 0.05])


@pytest.mark.usefixtures("database")
def test_measurement_registers_the_parameters(laser: Laser) -> None:
    instrument = BellbenchInstrument(laser)
    measurement = Measurement()
    measurement.register_parameter(instrument.current)
    measurement.register_parameter(instrument.power, setpoints=(instrument.current,))
    with measurement.run() as saver:
        for value in (0.0, 0.1):
            instrument.current(value)
            saver.add_result((instrument.current, value), (instrument.power, instrument.power()))
    assert saver.dataset.number_of_results == 2


@pytest.mark.usefixtures("database")
def test_a_bench_on_twins_is_a_station_that_scans(warm: Path) -> None:
    """Real drivers on their wires: the pump's Parameter moves the detectors' count rates."""
    with bellbench.open_bench(warm / "metro.yaml", twin=True, seed=9) as lab:
        bench = station(lab, prefix="metro_")
        assert bench.metro_pump.get_idn()["vendor"].upper() == "THORLABS"
        rate = bench.metro_alice_snspd.parameters["count_rate_1"]
        dataset, _, _ = do1d(
            bench.metro_pump.parameters["current"],
            0.06,
            0.09,
            4,
            0,
            rate,
            show_progress=False,
            do_plot=False,
        )
        data = dataset.get_parameter_data()[rate.full_name]
        # 10 mW and 25 mW of pump: singles in proportion, less the dead time
        rates = data[rate.full_name]
        assert (rates[1:] > rates[:-1]).all()
        assert rates[3] / rates[0] == pytest.approx(2.5, rel=0.03)
        assert rates[3] == pytest.approx(248_000, rel=0.03)
        snapshot = bench.snapshot(update=True)
        pump = snapshot["instruments"]["metro_pump"]["parameters"]
        assert pump["current"]["value"] == pytest.approx(0.09)
        assert pump["current"]["unit"] == "A"
    qcodes.instrument.Instrument.close_all()
