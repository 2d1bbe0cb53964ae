"""Quantities in text: the closed table, its refusals, and the pydantic annotation."""

from __future__ import annotations

import json
import math
from typing import Annotated

import pytest
from bellbench.instruments import SPELLINGS, Unit, parse_quantity
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

UNITS = st.sampled_from(sorted(SPELLINGS))
NUMBERS = st.floats(-1e12, 1e12).map(lambda x: float(f"{x:.12g}"))


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("120 mA", "A", 0.12),
        ("120mA", "A", 0.12),
        (" 18 µA ", "A", 18e-6),
        ("18 uA", "A", 18e-6),
        ("0.2 dB/km", "dB/km", 0.2),
        ("35 degC", "degC", 35.0),
        ("-40 °C", "degC", -40.0),
        ("+.5 s", "s", 0.5),
        ("5. min", "s", 300.0),
        ("2 h", "s", 7200.0),
        ("30 ns", "s", 30e-9),
        ("1.5e3 km", "m", 1.5e6),
        ("400 kHz/mW", "Hz/W", 4e8),
        ("0.5 W/A", "W/A", 0.5),
        ("3 K/min", "K/s", 0.05),
        ("90 °", "deg", 90.0),
        ("80 %", "1", 0.8),
        ("0.8", "1", 0.8),
        (0.8, "1", 0.8),
        (1, "1", 1.0),
        ("3 ppm", "1", 3e-6),
        ("75 cps", "Hz", 75.0),
    ],
)
def test_a_quantity_is_its_number_in_the_si_unit(text: object, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == pytest.approx(value, rel=1e-15)


def test_radians_become_degrees() -> None:
    assert parse_quantity("3.141592653589793 rad", "deg") == pytest.approx(180.0)


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [
        (0.12, "A", "0.12 has no unit; write for example '0.12 A' (A, mA, uA, µA, nA)"),
        ("120", "A", "'120' has no unit; write for example '120 A' (A, mA, uA, µA, nA)"),
        (
            "120 mW",
            "A",
            "unit 'mW' does not fit here; use A, mA, uA, µA, nA; did you mean '120 mA'?",
        ),
        ("3 furlongs", "m", "unit 'furlongs' does not fit here; use m, km, cm, mm, um, µm, nm"),
        ("fast", "Hz/W", "cannot read 'fast' as a number and a unit (Hz/W, Hz/mW, kHz/mW, MHz/mW)"),
        ("1 2 A", "A", "cannot read '1 2 A' as a number and a unit (A, mA, uA, µA, nA)"),
        ("1+1 V", "V", "cannot read '1+1 V' as a number and a unit (V, mV, uV, µV)"),
        ("", "K", "cannot read '' as a number and a unit (K, mK)"),
        (None, "K", "expected a quantity such as '1 K', got None"),
        (True, "1", "expected a quantity such as '1 %', got True"),
        ([1], "s", "expected a quantity such as '1 s', got [1]"),
        (math.inf, "1", "inf is not a finite number"),
        (math.nan, "1", "nan is not a finite number"),
        ("1e999 s", "s", "'1e999 s' is not a finite number"),
        ("1e308 km", "m", "'1e308 km' is too large"),
        (10**400, "1", f"1{'0' * 56}... is not a finite number"),
    ],
)
def test_a_refusal_says_what_would_be_right(value: object, unit: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_quantity(value, unit)
    assert str(caught.value) == message


def test_an_int_beyond_what_python_prints_is_refused() -> None:
    with pytest.raises(ValueError, match="this is not a finite number"):
        parse_quantity(10**5000, "1")


def test_a_long_text_is_cut_in_the_error() -> None:
    with pytest.raises(ValueError, match="cannot read") as caught:
        parse_quantity("1" * 10_000, "A")
    assert len(str(caught.value)) < 200


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()), UNITS)
def test_anything_is_a_finite_number_or_a_value_error(value: object, unit: str) -> None:
    try:
        number = parse_quantity(value, unit)
    except ValueError:
        return
    assert math.isfinite(number)


@given(NUMBERS, UNITS, st.data())
def test_every_spelling_means_its_factor(number: float, unit: str, data: st.DataObject) -> None:
    spelling, factor = data.draw(st.sampled_from(sorted(SPELLINGS[unit].items())))
    assert parse_quantity(f"{number!r} {spelling}", unit) == number * factor
    assert parse_quantity(f"{number!r}{spelling}", unit) == number * factor


def test_only_the_dimensionless_unit_has_a_bare_number() -> None:
    assert [unit for unit, table in SPELLINGS.items() if "" in table] == ["1"]


class _Model(BaseModel):
    current: Annotated[float, Unit("A"), Field(ge=0)] = 0.1
    loss: Annotated[float, Unit("dB"), Field(ge=0)] | None = None
    share: Annotated[float, Unit("1")] = 0.5
    angles: tuple[Annotated[float, Unit("deg")], ...] = ()


def test_code_may_give_bare_si_numbers_a_file_may_not() -> None:
    assert _Model(current=0.2).current == 0.2
    with pytest.raises(ValidationError, match=r"0\.2 has no unit"):
        _Model.model_validate({"current": 0.2}, context={"file": True})
    read = _Model.model_validate({"current": "200 mA", "share": 0.25}, context={"file": True})
    assert (read.current, read.share) == (0.2, 0.25)


def test_bounds_hold_after_the_unit_is_read() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        _Model.model_validate({"current": "-1 mA"}, context={"file": True})


@given(st.floats(0, 1e300), st.none() | st.floats(0, 1e300), st.lists(st.floats(-1e300, 1e300)))
def test_a_dump_carries_its_units_and_reads_back(
    current: float, loss: float | None, angles: list[float]
) -> None:
    model = _Model(current=current, loss=loss, angles=tuple(angles))
    dumped = json.loads(model.model_dump_json())
    assert dumped["current"].endswith(" A")
    assert _Model.model_validate(dumped, context={"file": True}) == model


def test_a_dump_to_python_stays_a_number() -> None:
    assert _Model().model_dump()["current"] == 0.1


def test_it_shows_its_unit() -> None:
    assert repr(Unit("A")) == "Unit('A')"
