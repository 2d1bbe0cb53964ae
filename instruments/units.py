"""Quantities with units in text: ``120 mA``, ``0.2 dB/km``, ``35 degC``.

A closed table of spellings per quantity rather than a unit library: a config error can then name
every accepted spelling, and nothing in a file is ever evaluated (docs/decisions/0004).
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Any

__all__ = ["SPELLINGS", "Unit", "parse_quantity"]

#: For each SI unit: the spellings accepted and the factor to that unit. Offsets do not occur.
SPELLINGS: dict[str, dict[str, float]] = {
    "A": {"A": 1.0, "mA": 1e-3, "uA": 1e-6, "µA": 1e-6, "nA": 1e-9},
    "V": {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "µV": 1e-6},
    "W": {"W": 1.0, "mW": 1e-3, "uW": 1e-6, "µW": 1e-6, "nW": 1e-9},
    "W/A": {"W/A": 1.0, "mW/mA": 1.0, "mW/A": 1e-3},
    "s": {
        "s": 1.0,
        "ms": 1e-3,
        "us": 1e-6,
        "µs": 1e-6,
        "ns": 1e-9,
        "ps": 1e-12,
        "min": 60.0,
        "h": 3600.0,
    },
    "m": {"m": 1.0, "km": 1e3, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "nm": 1e-9},
    "Hz": {
        "Hz": 1.0,
        "kHz": 1e3,
        "MHz": 1e6,
        "GHz": 1e9,
        "THz": 1e12,
        "/s": 1.0,
        "cps": 1.0,
        "kcps": 1e3,
        "Mcps": 1e6,
    },
    "Hz/W": {"Hz/W": 1.0, "Hz/mW": 1e3, "kHz/mW": 1e6, "MHz/mW": 1e9},
    "degC": {"degC": 1.0, "°C": 1.0, "C": 1.0},
    "K": {"K": 1.0, "mK": 1e-3},
    "K/s": {"K/s": 1.0, "K/min": 1.0 / 60.0},
    "deg": {
        "deg": 1.0,
        "°": 1.0,
        "rad": math.degrees(1.0),
        "mrad": math.degrees(1e-3),
        "urad": math.degrees(1e-6),
    },
    "dB": {"dB": 1.0},
    "dB/km": {"dB/km": 1.0},
    "dBm": {"dBm": 1.0},
    "s/m2": {"s/m2": 1.0, "ps/nm/km": 1e-6, "ps/(nm*km)": 1e-6, "ps/(nm·km)": 1e-6},
    "s/sqrt(m)": {"s/sqrt(m)": 1.0, "ps/sqrt(km)": 1e-12 / math.sqrt(1e3)},
    "s/m/K": {"s/m/K": 1.0, "ps/km/K": 1e-15},
    "1/m2": {"/m2": 1.0, "/km/nm": 1e6},
    "m^-2/3": {"m^-2/3": 1.0},
    "1": {"": 1.0, "%": 1e-2, "ppm": 1e-6},
}

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\s\d]\S*)?\s*")


def parse_quantity(value: object, unit: str) -> float:
    """Return ``value`` as a number of ``unit``.

    A string is a number and one of the unit's spellings. A bare number is accepted only for the
    dimensionless unit ``"1"``.

    Raises:
        ValueError: with the accepted spellings, for anything else.
    """
    table = SPELLINGS[unit]
    accepted = ", ".join(spelling for spelling in table if spelling)
    example = f"{1:g} {next((s for s in table if s), '')}".strip()
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected a quantity such as '{example}', got {value!r}")
    if isinstance(value, (int, float)):
        number, spelling = _as_float(value), ""
    else:
        match = _QUANTITY.fullmatch(value[:64])
        if match is None or len(value) > 64:
            raise ValueError(f"cannot read {value[:64]!r} as a number and a unit ({accepted})")
        number, spelling = float(match[1]), match[2] or ""
    if not math.isfinite(number):
        raise ValueError(f"{_show(value)} is not a finite number")
    if spelling not in table:
        if not spelling:
            others = f" ({accepted})" if len(set(table.values())) > 1 else ""
            example = f"{number:g} {example[2:]}"
            raise ValueError(f"{value!r} has no unit; write for example '{example}'{others}")
        near = difflib.get_close_matches(spelling, [s for s in table if s], n=1, cutoff=0.5)
        nearest = f"; did you mean '{number:g} {near[0]}'?" if near else ""
        raise ValueError(f"unit {spelling!r} does not fit here; use {accepted}{nearest}")
    result = number * table[spelling]
    if not math.isfinite(result):
        raise ValueError(f"{value!r} is too large")
    return result


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond 1.8e308
        return math.inf


def _show(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return "this"
    return text if len(text) <= 60 else f"{text[:57]}..."


class Unit:
    """Annotation for a pydantic field: ``Annotated[float, Unit("A")]`` reads ``"120 mA"``.

    Validated with the context ``{"file": True}``, a bare number is refused, since a file must say
    its units; from code a number is taken in the SI unit. Dumped as JSON, the field carries its
    unit, so that a resolved configuration can be read back. pydantic finds the method below by
    its name; this room does not import pydantic.
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._suffix = next((f" {s}" for s, f in SPELLINGS[unit].items() if s and f == 1.0), "")

    def __repr__(self) -> str:
        return f"Unit({self.unit!r})"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Parse text with :func:`parse_quantity` before the field's own checks."""
        from pydantic_core import core_schema

        return core_schema.with_info_before_validator_function(
            self._parse,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: f"{value!r}{self._suffix}" if self._suffix else value,
                when_used="json-unless-none",
            ),
        )

    def _parse(self, value: object, info: Any) -> object:
        in_file = bool(info.context and info.context.get("file"))
        if isinstance(value, str) or in_file:
            return parse_quantity(value, self.unit)
        return value
