"""Every mistake of a file is one sentence with its place."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from bellbench.configs import ConfigErrors, Report, nearest, parse
from bellbench.instruments import ConfigError, Unit
from bellbench.sims.world import WorldModel
from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Part(Strict):
    temperature: Annotated[float, Unit("degC")] = 25.0
    pair: tuple[int, int] = (1, 2)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Lens(Strict):
    kind: Literal["lens"]
    focus: Annotated[float, Unit("m"), Field(gt=0)]


class Mirror(Strict):
    kind: Literal["mirror"]
    tilt: Annotated[float, Unit("deg")] = 0.0


class Model(Strict):
    mode: Literal["current", "power"] = "current"
    colour: Colour = Colour.RED
    on: bool = True
    count: Annotated[int, Field(le=9)] = 1
    ratio: float = 1.0
    label: Annotated[str, Field(max_length=3)] = ""
    part: Part | None = None
    parts: list[Part] = []
    named: dict[str, Part] = {}
    numbered: dict[int, str] = {}
    mapped: Mapping[str, Part] = {}
    optic: Annotated[Lens | Mirror, Field(discriminator="kind")] | None = None
    optics: list[Annotated[Lens | Mirror, Field(discriminator="kind")]] = []
    renamed: int = Field(default=0, alias="as")
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Model:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def mistakes(text: str, model: type[BaseModel] = Model) -> list[str]:
    report = Report(parse(text.encode(), Path("f.yaml")))
    validated = report.validate(model)
    assert (validated is None) == bool(report.errors)
    return [str(error) for error in report.errors]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moed: power", "f.yaml:1:1: moed: unknown key; did you mean 'mode'?"),
        (
            "part: {zzz: 1}",
            "f.yaml:1:8: part.zzz: unknown key; valid: temperature, pair",
        ),
        ("parts:\n- {tempature: 3 degC}", "f.yaml:2:4: parts.0.tempature: unknown key; did you"),
        ("named: {a: {pear: 1}}", "f.yaml:1:13: named.a.pear: unknown key; did you mean 'pair'?"),
        ("mapped: {a: {pear: 1}}", "f.yaml:1:14: mapped.a.pear: unknown key; did you mean 'pair'?"),
        ("ass: 1", "f.yaml:1:1: ass: unknown key; did you mean 'as'?"),
        ("optic: {kind: lens, fokus: 1 m, focus: 1 m}", "f.yaml:1:21: optic.fokus: unknown key; "),
        ("optics: [{kind: mirror, tlit: 1 deg}]", "f.yaml:1:25: optics.0.tlit: unknown key; did "),
        ("mode: curent", "f.yaml:1:7: mode: 'curent' does not fit here; did you mean 'current'?"),
        ("mode: 3", "f.yaml:1:7: mode: 3 does not fit here; valid: current, power"),
        ("colour: bleu", "f.yaml:1:9: colour: 'bleu' does not fit here; did you mean 'blue'?"),
        ("on: maybe", "f.yaml:1:5: on: expected true or false, got 'maybe'"),
        ("count: many", "f.yaml:1:8: count: expected a whole number, got 'many'"),
        ("count: 1.5", "f.yaml:1:8: count: expected a whole number, got 1.5"),
        ("count: 10", "f.yaml:1:8: count: should be less than or equal to 9, got 10"),
        ("ratio: [1]", "f.yaml:1:8: ratio: expected a number, got a list"),
        ("label: 3", "f.yaml:1:8: label: expected text, got 3"),
        (
            "label: long",
            "f.yaml:1:8: label: string should have at most 3 characters, got 'long'",
        ),
        ("part: 3", "f.yaml:1:7: part: expected keys and values (a mapping), got 3"),
        ("parts: {}", "f.yaml:1:8: parts: expected a list, got a mapping"),
        ("named: []", "f.yaml:1:8: named: expected keys and values (a mapping), got a list"),
        ("mapped: 1", "f.yaml:1:9: mapped: expected keys and values (a mapping), got 1"),
        ("numbered: {a: b}", "f.yaml:1:12: numbered.a: as a key, expected a whole number, got 'a'"),
        ("part: {pair: [1]}", "f.yaml:1:14: part.pair: has too few items (1)"),
        ("optic: {kind: lens}", "f.yaml:1:1: optic: key 'focus' is missing"),
        ("optic: {}", "f.yaml:1:1: optic: key 'kind' is missing"),
        (
            "optic: {kind: mirrow}",
            "f.yaml:1:15: optic.kind: unknown kind 'mirrow'; did you mean 'mirror'?",
        ),
        ("optic: {kind: prism}", "f.yaml:1:15: optic.kind: unknown kind 'prism'; valid: lens, mi"),
        (
            "optic: {kind: lens, focus: -1 m}",
            "f.yaml:1:28: optic.focus: should be greater than 0, got '-1 m'",
        ),
        ("optic: {kind: lens, focus: 5}", "f.yaml:1:28: optic.focus: 5 has no unit; write for"),
        (
            "part: {temperature: 3 mA}",
            "f.yaml:1:21: part.temperature: unit 'mA' does not fit here; use degC, °C, C",
        ),
        ("low: 2", "f.yaml:1:1: low is above high"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, message: str) -> None:
    (found,) = mistakes(text)
    assert found.startswith(message)


def test_all_mistakes_of_a_file_come_at_once_in_its_order() -> None:
    text = "count: x\nmode: y\nmode: z\nextra: 1\npart: {temperature: 1, pair: [a, b]}\n"
    assert mistakes(text) == [
        "f.yaml:1:8: count: expected a whole number, got 'x'",
        "f.yaml:2:7: mode: 'y' does not fit here; valid: current, power",
        "f.yaml:3:1: mode: this key stands twice; first in line 2",
        "f.yaml:4:1: extra: unknown key; valid: mode, colour, on, count, ratio, label, part, parts,"
        " named, numbered, mapped, optic, optics, as, low, high",
        "f.yaml:5:21: part.temperature: 1 has no unit; write for example '1 degC'",
        "f.yaml:5:31: part.pair.0: expected a whole number, got 'a'",
        "f.yaml:5:34: part.pair.1: expected a whole number, got 'b'",
    ]


def test_the_error_holds_every_mistake_and_prints_one_a_line() -> None:
    report = Report(parse(b"count: x\non: maybe\n", Path("f.yaml")))
    report.validate(Model)
    with pytest.raises(ConfigErrors) as caught:
        report.check()
    assert isinstance(caught.value, ConfigError)
    assert [error.place for error in caught.value.errors] == ["f.yaml:1:8", "f.yaml:2:5"]
    assert str(caught.value).splitlines() == [str(error) for error in caught.value.errors]
    assert caught.value.place == "f.yaml:1:8"


def test_a_file_without_mistakes_validates() -> None:
    text = "part: {temperature: 40 degC}\noptics: [{kind: lens, focus: 20 mm}]\nnumbered: {1: H}\n"
    report = Report(parse(text.encode(), Path("f.yaml")))
    model = report.validate(Model)
    report.check()
    assert model is not None
    assert model.part == Part(temperature=40.0)
    assert model.optics == [Lens(kind="lens", focus=0.02)]
    assert model.numbered == {1: "H"}


def test_a_part_of_a_file_is_located_in_the_whole() -> None:
    report = Report(parse(b"a:\n  b: {element: x, temperatur: 3 degC}\n", Path("f.yaml")))
    assert report.validate(Part, ("a", "b"), without=("element",)) is None
    assert [str(error) for error in report.errors] == [
        "f.yaml:2:19: a.b.temperatur: unknown key; did you mean 'temperature'?"
    ]


WORLD = """\
bellbench: world/1
elements:
  pump: {kind: pump_laser, thresold: 40 mA, slope: -1 W/A, threshold: 3 mW}
  link: {kind: fiber}
  snspd:
    kind: snspd
    detectors:
      - {efficiency: 1.2}
      - {dark_rate: -75 Hz}
  fibre: {kind: fibre, loss: -3 dB, length: 10}
  crystal: {kind: spdc, pump: pump}
