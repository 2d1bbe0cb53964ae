"""Bench files: every mistake with its place, all at once; what is right resolves and reads back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from bellbench.bench import BenchConfig, check_bench, load_bench
from bellbench.configs import ConfigErrors, bundled, write
from bellbench.drivers import driver_keys
from bellbench.instruments import ConfigError
from bellbench.sims.world import World, WorldModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

HARDWARE = """\
bellbench: bench/1
instruments:
  pump: {driver: thorlabs.cld1015, address: TCPIP::10.0.0.2::5025::SOCKET}
  oven: {driver: thorlabs.tc200, address: /dev/ttyUSB0, on_exit: leave}
  source: {driver: spdc_source, parts: {laser: pump, oven: oven}}
  snspd: {driver: single_quantum.websq, address: "tcp://192.168.1.1:12000"}
  paddles: {driver: thorlabs.mpc320, address: /dev/ttyUSB1}
  tagger: {driver: id_quantique.id900, address: "tcp://169.254.99.101:5555"}
parties:
  alice: {tagger: tagger, detectors: snspd, controller: paddles, channels: {1: H, 2: V, 3: D, 4: A}}
"""

TWINS = """\
bellbench: bench/1
world: lab.yaml
twin: true
instruments:
  pump: {driver: thorlabs.cld1015, settings: {current: 90 mA}}
  heater: {driver: thorlabs.tc200, twin: {element: oven}}
"""

WORLD = """\
bellbench: world/1
elements:
  pump: {kind: pump_laser}
  oven: {kind: oven}
  crystal: {kind: spdc, pump: pump, oven: oven, pair_rate: 1 MHz/mW}
  a: {kind: analyzer}
  b: {kind: analyzer}
  da: {kind: snspd, detectors: [{}, {}, {}, {}]}
  db: {kind: snspd, detectors: [{}, {}, {}, {}]}
paths:
  - [crystal.signal, a, da]
  - [crystal.idler, b, db]
"""


def edited(text: str, *edits: tuple[str, str]) -> str:
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    return text


def mistakes(folder: Path, text: str, world: str | None = None) -> list[str]:
    """Return the mistakes of a bench file, each with the file's name instead of its path."""
    path = folder / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    if world is not None:
        (folder / "lab.yaml").write_text(world, encoding="utf-8")
    return [str(error).replace(f"{folder}{os.sep}", "") for error in check_bench(path)]


def test_a_good_bench_has_no_mistakes(tmp_path: Path) -> None:
    assert mistakes(tmp_path, HARDWARE) == []
    assert mistakes(tmp_path, TWINS, WORLD) == []


