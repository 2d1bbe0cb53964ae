"""World files with mistakes: each is told with its place and its remedy; what is let in, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bellbench.bench import check_world
from bellbench.sims.elements import (
    DelayGenerator,
    PulseSequencer,
    PumpLaser,
    SnspdArray,
    TaggerInputs,
)
from bellbench.sims.elements.sequencer import Program
from bellbench.sims.world import BLOCK_PS, World, WorldModel, check_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

NETWORK = """\
bellbench: world/1
elements:
  pump: {kind: pump_laser}
  crystal: {kind: spdc, pump: pump, pair_rate: 1 MHz/mW, channels: [.1, .1, .1, .1, .1, .1, .1, .1]}
  lamp: {kind: light, rate: 1 kHz}
  trunk: {kind: fibre, length: 1 km}
  coupler: {kind: coupler, shares: [0.5, 0.4]}
  a: {kind: analyzer}
  b: {kind: analyzer}
  c: {kind: splitter}
  da: {kind: snspd, detectors: [{}, {}, {}, {}]}
  db: {kind: snspd, detectors: [{}, {}, {}, {}]}
  dc: {kind: snspd, detectors: [{}, {}]}
  ta: {kind: tagger}
paths:
  - [crystal.s1+crystal.i2+lamp.out, trunk, coupler.1, a, da, ta]
  - [crystal.s1+crystal.i2+lamp.out, trunk, coupler.2, c, dc, ta.5]
  - [crystal.i1, b, db]
"""

STATION = """\
bellbench: world/1
elements:
  pump: {kind: pump_laser}
  pulser: {kind: delay_generator}
  west: {kind: spdc, pump: pump, pair_rate: 1 MHz/mW, trigger: pulser.A, pulse_width: 300 ps}
  east: {kind: spdc, pump: pump, pair_rate: 1 MHz/mW, trigger: pulser.A, pulse_width: 300 ps}
  memory: {kind: memory, sequencer: pulser}
  station: {kind: bell_station}
  d: {kind: snspd, detectors: [{}, {}, {}, {}]}
  dw: {kind: snspd, detectors: [{}]}
  de: {kind: snspd, detectors: [{}]}
  t: {kind: tagger}
paths:
  - [west.idler, station.left]
  - [east.idler, station.right]
  - [station, d, t]
  - [west.signal, memory, dw, t.5]
  - [east.signal, de, t.6]
  - [pulser.T0, t.7]