paths: []
"""


def test_mistakes_in_a_world_are_told_like_any_other() -> None:
    assert mistakes(WORLD, WorldModel) == [
        "f.yaml:3:28: elements.pump.thresold: unknown key; did you mean 'threshold'?",
        "f.yaml:3:52: elements.pump.slope: should be greater than 0, got '-1 W/A'",
        "f.yaml:3:71: elements.pump.threshold: unit 'mW' does not fit here; use A, mA, uA, µA, nA;"
        " did you mean '3 mA'?",
        "f.yaml:4:16: elements.link.kind: unknown kind 'fiber'; did you mean 'fibre'?",
        "f.yaml:8:22: elements.snspd.detectors.0.efficiency: should be less than or equal to 1,"
        " got 1.2",
        "f.yaml:9:21: elements.snspd.detectors.1.dark_rate: should be greater than or equal to 0,"
        " got '-75 Hz'",
        "f.yaml:10:30: elements.fibre.loss: should be greater than or equal to 0, got '-3 dB'",
        "f.yaml:10:45: elements.fibre.length: 10 has no unit; write for example '10 m'"
        " (m, km, cm, mm, um, µm, nm)",
        "f.yaml:11:3: elements.crystal: key 'pair_rate' is missing",
        "f.yaml:12:8: paths: needs 1 or more items, has 0",
    ]


@pytest.mark.parametrize(
    ("name", "valid", "hint"),
    [
        ("Pump", ["pump", "oven"], "; did you mean 'pump'?"),
        ("alice_tager", ["alice_tagger", "bob_tagger"], "; did you mean 'alice_tagger'?"),
        ("x", ["pump", "oven"], "; valid: pump, oven"),
        ("x", [], ""),
    ],
)
def test_the_nearest_name_is_offered_or_all(name: str, valid: list[Any], hint: str) -> None:
    assert nearest(name, valid) == hint