def test_a_party_may_own_a_source_and_a_delay_generator_and_call_its_inputs_as_it_likes(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(
        edited(
            HARDWARE,
            (
                "parties:\n",
                "  pulser: {driver: stanford.dg645, address: TCPIP::10.0.0.3::5025::SOCKET}\n"
                "parties:\n",
            ),
            ("controller: paddles", "controller: paddles, source: source, delay_generator: pulser"),
            ("{1: H, 2: V, 3: D, 4: A}", "{4: trigger, 1: herald, 2: cH}"),
        ),
        encoding="utf-8",
    )
    config = load_bench(path)
    alice = config.parties["alice"]
    assert alice.instruments == {
        "tagger": "tagger",
        "detectors": "snspd",
        "controller": "paddles",
        "source": "source",
        "delay_generator": "pulser",
    }
    assert alice.channels == {4: "trigger", 1: "herald", 2: "cH"}
    again = tmp_path / "again.yaml"
    write(again, config.resolved())
    assert load_bench(again).parties == config.parties


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            ("address: /dev/ttyUSB1", "adress: /dev/ttyUSB1"),
            [
                "bench.yaml:7:3: instruments.paddles: key 'address' is missing; give one, or"
                " 'twin: true' for its twin",
                "bench.yaml:7:38: instruments.paddles.adress: unknown key; did you mean 'address'?",
            ],
        ),
        (
            ("instruments:\n", "instrument:\n"),
            [
                "bench.yaml:1:1: key 'instruments' is missing",
                "bench.yaml:2:1: instrument: unknown key; did you mean 'instruments'?",
                "bench.yaml:10:19: parties.alice.tagger: no instrument 'tagger'",
                "bench.yaml:10:38: parties.alice.detectors: no instrument 'snspd'",
                "bench.yaml:10:57: parties.alice.controller: no instrument 'paddles'",
            ],
        ),
        (
            ("thorlabs.cld1015", "thorlabs.cdl1015"),
            [
                "bench.yaml:3:18: instruments.pump.driver: unknown driver 'thorlabs.cdl1015'; did"
                " you mean 'thorlabs.cld1015'?"
            ],
        ),
        (
            ("{driver: thorlabs.mpc320, address", "{address"),
            ["bench.yaml:7:3: instruments.paddles: key 'driver' is missing"],
        ),
        (
            ("::SOCKET}", "::SOCKET, settings: {curent: 90 mA, temperature: 25}}"),
            [
                "bench.yaml:3:87: instruments.pump.settings.curent: unknown key; did you mean"
                " 'current'?",
                "bench.yaml:3:115: instruments.pump.settings.temperature: 25 has no unit; write for"
                " example '25 degC'",
            ],
        ),
        (
            ("::SOCKET}", "::SOCKET, settings: {current: 90 mW}}"),
            [
                "bench.yaml:3:96: instruments.pump.settings.current: unit 'mW' does not fit here;"
                " use A, mA, uA, µA, nA; did you mean '90 mA'?"
            ],
        ),
        (
            ("::SOCKET}", "::SOCKET, settings: {current: 9 A}}"),
            [
                "bench.yaml:3:96: instruments.pump.settings.current: should be less than or equal"
                " to 1.5, got '9 A'"
            ],
        ),
        (
            ("::SOCKET}", "::SOCKET, settings: [current]}"),
            [
                "bench.yaml:3:86: instruments.pump.settings: expected keys and values (a mapping),"
                " got a list"
            ],
        ),
        (
            ("on_exit: leave", "on_exit: stay"),
            [
                "bench.yaml:4:66: instruments.oven.on_exit: 'stay' does not fit here; valid: off,"
                " leave, safe"
            ],
        ),
        (
            ("{laser: pump,", "{laser: pumb,"),
            [
                "bench.yaml:5:48: instruments.source.parts.laser: no instrument 'pumb'; did you"
                " mean 'pump'?"
            ],
        ),
        (
            ("{laser: pump,", "{lasr: pump,"),
            [
                "bench.yaml:5:33: instruments.source.parts: part 'laser' is missing",
                "bench.yaml:5:41: instruments.source.parts.lasr: unknown part; did you mean"
                " 'laser'?",
            ],
        ),
        (
            ("oven: oven}", "oven: source}"),
            ["bench.yaml:5:40: instruments.source.parts: parts form a loop: source -> source"],
        ),
        (
            ("{laser: pump, oven: oven}}", "{laser: pump, oven: oven}, address: COM1}"),
            [
                "bench.yaml:5:67: instruments.source.address: belongs to its parts; a composite has"
                " none of its own"
            ],
        ),
        (
            ("ttyUSB1}", "ttyUSB1, parts: {laser: pump}}"),
            ["bench.yaml:7:61: instruments.paddles.parts: thorlabs.mpc320 has no parts"],
        ),
        (
            ("/dev/ttyUSB1", "/dev/ttyUSB0"),
            [
                "bench.yaml:7:47: instruments.paddles.address: is the address of 'oven' already",
            ],
        ),
        (
            ("TCPIP::10.0.0.2::5025::SOCKET", "TCPIP::10.0.0.2::502S::SOCKET"),
            [
                "bench.yaml:3:45: instruments.pump.address: pump (Thorlabs CLD1015) at"
                " TCPIP::10.0.0.2::502S::SOCKET: '502S' is not a port; try: a resource name is"
                " USB0::0x1313::0x804F::<serial>::INSTR or TCPIP::<host>::<port>::SOCKET"
            ],
        ),
        (
            ("/dev/ttyUSB1", "socket://localhost"),
            [
                "bench.yaml:7:47: instruments.paddles.address: paddles (Thorlabs MPC320) at"
                " socket://localhost: the address lacks a host or a port; try: write COM5,"
                " /dev/ttyUSB0 or socket://host:port"
            ],
        ),
        (
            ('"tcp://192.168.1.1:12000"', "192.168.1.1"),
            [
                "bench.yaml:6:50: instruments.snspd.address: snspd (Single Quantum WebSQ) at"
                " 192.168.1.1: cannot read the address; try: write it like"
                " tcp://192.168.1.1:12000?counts=12345"
            ],
        ),
        (
            ("  tagger: {driver", "  clock: {driver"),
            [
                "bench.yaml:8:3: instruments.clock: is the lab's own word; use another",
                "bench.yaml:10:19: parties.alice.tagger: no instrument 'tagger'; valid: clock",
            ],
        ),
        (
            ("  paddles: {driver", "  my-paddles: {driver"),
            [
                "bench.yaml:7:3: instruments.my-paddles: must be a name such as 'alice_tagger'",
                "bench.yaml:10:57: parties.alice.controller: no instrument 'paddles'; did you mean"
                " 'my-paddles'?",
            ],
        ),
        (
            ("  paddles: {driver", "  paddles: {driver: x}\n  paddles: {driver"),
            [
                "bench.yaml:7:21: instruments.paddles.driver: unknown driver 'x'; valid: "
                + ", ".join(driver_keys()),
                "bench.yaml:8:3: instruments.paddles: this key stands twice; first in line 7",
            ],
        ),
        (
            ("tagger: tagger", "tagger: tager"),
            [
                "bench.yaml:10:19: parties.alice.tagger: no instrument 'tager'; did you mean"
                " 'tagger'?"
            ],
        ),
        (
            ("tagger: tagger", "tagger: snspd"),
            [
                "bench.yaml:10:19: parties.alice.tagger: snspd (single_quantum.websq) is no"
                " TimeTagger; valid: tagger"
            ],
        ),
        (
            ("controller: paddles", "contoller: paddles"),
            ["bench.yaml:10:45: parties.alice.contoller: unknown key; did you mean 'controller'?"],
        ),
        (
            ("tagger: tagger, ", ""),
            ["bench.yaml:10:3: parties.alice: key 'tagger' is missing"],
        ),
        (
            ("4: A", "5: A"),
            ["bench.yaml:10:95: parties.alice.channels.5: tagger has the inputs 1, 2, 3, 4 only"],
        ),
        (
            ("4: A", "1: A"),
            ["bench.yaml:10:95: parties.alice.channels.1: this key stands twice; first in line 10"],
        ),
        (
            ("4: A", "4: D"),
            ["bench.yaml:10:98: parties.alice.channels.4: D is channel 3 already"],
        ),
        (
            ("4: A", "4: 45 deg"),
            [
                "bench.yaml:10:98: parties.alice.channels.4: '45 deg' cannot be a label; write a"
                " name such as 'H' or 'herald'"
            ],
        ),
        (
            ("4: A", "4: 4"),
            ["bench.yaml:10:98: parties.alice.channels.4: expected text, got 4"],
        ),
        (
            ("controller: paddles", "controller: paddles, source: pump"),
            [
                "bench.yaml:10:74: parties.alice.source: pump (thorlabs.cld1015) is no PairSource;"
                " valid: source"
            ],
        ),
        (
            ("controller: paddles", "controller: paddles, memory: source"),
            ["bench.yaml:10:74: parties.alice.memory: source (spdc_source) is no QuantumMemory"],
        ),
        (
            ("controller: paddles", "controller: paddles, delay_generator: padles"),
            ["bench.yaml:10:83: parties.alice.delay_generator: no instrument 'padles'"],
        ),
        (
            ("4: A", "four: A"),
            [
                "bench.yaml:10:95: parties.alice.channels.four: as a key, expected a whole number,"
                " got 'four'"
            ],
        ),
        (
            ("parties:\n", "parties:\n  eve: {tagger: tagger, channels: {4: H}}\n"),
            [
                "bench.yaml:11:95: parties.alice.channels.4: input 4 of tagger is eve's already",
            ],
        ),
        (
            ("bench/1\n", "bench/1\ntwin: perhaps\n"),
            ["bench.yaml:2:7: twin: expected true or false, got 'perhaps'"],
        ),
        (
            ("bench/1\n", "bench/1\nsettle_timeout: 90\n"),
            [
                "bench.yaml:2:17: settle_timeout: 90 has no unit; write for example '90 s'"
                " (s, ms, us, µs, ns, ps, min, h)"
            ],
        ),
        (
            ("/dev/ttyUSB1", "twin://localhost/paddles"),
            ["bench.yaml:7:47: instruments.paddles.address: write twin://host:port/name"],
        ),
    ],
)
def test_a_mistake_in_a_bench_is_named_with_its_place(
    tmp_path: Path, edit: tuple[str, str], expected: list[str]
) -> None:
    found = mistakes(tmp_path, edited(HARDWARE, edit))
    if edit[1] == "bench/1\ntwin: perhaps\n":  # what else is then wrong depends on the answer
        found = found[:1]
    assert found == expected


