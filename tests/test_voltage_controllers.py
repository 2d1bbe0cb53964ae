"""Squeezers, liquid crystals, an attenuator and a switch on a bench, through their wires."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bellbench
import pytest
from bellbench import testing
from bellbench.bench import Lab, load_bench
from bellbench.configs import bundled
from bellbench.experiments import load_experiment, run_experiment
from bellbench.instruments import ConfigError

PADDLES = "{kind: paddles, retardance: [90 deg, 180 deg, 90 deg]}"
ALICE = "    driver: thorlabs.mpc320\n    address: /dev/ttyUSB1"
BOB = "    driver: thorlabs.mpc320\n    address: /dev/ttyUSB2"
AUXILIARIES = """
  attenuator:
    driver: oz_optics.dd100mc
    address: COM5
    settings: {largest: 40 dB}
    twin: {chaos: true, largest: 40 dB}
  switch: {driver: agiltron.switch, address: COM6, settings: {outputs: 8}, twin: {chaos: true}}
"""


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def write_bench(folder: Path, volts: str, *, cells: bool) -> Path:
    """The bench ``drift`` with squeezers for Alice's paddles, and cells for Bob's."""
    world = [(f"alice_paddles: {PADDLES}", "alice_paddles: {kind: squeezers}")]
    bench = [
        ("world: drift", "world: world.yaml"),
        (ALICE, ALICE.replace("thorlabs.mpc320", "oz_optics.epc04")),
        ("{paddles: [151.01 deg, 135.01 deg, 88.23 deg]}", f"{{voltages: {volts}}}"),
        ("{serial_number: 38000001}", "{chaos: true}"),
    ]
    if cells:
        world += [
            (f"bob_paddles: {PADDLES}", "bob_paddles: {kind: liquid_crystals}"),
            ("alice_fibre, alice_paddles", "alice_fibre, attenuator, switch.5, alice_paddles"),
            (
                "elements:\n",
                "elements:\n  attenuator: {kind: attenuator, attenuation: 3 dB}\n"
                "  switch: {kind: switch, outputs: 8, selected: 5}\n",
            ),
        ]
        bench += [
            (BOB, BOB.replace("thorlabs.mpc320", "s_fifteen.lcr")),
            (
                "{paddles: [38.09 deg, 146.92 deg, 20.97 deg]}",
                "{amplitudes: [2.1 V, 2.2 V, 1.9 V, 2.5 V], driven: true}",
            ),
            ("{serial_number: 38000002}", "{chaos: true}"),
            ("instruments:\n", f"instruments:\n{AUXILIARIES}"),
        ]
    text = bundled("worlds")["drift"].read_text(encoding="utf-8")
    (folder / "world.yaml").write_text(replaced(text, *world), encoding="utf-8")
    text = bundled("benches")["drift"].read_text(encoding="utf-8")
    path = folder / "bench.yaml"
    path.write_text(replaced(text, *bench), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    path = write_bench(tmp_path_factory.mktemp("volts"), "[500 mV, 0 V, -1 V, 2 V]", cells=True)
    with bellbench.open_bench(path, seed=1) as found:
        yield found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("alice_paddles", (0.5, 0.0, -1.0, 2.0)), ("bob_paddles", (2.1, 2.2, 1.9, 2.5))],
)
def test_they_keep_the_promise_of_their_role(
    lab: Lab, name: str, wanted: tuple[float, ...]
) -> None:
    device: Any = lab.instruments[name]
    assert tuple(actuator.get() for actuator in device.actuators) == wanted
    testing.check_polarization_controller(device, lab.clock, tolerance=1e-3)
    device.close()  # they serve one client
    settings = type(device).Settings()
    testing.check_instrument(lambda: type(device)("again", device.address, settings, lab.clock))
    device.open()
    assert tuple(actuator.get() for actuator in device.actuators) == wanted


@pytest.mark.parametrize("name", ["attenuator", "switch"])
def test_auxiliaries_keep_the_promise_of_their_role(lab: Lab, name: str) -> None:
    device: Any = lab.instruments[name]
    if name == "attenuator":
        assert device.attenuation.get() == 3.0
        testing.check_attenuator(device, lab.clock)
    else:
        assert device.output.get() == 5
        testing.check_optical_switch(device, lab.clock)
    device.close()
    settings = type(device).Settings(**({"outputs": 8} if name == "switch" else {}))
    testing.check_instrument(lambda: type(device)("again", device.address, settings, lab.clock))
    device.open()


def test_checks_tell_who_breaks_a_promise(lab: Lab) -> None:
    class Deaf:
        outputs = 2
        output = type("", (), {"name": "output", "unit": "", "get": lambda _: 1})()

        def ready(self) -> bool:
            return True

    Deaf.output.set = lambda value: None
    with pytest.raises(AssertionError, match="set to output 2 and is at 1"):
        testing.check_optical_switch(Deaf(), lab.clock)

    class Stuck:
        attenuation = type("", (), {"name": "attenuation", "unit": "dB", "get": lambda _: 3.0})()

        def ready(self) -> bool:
            return True

    Stuck.attenuation.set = lambda value: None
    with pytest.raises(AssertionError, match=r"set to 0\.5 dB and reads 3 dB"):
        testing.check_attenuator(Stuck(), lab.clock)


def test_a_driver_on_the_wrong_element_is_a_config_error(tmp_path: Path) -> None:
    path = write_bench(tmp_path, "[0 V, 0 V, 0 V, 0 V]", cells=False)
    world = (tmp_path / "world.yaml").read_text(encoding="utf-8")
    (tmp_path / "world.yaml").write_text(
        replaced(world, ("{kind: squeezers}", "{kind: paddles}")), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="squeezers"):
        load_bench(path)


@pytest.mark.slow
def test_the_lock_brings_a_link_back_with_squeezers(tmp_path: Path) -> None:
    """Two of Alice's squeezers 13 degrees off, and creeping: 4 to 7 % of errors."""
    write_bench(tmp_path, "[1.262 V, -0.763 V, 0.768 V, -0.813 V]", cells=False)
    text = bundled("experiments")["bbm92_drift"].read_text(encoding="utf-8")
    path = tmp_path / "experiment.yaml"
    path.write_text(
        replaced(
            text,
            ("bench: drift", "bench: bench.yaml"),
            ("  retardances: ", "  curve: [[0 V, 0 deg], [1.4 V, 180 deg]]\n  retardances: "),
        ),
        encoding="utf-8",
    )
    metrics = run_experiment(load_experiment(path, duration=40.0), seed=3, out=tmp_path).metrics
    assert min(metrics["qber_over_time"]["off"]) > 0.035
    late = metrics["qber_over_time"]["on"][-4:]
    assert sum(late) / 4 < metrics["optimum"] + 0.01
    assert metrics["lock"]["state"] == "locked"
