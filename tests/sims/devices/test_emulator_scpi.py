"""The SCPI interpreter: forms of headers, numbers, the error queue."""

from __future__ import annotations

import math

import pytest
from bellbench.sims.devices.scpi import (
    Command,
    Interpreter,
    ScpiError,
    choice,
    flag,
    number,
    numeric,
    query,
)
from hypothesis import given
from hypothesis import strategies as st


class Box:
    """An instrument with one register of each kind."""

    def __init__(self) -> None:
        self.level = 0.0
        self.on = False
        self.mode = "CURR"
        self.resets = 0
        commands = [
            *numeric(
                "SOURce[1]:CURRent[:LEVel][:IMMediate][:AMPLitude]",
                lambda: self.level,
                lambda value: setattr(self, "level", value),
                lambda: (0.0, 2.0, 1.0),
                ("A",),
            ),
            *flag("OUTPut[1][:STATe]", lambda: self.on, lambda on: setattr(self, "on", on)),
            *choice(
                "SOURce[1]:FUNCtion:MODE",
                ("CURRent", "POWer"),
                lambda: self.mode,
                lambda word: setattr(self, "mode", word),
            ),
            query("SOURce[1]:TYPE?", lambda: "diode"),
            Command("INPUt#:GAIN?", lambda numbers, _parameters: f"gain{numbers[0]}"),
        ]
        self.scpi = Interpreter(commands, "A,B,C,D", self._reset)

    def _reset(self) -> None:
        self.resets += 1

    def ask(self, line: str) -> str | None:
        return self.scpi.execute(line)


@pytest.mark.parametrize(
    "header",
    [
        "SOUR:CURR",
        "SOURCE:CURRENT",
        "sour1:curr:lev",
        "Source1:Current:Level:Immediate:Amplitude",
        ":SOUR:CURR:IMM",
        "SOUR:CURR:AMPL",
    ],
)
def test_every_form_of_a_header_is_the_same_header(header: str) -> None:
    box = Box()
    assert box.ask(f"{header} 0.5") is None
    assert box.level == 0.5
    assert box.ask(f"{header}?") == "5.000000E-01"
    assert box.ask("SYST:ERR?") == '+0,"No error"'


@pytest.mark.parametrize(
    "header", ["SOU:CURR", "SOURC:CURR", "SOUR2:CURR", "SOUR:CURR:AMPL:LEV", "CURR", "FOO"]
)
def test_half_short_and_foreign_headers_are_undefined(header: str) -> None:
    box = Box()
    assert box.ask(f"{header} 0.5") is None
    assert box.level == 0.0
    assert box.ask("SYSTEM:ERROR:NEXT?") == '-113,"Undefined header"'


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("SOUR:CURR", '-109,"Missing parameter"'),
        ("SOUR:CURR 1,2", '-108,"Parameter not allowed"'),
        ("SOUR:CURR ,", '-108,"Parameter not allowed"'),
        ("SOUR:CURR high", '-104,"Data type error"'),
        ("SOUR:CURR 1V", '-131,"Invalid suffix"'),
        ("SOUR:CURR 2.1", '-222,"Data out of range"'),
        ("SOUR:CURR 1e999", '-222,"Data out of range"'),
        ("SOUR:CURR \x01", '-101,"Invalid character"'),
        ("SOUR:CURR\xb5", '-101,"Invalid character"'),
        ("SOUR::CURR 1", '-102,"Syntax error"'),
        ("SOUR:FUNC:MODE FAST", '-141,"Invalid character data"'),
        ("SOUR:CURR? 5", '-104,"Data type error"'),
        ("SOUR:TYPE", '-113,"Undefined header"'),
        ("SOUR:CURR " + "1" * 60_000, '-104,"Data type error"'),
    ],
)
def test_errors_have_the_standard_codes(line: str, code: str) -> None:
    box = Box()
    assert box.ask(line) is None
    assert (box.level, box.mode) == (0.0, "CURR")
    assert box.ask("SYST:ERR?") == code
    assert box.ask("SYST:ERR?") == '+0,"No error"'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("+.5", 0.5),
        ("2.", 2.0),
        ("1.5e-3", 1.5e-3),
        ("120mA", 0.12),
        ("120 m", 0.12),
        ("3ua", 3e-6),
        ("2kA", 2e3),
        ("2MA", 2e6),
        ("1A", 1.0),
        ("#H1f", 31.0),
        ("#q17", 15.0),
        ("#B101", 5.0),
    ],
)
def test_numbers_are_read_in_every_form(text: str, value: float) -> None:
    assert number(text, ("A",))[0] == pytest.approx(value, rel=1e-12)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_reads_back(value: float) -> None:
    assert number(repr(value)) == (value, "")