@pytest.mark.parametrize(
    ("bench", "world", "expected"),
    [
        (
            ("world: lab.yaml\n", ""),
            None,
            ["bench.yaml:2:7: twin: twins need a world: add 'world: metro' or a file of your own"],
        ),
        (
            ("lab.yaml", "metr"),
            None,
            [
                "bench.yaml:2:8: world: no bundled file 'metr' in worlds (one of your own is named"
                " with its ending, .yaml); did you mean 'metro'?"
            ],
        ),
        (
            ("lab.yaml", "no.yaml"),
            None,
            ["bench.yaml:2:8: world: no.yaml: no such file"],
        ),
        (
            ("lab.yaml", "bench.yaml"),
            None,
            [
                "bench.yaml:2:8: world: bench.yaml:1:12: is a 'bench/1' file, 'world/1' is needed"
                " here"
            ],
        ),
        (
            ("world: lab.yaml", "world: 3"),
            None,
            ["bench.yaml:2:8: world: expected a name or a path, got 3"],
        ),
        (
            ("{element: oven}", "{element: ovn}"),
            None,
            [
                "bench.yaml:6:52: instruments.heater.twin.element: no element 'ovn' in the world;"
                " did you mean 'oven'?"
            ],
        ),
        (
            ("{element: oven}", "{element: pump}"),
            None,
            [
                "bench.yaml:6:52: instruments.heater.twin.element: 'pump' is a pump_laser;"
                " thorlabs.tc200 acts on: oven; valid: oven"
            ],
        ),
        (
            (", twin: {element: oven}", ""),
            None,
            [
                "bench.yaml:6:3: instruments.heater: no element 'heater' in the world; valid: oven;"
                " name one by 'twin: {element: ...}'"
            ],
        ),
        (
            ("{element: oven}", "{element: oven, firmwere: x}"),
            None,
            [
                "bench.yaml:6:58: instruments.heater.twin.firmwere: unknown key; did you mean"
                " 'firmware'?"
            ],
        ),
        (
            ("  heater", "  pump2: {driver: thorlabs.cld1015, twin: {element: pump}}\n  heater"),
            None,
            [
                "bench.yaml:6:53: instruments.pump2.twin.element: 'pump' has a twin already:"
                " 'pump'",
            ],
        ),
        (
            ("90 mA", "90 mA"),
            ("pair_rate: 1 MHz/mW", "pair_rate: -1 MHz/mW, visibility: 1.2"),
            [
                "lab.yaml:5:60: elements.crystal.pair_rate: should be greater than or equal to 0,"
                " got '-1 MHz/mW'",
                "lab.yaml:5:83: elements.crystal.visibility: should be less than or equal to 1,"
                " got 1.2",
            ],
        ),
        (
            ("90 mA", "90 mW"),
            ("kind: oven}", "kind: ofen}"),
            [
                "bench.yaml:5:56: instruments.pump.settings.current: unit 'mW' does not fit here;"
                " use A, mA, uA, µA, nA; did you mean '90 mA'?",
                "lab.yaml:4:16: elements.oven.kind: unknown kind 'ofen'; did you mean 'oven'?",
            ],
        ),
        (
            ("90 mA", "90 mA"),
            ("[crystal.signal, a, da]", "[crystal.signal, b, da]"),
            ["lab.yaml:12:21: paths.1.1: 'b' is already in path 1"],
        ),
        (
            ("90 mA", "90 mA"),
            ("paths:\n", "paths:\n  - *x\n"),
            [
                "bench.yaml:2:8: world: lab.yaml:11:5: anchors and aliases are not used here; write"
                " the value out"
            ],
        ),
    ],
)
def test_a_mistake_about_twins_or_their_world_is_named_with_its_place(
    tmp_path: Path,
    bench: tuple[str, str],
    world: tuple[str, str] | None,
    expected: list[str],
) -> None:
    lab = WORLD if world is None else edited(WORLD, world)
    assert mistakes(tmp_path, edited(TWINS, bench), lab) == expected