"""


def found(folder: Path, text: str, *edits: tuple[str, str]) -> list[str]:
    for old, new in edits:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
        text = text.replace(old, new)
    path = folder / "lab.yaml"
    path.write_text(text, encoding="utf-8")
    return [str(error).removeprefix(str(folder)).lstrip("\\/") for error in check_world(path)]


def test_good_worlds_have_no_mistakes(tmp_path: Path) -> None:
    assert found(tmp_path, NETWORK) == []
    assert found(tmp_path, STATION) == []


LOOP = "is twice in this path: a loop; where there are two of a kind, give each a name"
ALIKE = "write both paths alike up to it, several ports joined by '+'"
ORDER = (
    "the order is: optics such as fibres, one analyzer or splitter, one snspd or spad, one tagger"
)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (
            ("coupler.1, a,", "coupler.1, trunk, a,"),
            [f"lab.yaml:16:56: paths.0.3: 'trunk' {LOOP}"],
        ),
        (
            ("coupler.1, a,", "coupler.1, coupler.2, a,"),
            [
                f"lab.yaml:16:56: paths.0.3: 'coupler' {LOOP}",
                "lab.yaml:17:45: paths.1.2: 'coupler.2' is already in path 1",
            ],
        ),
        (
            ("[crystal.i1, b", "[crystal.i1+crystal.i1, b"),
            ["lab.yaml:18:6: paths.2.0: 'crystal.i1' is twice in this path; name it once"],
        ),
        (
            ("detectors: [{}, {}]}", "detectors: [{}, {}, {}]}"),
            [
                "lab.yaml:17:59: paths.1.4: the splitter has 2 outputs, the snspd 3; name the first"
                " to use: 'dc.1'"
            ],
        ),
        (
            ("[crystal.i1, b, db]", "[crystal.i1, db.2]"),
            [
                "lab.yaml:9:6: elements.b: no path passes 'b'; name it in one, or leave it out",
                "lab.yaml:12:33: elements.db.detectors.0: no path ends at detector 1 of 'db'; leave"
                " it out, or add a path to 'db.1'",
                "lab.yaml:12:41: elements.db.detectors.2: no path ends at detector 3 of 'db'; leave"
                " it out, or add a path to 'db.3'",
                "lab.yaml:12:45: elements.db.detectors.3: no path ends at detector 4 of 'db'; leave"
                " it out, or add a path to 'db.4'",
            ],
        ),
        (
            ("[crystal.i1, b", "[crystal.s9, b"),
            [
                "lab.yaml:18:6: paths.2.0: write crystal.s1 or crystal.i1, up to crystal.i8, not"
                " 'crystal.s9'"
            ],
        ),
        (
            ("[crystal.i1, b", "[crystal.signal, b"),
            [
                "lab.yaml:18:6: paths.2.0: write crystal.s1 or crystal.i1, up to crystal.i8, not"
                " 'crystal.signal'"
            ],
        ),
        (
            ("[crystal.i1, b", "[crystal.i1+lamp, b"),
            ["lab.yaml:18:6: paths.2.0: write lamp.out, not 'lamp'"],
        ),
        (
            ("[crystal.i1, b", "[crystal.s1, b"),
            ["lab.yaml:18:6: paths.2.0: 'crystal.s1' is already in path 1"],
        ),
        (
            ("[crystal.i1, b", "[b"),
            [
                "lab.yaml:18:6: paths.2.0: a path begins with a source's arm, a bell_station, a"
                " channel of a delay generator or a pps, not with 'b'"
            ],
        ),
        (
            ("shares: [0.5, 0.4]", "shares: [0.5, 0.6]"),
            ["lab.yaml:7:12: elements.coupler: the shares sum to 1.1; 1 is the most there can be"],
        ),
        (
            ("channels: [.1, .1,", "channels: [.4, .1,"),
            [
                "lab.yaml:4:68: elements.crystal.channels: the shares sum to 1.1; 1 is the most"
                " there can be"
            ],
        ),
        (
            ("coupler.1, a,", "coupler, a,"),
            ["lab.yaml:16:45: paths.0.2: name an output: coupler.1 to coupler.2, not 'coupler'"],
        ),
        (
            ("coupler.2, c,", "coupler.3, c,"),
            ["lab.yaml:17:45: paths.1.2: name an output: coupler.1 to coupler.2, not 'coupler.3'"],
        ),
        (
            ("lamp.out, trunk, coupler.2", "lamp.out, coupler.2"),
            [
                "lab.yaml:17:38: paths.1.1: light comes to 'coupler' another way than in path 1; "
                + ALIKE
            ],
        ),
        (
            ("[crystal.s1+crystal.i2+lamp.out, trunk, coupler.2", "[crystal.s2, trunk, coupler.2"),
            [
                "lab.yaml:17:25: paths.1.2: light comes to 'coupler' another way than in path 1; "
                + ALIKE
            ],
        ),
        (
            ("  lamp: {", "  spare: {kind: fibre}\n  lamp: {"),
            [
                "lab.yaml:5:10: elements.spare: no path passes 'spare'; name it in one, or leave it"
                " out"
            ],
        ),
        (
            ("  lamp: {", "  spare: {kind: light, rate: 1 Hz}\n  lamp: {"),
            [
                "lab.yaml:5:10: elements.spare: no path begins at 'spare'; name it in one, or leave"
                " it out"
            ],
        ),
        (
            ("  lamp: {", "  spare: {kind: tagger}\n  lamp: {"),
            [
                "lab.yaml:5:10: elements.spare: no path ends at 'spare'; name it in one, or leave"
                " it out"
            ],
        ),
        (
            ("  lamp: {", "  arm.two: {kind: fibre}\n  lamp: {"),
            [
                "lab.yaml:5:12: elements.arm.two: 'arm.two' cannot be named in a path; take a name"
                " without '.', '+' or space"
            ],
        ),
        (
            ("ta.5", "ta.3"),
            [
                "lab.yaml:17:63: paths.1.5: input 3 of 'ta' is already in path 1",
                "lab.yaml:17:63: paths.1.5: input 4 of 'ta' is already in path 1",
            ],
        ),
        (
            ("ta.5", "ta.64"),
            ["lab.yaml:17:63: paths.1.5: 'ta.64' and 1 more: a tagger has 64 inputs"],
        ),
        (("b, db]", "db, b]"), [f"lab.yaml:18:5: paths.2: {ORDER}"]),
        (
            ("b, db]", "b, pump, db]"),
            ["lab.yaml:18:5: paths.2: a pump_laser does not stand in a path"],
        ),
        (
            ("detectors: [{}, {}]}", "detectors: [{efficiency: 1.2}, {dark_rate: -1 Hz}]}"),
            [
                "lab.yaml:13:46: elements.dc.detectors.0.efficiency: should be less than or equal"
                " to 1, got 1.2",
                "lab.yaml:13:64: elements.dc.detectors.1.dark_rate: should be greater than or equal"
                " to 0, got '-1 Hz'",
            ],
        ),
        (
            ("length: 1 km}", "length: -1 km, loss: -1 dB, wavelength: 0 nm}"),
            [
                "lab.yaml:6:32: elements.trunk.length: should be greater than or equal to 0, got"
                " '-1 km'",
                "lab.yaml:6:45: elements.trunk.loss: should be greater than or equal to 0, got"
                " '-1 dB'",
                "lab.yaml:6:64: elements.trunk.wavelength: should be greater than 0, got '0 nm'",
            ],
        ),
        (
            ("length: 1 km}", "length: 1 km, wavelength: 1550 kg}"),
            [
                "lab.yaml:6:50: elements.trunk.wavelength: unit 'kg' does not fit here; use m, km,"
                " cm, mm, um, µm, nm; did you mean '1550 km'?"
            ],
        ),
        (
            ("rate: 1 kHz", "rate: 1 kHz, polarization: [2, 0, 0]"),
            [
                "lab.yaml:5:50: elements.lamp.polarization: its length is 2; 1 is the most there"
                " can be, for polarized light"
            ],
        ),
    ],
)
def test_a_mistake_in_a_network_is_told_with_its_place_and_remedy(
    tmp_path: Path, edit: tuple[str, str], expected: list[str]
) -> None:
    assert found(tmp_path, NETWORK, edit) == expected


LAMP = ("  station: {", "  lamp: {kind: light, rate: 1 Hz}\n  station: {")
CW = ("  station: {", "  cw: {kind: spdc, pump: pump, pair_rate: 1 MHz/mW}\n  station: {")


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (
            [
                ("[west.idler,", "[west.idler+west.signal,"),
                ("west.signal, memory", "east.idler, memory"),
                ("[east.idler, station.right]", "[lamp.out, station.right]"),
                LAMP,
            ],
            [
                "lab.yaml:15:6: paths.0.0: light of two ports comes to station.left; one is what it"
                " takes",
                "lab.yaml:16:6: paths.1.0: lamp meets another at a station, which takes pulses: a"
                " light makes none; a crystal with a trigger does",
            ],
        ),
        (
            [("  - [station, d, t]\n", "  - [lamp.out, d.1, t.1]\n"), LAMP],
            [
                "lab.yaml:10:36: elements.d.detectors.1: no path ends at detector 2 of 'd'; leave"
                " it out, or add a path to 'd.2'",
                "lab.yaml:10:40: elements.d.detectors.2: no path ends at detector 3 of 'd'; leave"
                " it out, or add a path to 'd.3'",
                "lab.yaml:10:44: elements.d.detectors.3: no path ends at detector 4 of 'd'; leave"
                " it out, or add a path to 'd.4'",
                "lab.yaml:15:18: paths.0.1: the detectors of 'station' need a path: [station, ...]",
            ],
        ),
        (
            [("[station, d, t]", "[station, station.left]")],
            [
                "lab.yaml:16:5: paths.2: what leaves a station goes to detectors, not to a station",
                "lab.yaml:16:15: paths.2.1: 'station.left' is already in path 1",
            ],
        ),
        (
            [
                ("station.left]", "memory, station.left]"),
                ("[west.signal, memory,", "[west.signal,"),
            ],
            ["lab.yaml:14:6: paths.0.0: the memory 'memory' has to stand before detectors"],
        ),
        (
            [("[west.signal, memory,", "[west.signal+lamp.out, memory,"), LAMP],
            [
                "lab.yaml:18:6: paths.3.0: lamp comes to a memory, which takes pulses: a light"
                " makes none; a crystal with a trigger does"
            ],
        ),
        (
            [("[west.signal, memory,", "[west.signal+cw.signal+cw.idler, memory,"), CW],
            [
                "lab.yaml:18:6: paths.3.0: cw comes to a memory, which takes pulses: it needs a"
                " trigger",
            ],
        ),
        (
            [("300 ps}\n  east", "200 ps}\n  east")],
            [
                "lab.yaml:5:9: elements.west: east and west interfere: they need the same"
                " pulse_width"
            ],
        ),
        (
            [
                ("west: {kind: spdc,", "west: {kind: spdc, channels: [1],"),
                ("west.idler", "west.i1"),
                ("west.signal", "west.s1"),
            ],
            [
                "lab.yaml:5:32: elements.west.channels: belong to a continuous pump; leave them"
                " out, or the trigger"
            ],
        ),
        (
            [
                ("  station: {", "  eve: {kind: eavesdropper}\n  station: {"),
                ("[west.signal, memory", "[west.signal, eve, memory"),
            ],
            [
                "lab.yaml:8:8: elements.eve: is not modelled for light of west, which is pulsed:"
                " leave it out"
            ],
        ),
        (
            [
                ("  station: {", "  link: {kind: fibre, pmd: 0.1 ps/sqrt(km)}\n  station: {"),
                ("[west.idler, ", "[west.idler, link, "),
            ],
            [
                "lab.yaml:8:28: elements.link.pmd: is not modelled for light of west, which is"
                " pulsed: leave it out"
            ],
        ),
        (
            [("[pulser.T0, t.7]", "[pulser.T0, t.6]")],
            ["lab.yaml:19:17: paths.5.1: input 6 of 't' is already in path 5"],
        ),
    ],
)
def test_a_mistake_about_pulses_and_stations_is_told_with_its_place_and_remedy(
    tmp_path: Path, edits: list[tuple[str, str]], expected: list[str]
) -> None:
    assert found(tmp_path, STATION, *edits) == expected


# -- any layout --------------------------------------------------------------------------------

DETECTOR = {"efficiency": 0.8, "dark_rate": 100.0}
POOL: dict[str, dict[str, Any]] = {
    "cw": {"kind": "spdc", "pump": "pump", "pair_rate": 1e7, "bandwidth": 5e-8},
    "mux": {
        "kind": "spdc",
        "pump": "pump",
        "pair_rate": 1e7,
        "channels": [0.5, 0.3],
        "coherence_time": 1e-7,
    },
    "pulsed": {
        "kind": "spdc",
        "pump": "pump",
        "pair_rate": 1e7,
        "trigger": "pulser.A",
        "pulse_width": 3e-10,
    },
    "lamp": {"kind": "light", "rate": 1e5},
    "weak": {"kind": "weak_coherent", "trigger": "pulses.0", "mean_photons": 0.5},
    "faint": {"kind": "weak_coherent", "trigger": "pulses.1", "mean_photons": 0.1},
    "fibre": {"kind": "fibre", "length": 1e4, "dispersion": 17e-6, "pmd": 1e-14},
    "module": {"kind": "fibre", "length": 10.0, "dispersion": -1e-2},
    "paddles": {"kind": "paddles", "retardance": [90.0, 180.0]},
    "east": {"kind": "emitter", "sequencer": "pulser", "alpha": 0.1},
    "west": {"kind": "emitter", "sequencer": "pulser", "alpha": 0.2},
    "switch": {"kind": "switch", "outputs": 3, "selected": 2},
    "attenuator": {"kind": "attenuator", "attenuation": 3.0},
    "gas": {"kind": "gas_memory", "sequencer": "pulser"},
    "air": {"kind": "free_space", "length": 1e3, "turbulence": 1e-14},
    "pass": {"kind": "satellite_pass", "culmination": 1.0, "sky": "full_moon"},
    "eve": {"kind": "eavesdropper", "intercept": 0.3, "tap": 0.1, "light": 1e5},
    "tap": {"kind": "coupler", "shares": [0.3, 0.6]},
    "split": {"kind": "coupler"},
    "analyzer": {"kind": "analyzer"},
    "splitter": {"kind": "splitter"},
    "memory": {"kind": "memory", "sequencer": "pulser"},
    "station": {"kind": "bell_station"},
    "tagger": {"kind": "tagger", "cable_delays": [0, 2e-8], "jitter": 1e-10},
}
PORTS = [
    *("cw.signal", "cw.idler", "mux.s1", "mux.i1", "mux.i2", "pulsed.signal", "pulsed.idler"),
    *("lamp.out", "weak.out", "faint.out", "east.out", "east.readout", "west.out"),
]
#: What may go to a station, with what it may meet there.
OTHER = {
    "weak.out": "faint.out",
    "faint.out": "weak.out",
    "east.out": "west.out",
    "west.out": "east.out",
    "pulsed.signal": "pulsed.idler",
    "pulsed.idler": "pulsed.signal",
}
OPTICS = [
    "fibre",
    "module",
    "paddles",
    "air",
    "pass",
    "eve",
    "tap.1",
    "tap.2",
    "split.2",
    "memory",
    "gas",
    "switch.2",
    "attenuator",
]


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly what could be meant: paths of free ports through free optics to free detectors."""
    ports = draw(st.permutations(PORTS))
    optics = draw(st.permutations(OPTICS))
    splits = draw(st.permutations(["analyzer", "splitter", "", ""]))
    paths: list[list[str]] = []
    elements: dict[str, dict[str, Any]] = {}
    inputs = 1
    for n in range(draw(st.integers(1, 4))):
        taken = draw(st.integers(1, 2))
        begin, ports = ports[:taken], ports[taken:]
        several = draw(st.integers(0, 2))
        path = ["+".join(begin), *optics[:several]]
        optics = optics[several:]
        if paths and draw(st.integers(0, 3)) == 2:  # another output of a coupler, or a mistake
            other = draw(st.sampled_from(paths))
            parted = next((j for j, token in enumerate(other) if "tap" in token), 1)
            path = [*other[:parted], *(["tap.1" if "tap.2" in other else "tap.2"])]
        if {"memory", "gas"} & {*path} and "pulsed.idler" in [*ports, *begin]:
            path[0], ports = "pulsed.idler", [port for port in ports if port != "pulsed.idler"]
        if draw(st.integers(0, 4)) == 3:  # or into a station
            able = [port for port in OTHER if port in ports] or begin
            path[0] = draw(st.sampled_from(able))
            ports = [port for port in ports if port != path[0]]
            path.append(draw(st.sampled_from(["station.left", "station.right"])))
            paths.append(path)
            continue
        if splits[n]:
            path.append(splits[n])
        count = {"analyzer": 4, "splitter": 2}.get(splits[n], 1)
        if draw(st.integers(0, 19)) == 7:
            count += 1
        path.append(f"snspd{n}")
        kind = draw(st.sampled_from(["snspd", "spad"]))
        own = DETECTOR if kind == "snspd" else {"afterpulse": 0.02}
        elements[f"snspd{n}"] = {"kind": kind, "detectors": [own] * count}
        if draw(st.booleans()):
            path.append(f"tagger.{inputs}")
            inputs += count
        paths.append(path)
    if draw(st.integers(0, 9)) < 8:  # give every source of pairs its other arm
        begun = {port for path in paths for port in path[0].split("+")}
        for one, two in (("signal", "idler"), ("idler", "signal")):
            for source in ("cw", "pulsed"):
                if f"{source}.{one}" in begun and f"{source}.{two}" not in begun:
                    paths.append([f"{source}.{two}", f"{source}_end"])
                    elements[f"{source}_end"] = {"kind": "snspd", "detectors": [DETECTOR]}
    into = [path for path in paths if path[-1].startswith("station")]
    if len(into) == 1:  # give it its other input
        side = {"station.left": "station.right", "station.right": "station.left"}[into[0][-1]]
        if OTHER.get(into[0][0]) in ports:
            paths.append([OTHER[into[0][0]], side])
    if into:
        paths.append(["station", "middle"])
        elements["middle"] = {"kind": "snspd", "detectors": [DETECTOR] * 4}
    names = {token.split(".")[0] for path in paths for t in path for token in t.split("+")}
    elements |= {name: POOL[name] for name in POOL if name in names}
    elements["pump"] = {"kind": "pump_laser"}
    elements["pulser"] = {"kind": "delay_generator"}
    elements["pulses"] = {"kind": "pulse_sequencer"}
    return {"elements": elements, "paths": paths}