@given(st.text(max_size=80))
def test_a_number_is_read_or_refused(text: str) -> None:
    try:
        value, _ = number(text)
    except ScpiError as error:
        code = error.code
    else:
        code = 0 if math.isfinite(value) else 1
    assert code in (0, -104, -131, -222)


@given(st.text(max_size=200))
def test_no_message_breaks_the_interpreter(text: str) -> None:
    box = Box()
    box.ask(text)
    assert box.ask("*IDN?") == "A,B,C,D"


def test_min_max_and_def_are_values_and_queries() -> None:
    box = Box()
    box.ask("SOUR:CURR MAX")
    assert box.level == 2.0
    box.ask("SOUR:CURR default")
    assert box.level == 1.0
    assert box.ask("SOUR:CURR? MIN") == "0.000000E+00"
    assert box.ask("SOUR:CURR? MAXIMUM") == "2.000000E+00"


def test_messages_chain_within_the_branch() -> None:
    box = Box()
    assert box.ask("SOUR:CURR 1.5;FUNC:MODE POWER") is None
    assert (box.level, box.mode) == (1.5, "POW")
    assert box.ask("SOUR:FUNC:MODE CURR;CURR 1") is None  # the branch is now SOUR:FUNC:
    assert box.ask("SYST:ERR?") == '-113,"Undefined header"'
    assert box.ask("SOUR:FUNC:MODE CURR;:SOUR:CURR 1") is None
    assert (box.level, box.mode) == (1.0, "CURR")
    assert box.ask("SOUR:CURR 0.5;*ESR?;CURR?") == "160;5.000000E-01"  # *X keeps the branch


def test_replies_of_one_message_are_joined() -> None:
    box = Box()
    assert box.ask("*IDN?;SOUR:TYPE?;CURR?;:OUTP?") == "A,B,C,D;diode;0.000000E+00;0"


def test_a_command_error_ends_the_message_and_an_execution_error_does_not() -> None:
    box = Box()
    assert box.ask("FOO 1;OUTP ON") is None
    assert not box.on
    assert box.ask("SOUR:CURR 9;:OUTP ON") is None
    assert box.on


def test_the_error_queue_is_ten_deep_first_in_first_out() -> None:
    box = Box()
    box.ask("SOUR:CURR 9")
    for _ in range(20):
        box.ask("FOO")
    assert box.ask("SYST:ERR?") == '-222,"Data out of range"'
    answers = [box.ask("SYST:ERR?") for _ in range(10)]
    assert answers[:8] == ['-113,"Undefined header"'] * 8
    assert answers[8:] == ['-350,"Error queue overflow"', '+0,"No error"']


def test_cls_clears_the_queue_and_rst_does_not() -> None:
    box = Box()
    box.ask("FOO")
    box.ask("*RST")
    assert box.resets == 1
    assert box.ask("*ESR?") == str(128 + 32)
    assert box.ask("*ESR?") == "0"
    assert box.ask("*STB?") == "4"
    box.ask("*CLS")
    assert box.ask("SYST:ERR?;*STB?") == '+0,"No error";0'


def test_status_byte_follows_the_enables() -> None:
    box = Box()
    box.ask("*CLS;*ESE 32;*SRE 32")
    assert box.ask("*ESE?;*SRE?") == "32;32"
    box.ask("FOO")
    assert box.ask("*STB?") == str(4 + 32 + 64)
    box.ask("*ESE 999")
    assert box.ask("*ESE?") == "32"


def test_instances_are_numbered_in_the_header() -> None:
    box = Box()
    assert box.ask("INPU3:GAIN?") == "gain3"
    assert box.ask("INPU:GAIN?") is None


def test_operation_complete() -> None:
    box = Box()
    box.ask("*CLS;*OPC;*WAI")
    assert box.ask("*ESR?;*OPC?;*TST?") == "1;1;0"