def test_a_composite_made_of_the_wrong_parts_is_told_which(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, edited(HARDWARE, ("{laser: pump,", "{laser: paddles,")))
    assert found.startswith(
        "bench.yaml:5:48: instruments.source.parts.laser: paddles (thorlabs.mpc320) cannot be the"
        " laser: it has no current, emission"
    )


def test_parts_that_form_a_longer_loop_are_shown(tmp_path: Path) -> None:
    text = edited(
        HARDWARE,
        ("{laser: pump, oven: oven}", "{laser: second, oven: oven}"),
        ("  snspd", "  second: {driver: spdc_source, parts: {laser: source, oven: oven}}\n  snspd"),
    )
    assert (
        "bench.yaml:6:42: instruments.second.parts: parts form a loop: source -> second -> source"
        in mistakes(tmp_path, text)
        or "bench.yaml:5:40: instruments.source.parts: parts form a loop: source -> second ->"
        " source"
        in mistakes(tmp_path, text)
    )


@pytest.mark.parametrize("text", ["", "- a", "a: [", "bellbench: world/1", "\x00", "x: &a 1"])
def test_what_is_no_bench_file_is_one_error(tmp_path: Path, text: str) -> None:
    assert len(mistakes(tmp_path, text)) == 1


def test_no_file_is_one_error(tmp_path: Path) -> None:
    (error,) = check_bench(tmp_path / "no.yaml")
    assert str(error) == f"{tmp_path / 'no.yaml'}: no such file"
    (error,) = check_bench("metr0")
    assert "did you mean 'metro'?" in str(error)
    with pytest.raises(ConfigError, match="no such file"):
        load_bench(tmp_path / "no.yaml")