@given(layouts(), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_any_layout_runs_or_is_refused(raw: dict[str, Any], seed: int) -> None:
    model = WorldModel.model_validate(raw)
    issues = check_layout(model)
    for loc, message in issues:
        place: Any = raw
        for part in loc[:2]:
            place = place[part]
        assert message
    if issues:
        return
    world = World(model, seed)
    for element in world.elements.values():
        if isinstance(element, PumpLaser):
            element.current_a, element.emitting = 0.1, True
        elif isinstance(element, DelayGenerator):
            element.source, element.rate_uhz = "internal", 10**12  # 1 MHz
        elif isinstance(element, PulseSequencer):
            digital = np.array([3, 0, 0], np.uint8)  # 1 MHz on both
            steps = np.array([10, 990], np.int64)
            element.play(Program(steps, digital, np.tile([1.0, 0.5], (3, 1))), 0)
        elif isinstance(element, SnspdArray):
            element.enabled, element.counting = True, True
            element.bias_a = [18e-6] * len(element.bias_a)
        elif isinstance(element, TaggerInputs):
            element.recording = seed > 0
    for _ in range(2):
        begin = world.now_ps
        world.run_block()
        for element in world.elements.values():
            if isinstance(element, TaggerInputs) and element.recording:
                times = element.times_ps
                assert not times.size or begin <= times.min() <= times.max() < begin + BLOCK_PS
            elif isinstance(element, SnspdArray):
                assert (element.counts >= 0).all()


@given(
    st.lists(
        st.lists(
            st.sampled_from(
                [
                    *POOL,
                    *PORTS,
                    *OPTICS,
                    "",
                    ".",
                    "+",
                    "pump",
                    "pulser.A",
                    "pulser",
                    "snspd0",
                    "snspd0.2",
                    "station.left",
                    "station.right",
                    "tagger.64",
                    "tagger.²",
                    "none",
                ]
            ),
            max_size=6,
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=100, deadline=None)
def test_any_paths_are_checked_without_a_crash(paths: list[list[str]]) -> None:
    elements = {
        **POOL,
        "pump": {"kind": "pump_laser"},
        "pulser": {"kind": "delay_generator"},
        "pulses": {"kind": "pulse_sequencer"},
        "snspd0": {"kind": "snspd", "detectors": [DETECTOR] * 4},
    }
    model = WorldModel.model_validate({"elements": elements, "paths": paths})
    assert check_layout(model)


EMITTERS = """\
bellbench: world/1
elements:
  timing: {kind: delay_generator}
  west: {kind: emitter, sequencer: timing, alpha: 0.1}
  east: {kind: emitter, sequencer: timing, alpha: 0.1}
  fibre: {kind: fibre, length: 1 km}
  station: {kind: bell_station}
  d: {kind: snspd, detectors: [{}, {}, {}, {}]}
paths:
  - [west.out, fibre, station.left]
  - [east.out, station.right]
  - [station, d]
"""
EVE = "{kind: eavesdropper, light: 1 kHz}"


@pytest.mark.parametrize(
    ("text", "edits", "told"),
    [
        (
            EMITTERS,
            [("length: 1 km", "length: 1 km, pmd: 0.1 ps/sqrt(km)")],
            "elements.fibre.pmd: is not modelled between west and a station",
        ),
        (
            EMITTERS,
            [("{kind: fibre, length: 1 km}", EVE)],
            "elements.fibre: is not modelled between west and a station",
        ),
        (
            EMITTERS,
            [("{kind: fibre, length: 1 km}", "{kind: squeezers}")],
            "elements.fibre: may scramble, which is not modelled between west and a station: take",
        ),
        (
            EMITTERS.replace("  station: {kind: bell_station}\n", ""),
            [
                ("length: 1 km", "length: 1 km, pmd: 0.1 ps/sqrt(km)"),
                ("station.left", "d.1"),
                ("station.right", "d.2"),
                ("[station, d]", "[west.readout, d.3]\n  - [east.readout, d.4]"),
            ],
            "elements.fibre.pmd: is not modelled for photons of west: leave it out",
        ),
        (
            STATION,
            [
                ("  station:", "  turn: {kind: squeezers}\n  station:"),
                ("[west.idler, s", "[west.idler, turn, s"),
            ],
            "elements.turn: may scramble, which is not modelled between west and a station: take",
        ),
    ],
)
def test_optics_that_an_engine_would_overlook_are_refused(
    tmp_path: Path, text: str, edits: list[tuple[str, str]], told: str
) -> None:
    [message] = found(tmp_path, text, *edits)
    assert told in message


def test_a_world_without_paths_is_refused() -> None:
    with pytest.raises(ValidationError):
        WorldModel.model_validate({"elements": {}, "paths": []})