def test_all_mistakes_are_in_the_error_that_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(edited(HARDWARE, ("4: A", "4: 45"), ("on_exit: leave", "on_exit: stay")))
    with pytest.raises(ConfigErrors) as caught:
        load_bench(path)
    assert [error.place for error in caught.value.errors] == [f"{path}:4:66", f"{path}:10:98"]


def test_the_twin_switch_decides_where_an_address_does_not(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    text = edited(
        TWINS,
        ("{driver: thorlabs.cld1015,", "{driver: thorlabs.cld1015, address: USB0::1::2::3::INSTR,"),
        ("  heater: {", "  heater: {address: twin, "),
    )
    path.write_text(text)
    (tmp_path / "lab.yaml").write_text(WORLD)

    def twins(config: BenchConfig) -> list[str]:
        return [spec.name for spec in config.twin_specs()]

    assert twins(load_bench(path)) == ["pump", "heater"]
    assert twins(load_bench(path, twin=True)) == ["pump", "heater"]
    hardware = load_bench(path, twin=False)
    assert twins(hardware) == ["heater"]
    assert hardware.uses_twins
    assert [spec.name for spec in hardware.twin_specs(["pump"])] == ["pump"]
    with pytest.raises(ConfigError, match="no twin 'heatr'; did you mean 'heater'"):
        hardware.twin_specs(["heatr"])


def test_a_served_twin_is_no_twin_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(edited(TWINS, ("  heater: {", "  heater: {address: twin://lab:9000/oven, ")))
    (tmp_path / "lab.yaml").write_text(WORLD)
    config = load_bench(path)
    assert [spec.name for spec in config.twin_specs()] == ["pump"]
    assert config.instruments["heater"].is_remote_twin


def test_a_twins_spec_is_what_its_emulator_takes(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(edited(TWINS, ("{element: oven}", "{element: oven, firmware: T1}")))
    (tmp_path / "lab.yaml").write_text(WORLD)
    spec = load_bench(path).twin_specs(["heater"])[0]
    assert (spec.name, spec.driver, spec.element) == ("heater", "thorlabs.tc200", "oven")
    assert spec.settings["firmware"] == "T1"


def test_parts_come_before_what_is_made_of_them(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    lines = HARDWARE.splitlines(keepends=True)
    lines.insert(2, lines.pop(4))  # the source first
    path.write_text("".join(lines))
    config = load_bench(path)
    assert list(config.instruments) == ["pump", "oven", "source", "snspd", "paddles", "tagger"]


def dump(content: dict[str, Any], path: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    yaml.representer.ignore_aliases = lambda *_: True
    with path.open("wb") as file:
        yaml.dump(content, file)


@pytest.mark.parametrize("name", sorted(bundled("benches")))
def test_bundled_benches_are_right_and_resolve_to_a_file_of_their_own(
    name: str, tmp_path: Path
) -> None:
    assert check_bench(name) == []
    config = load_bench(name)
    remote = all(c.is_remote_twin for c in config.instruments.values() if not c.is_composite)
    assert config.world_path in ([None] if remote else bundled("worlds").values())
    dump(config.resolved(), tmp_path / "bench.yaml")
    again = load_bench(tmp_path / "bench.yaml")
    assert again.resolved() == config.resolved()
    assert again.world == config.world
    assert again.instruments == config.instruments
    assert again.parties == config.parties
    assert again.world_path is None  # the world is written in place
    assert load_bench(name, twin=False).instruments.keys() == config.instruments.keys()


def test_a_resolved_bench_says_every_default_with_its_unit(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(TWINS)
    (tmp_path / "lab.yaml").write_text(WORLD)
    resolved = load_bench(path).resolved()
    assert list(resolved) == [
        "bellbench",
        "world",
        "twin",
        "settle_timeout",
        "instruments",
        "parties",
    ]
    assert resolved["settle_timeout"] == "300.0 s"
    assert resolved["world"]["elements"]["pump"]["threshold"] == "0.04 A"
    pump = resolved["instruments"]["pump"]
    assert pump["settings"]["current"] == "0.09 A"
    assert pump["on_exit"] == "off"
    assert pump["twin"]["element"] == "pump"


def test_mistakes_of_a_world_in_place_are_located_in_the_bench(tmp_path: Path) -> None:
    body = "".join(f"  {line}\n" for line in WORLD.splitlines()[1:])
    text = edited(TWINS, ("world: lab.yaml\n", f"world:\n{body}"))
    assert mistakes(tmp_path, text) == []
    assert mistakes(tmp_path, edited(text, ("crystal.idler, b,", "crystal.idler, a,"))) == [
        "bench.yaml:13:23: world.paths.1.1: 'a' is already in path 1"
    ]


FRAGMENTS = st.sampled_from(
    [line + "\n" for line in (HARDWARE + TWINS).splitlines()]
    + ["world: metro\n", "twin: 3\n", "parties: []\n", "instruments: x\n", "  1: {}\n", "- x\n"]
)
WORDS = st.sampled_from(
    ["twin", "{}", "[]", "~", "3", "pump", "twin://a:1/b", "1e999 A", "\t", "*"]
)


@given(
    st.lists(FRAGMENTS, max_size=12), st.lists(st.tuples(st.integers(0, 400), WORDS), max_size=4)
)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_file_is_a_bench_or_a_list_of_mistakes(
    tmp_path: Path, lines: list[str], cuts: list[tuple[int, str]]
) -> None:
    text = "bellbench: bench/1\n" + "".join(lines)
    for at, word in cuts:
        text = text[:at] + word + text[at + len(word) :]
    path = tmp_path / "bench.yaml"
    path.write_text(text, encoding="utf-8")
    (tmp_path / "lab.yaml").write_text(WORLD)
    assert all(error.place for error in check_bench(path))


@given(st.binary(max_size=300))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused_with_a_config_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "bench.yaml"
    path.write_bytes(raw)
    assert check_bench(path)


def metro() -> tuple[World, BenchConfig]:
    """The bundled world as it stands once the bench's settings are reached."""
    config = load_bench("metro")
    assert isinstance(config.world, WorldModel)
    world = World(config.world, seed=1)
    settings = {name: c.settings for name, c in config.instruments.items()}
    elements: dict[str, Any] = world.elements
    pump: Any = settings["pump"]
    elements["pump"].current_a, elements["pump"].emitting = pump.current, pump.emission
    oven: Any = settings["oven"]
    elements["oven"].temperature_c = oven.temperature
    for party in ("alice", "bob"):
        snspd: Any = settings[f"{party}_snspd"]
        elements[f"{party}_snspd"].bias_a = list(snspd.bias_currents)
        elements[f"{party}_snspd"].enabled = snspd.enabled
        paddles: Any = settings[f"{party}_paddles"]
        grid = 170 / 1370  # the controller's counts
        elements[f"{party}_paddles"].angles_deg = [round(a / grid) * grid for a in paddles.paddles]
    return world, config


def test_the_metro_bench_has_the_rates_its_world_file_promises() -> None:
    world, _ = metro()
    rates = world.mean_rates("crystal")
    assert rates.both.sum() == pytest.approx(1e7 * 0.10 * 0.05, rel=1e-4)
    assert rates.both.sum() + rates.only[0].sum() == pytest.approx(1e6, rel=1e-4)
    assert rates.both.sum() + rates.only[1].sum() == pytest.approx(5e5, rel=1e-4)
    assert [out.dark_rates().sum() for out in world.outlets] == pytest.approx([300, 300], rel=1e-9)


def test_the_metro_benchs_paddles_undo_its_fibres() -> None:
    import numpy as np
    from bellbench.sims.physics import polarization as pol

    _, config = metro()
    assert config.world is not None
    for party in ("alice", "bob"):
        fibre: Any = config.world.elements[f"{party}_fibre"]
        model: Any = config.world.elements[f"{party}_paddles"]
        paddles: Any = config.instruments[f"{party}_paddles"].settings
        angles = [round(a * 1370 / 170) * 170 / 1370 for a in paddles.paddles]
        through = pol.retarders(model.retardance, angles) @ pol.rotation(fibre.rotation)
        assert 1 - abs(np.trace(through) / 2) ** 2 < 1e-5
        assert abs(np.trace(pol.rotation(fibre.rotation)) / 2) ** 2 < 0.9  # there is work to do


def test_the_metro_benchs_state_errs_in_one_of_a_hundred() -> None:
    world, _ = metro()
    table = world.mean_rates("crystal").both
    for block in (table[:2, :2], table[2:, 2:]):
        error = (block[0, 1] + block[1, 0]) / block.sum()
        assert error == pytest.approx(0.01, abs=2e-4)
