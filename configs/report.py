"""Turn every mistake in a file into one located sentence; collect them all before giving up."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..instruments import ConfigError, Unit
from .documents import Document, Loc, describe

__all__ = ["ConfigErrors", "Report", "nearest"]

M = TypeVar("M", bound=BaseModel)

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "keys and values (a mapping)",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "mapping_type": "keys and values (a mapping)",
    "model_attributes_type": "keys and values (a mapping)",
    "model_type": "keys and values (a mapping)",
    "string_type": "text",
    "tuple_type": "a list",
}


class ConfigErrors(ConfigError):  # noqa: N818 - the plural says what it is
    """All mistakes of one file; its text has one line for each.

    Attributes:
        errors: The mistakes, in the order of the file.
    """

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = list(errors)
        super().__init__("\n".join(str(error) for error in self.errors))
        self.place = self.errors[0].place


class Report:
    """Collects the mistakes of one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._errors: list[ConfigError] = list(document.repeated)

    @property
    def errors(self) -> list[ConfigError]:
        """The mistakes so far, in the order of the file."""
        return sorted(dict.fromkeys(self._errors), key=_line_and_column)

    def add(self, loc: Loc, message: str, *, key: bool = False) -> None:
        """Note a mistake of the value (or of the key itself) at ``loc``."""
        where = ".".join(str(step) for step in loc)
        place = self.document.place(loc, key=key)
        error = ConfigError(f"{where}: {message}" if where else message, place=place)
        if str(error) not in {str(known) for known in self._errors}:
            self._errors.append(error)

    def validate(self, model: type[M], loc: Loc = (), *, without: Sequence[str] = ()) -> M | None:
        """Validate the value at ``loc`` as ``model``; note every mistake and return None on any.

        Args:
            model: A pydantic model; its quantities must carry units.
            loc: Where its mapping stands.
            without: Keys of that mapping that are not the model's.
        """
        data = lookup(self.document.data, loc)
        if without and isinstance(data, dict):
            data = {k: v for k, v in data.items() if k not in without}
        return self.validate_data(model, {} if data is None else data, loc)

    def validate_data(self, model: type[M], data: object, loc: Loc) -> M | None:
        """Validate ``data``, whose parts stand in the file at ``loc`` and below."""
        try:
            return model.model_validate(data, context={"file": True})
        except ValidationError as error:
            for item in error.errors(include_url=False):
                self._explain(model, item, loc)
            return None

    def check(self) -> None:
        """Raise what was collected.

        Raises:
            ConfigErrors: with every mistake, if there is any.
        """
        if self._errors:
            raise ConfigErrors(self.errors)

    def _explain(self, model: type[BaseModel], item: Mapping[str, Any], base: Loc) -> None:
        kind, context = item["type"], item.get("ctx", {})
        steps = [step for step in item["loc"] if step != "[key]"]
        loc = (*base, *_strip_tags(lookup(self.document.data, base), steps, kind == "missing"))
        value = lookup(self.document.data, loc)
        if item["loc"][-1:] == ("[key]",):
            wanted = _EXPECTED.get(kind, item["msg"])
            self.add(loc, f"as a key, expected {wanted}, got {describe(loc[-1])}", key=True)
        elif kind == "missing":
            parent = lookup(self.document.data, loc[:-1])
            if isinstance(parent, list):
                self.add(loc[:-1], f"has too few items ({len(parent)})")
            else:
                self.add(loc[:-1], f"key {loc[-1]!r} is missing", key=True)
        elif kind == "extra_forbidden":
            owner = _model_at(model, steps[:-1])
            valid = [f.alias or n for n, f in owner.model_fields.items()] if owner else []
            self.add(loc, f"unknown key{nearest(str(loc[-1]), valid)}", key=True)
        elif kind == "union_tag_invalid":
            tag = context["discriminator"].strip("'")
            valid = re.findall(r"'([^']*)'", context["expected_tags"])
            given = describe(context["tag"])
            self.add((*loc, tag), f"unknown {tag} {given}{nearest(str(context['tag']), valid)}")
        elif kind == "union_tag_not_found":
            tag = context["discriminator"].strip("'")
            self.add(loc, f"key {tag!r} is missing", key=True)
        elif kind in ("literal_error", "enum"):
            valid = re.findall(r"'([^']*)'", context["expected"])
            self.add(loc, f"{describe(value)} does not fit here{nearest(str(value), valid)}")
        elif kind in _EXPECTED:
            self.add(loc, f"expected {_EXPECTED[kind]}, got {describe(value)}")
        elif kind == "too_short" and isinstance(value, (list, dict)):
            # pydantic counts the valid items only; the others have an error of their own
            if len(value) < context["min_length"]:
                self.add(loc, f"needs {context['min_length']} or more items, has {len(value)}")
        elif kind in ("value_error", "assertion_error"):
            # pydantic puts "Value error, " before the validator's own words
            self.add(loc, item["msg"].partition(", ")[2])
        else:
            words = item["msg"].replace("Input should", "should").replace("Value should", "should")
            limit = next((context[k] for k in ("gt", "ge", "lt", "le") if k in context), None)
            if limit:  # pydantic writes 0.000000000001, and knows no unit
                words = f"{words.rpartition(' ')[0]} {limit:g}{_unit_at(model, steps)}"
            hint = ""
            if context.get("le") == 1 and isinstance(value, (int, float)) and 2 <= value <= 100:
                hint = f"; did you mean '{value:g} %'?"
            self.add(loc, f"{words[0].lower()}{words[1:]}, got {describe(value)}{hint}")


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or the valid names where none is near."""
    names = list(valid)
    folded = {n.casefold(): n for n in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {folded[near[0]]!r}?"
    return f"; valid: {', '.join(names)}" if names else ""


def lookup(data: object, loc: Loc) -> object:
    """Return the value at ``loc``, or None where there is none."""
    for step in loc:
        data = _child(data, step)
    return None if data is _ABSENT else data


def _strip_tags(data: object, steps: Sequence[str | int], missing: bool) -> Loc:
    """Drop from pydantic's location what the file does not contain: tags of unions."""
    kept: list[str | int] = []
    for i, step in enumerate(steps):
        child = _child(data, step)
        if child is not _ABSENT:
            data = child
        elif not (missing and i == len(steps) - 1):
            continue
        kept.append(step)
    return tuple(kept)


def _child(data: object, step: str | int) -> object:
    if isinstance(data, dict):
        return data.get(step, _ABSENT)
    if isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data):
        return data[step]
    return _ABSENT


def _model_at(annotation: Any, steps: Sequence[str | int]) -> type[BaseModel] | None:
    """Follow pydantic's location through the annotations to the model that holds it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _model_at(get_args(annotation)[0], steps)
    if origin in (Union, types.UnionType):
        members = [m for m in get_args(annotation) if m is not type(None)]
        if len(members) == 1:
            return _model_at(members[0], steps)
        for member in members:
            if steps and _answers_to(member, steps[0]):
                return _model_at(member, steps[1:])
        return None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not steps:
            return annotation
        for name, info in annotation.model_fields.items():
            if steps[0] in (name, info.alias):
                return _model_at(info.annotation, steps[1:])
        return None
    arguments = get_args(annotation)
    if origin is None or not steps or not arguments:
        return None
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _model_at(arguments[1], steps[1:])
    return _model_at(arguments[0], steps[1:])


def _unit_at(model: type[BaseModel], steps: Sequence[str | int]) -> str:
    """Return the unit of the quantity at ``steps``, with a blank before it; empty where none."""
    owner = _model_at(model, steps[:-1])
    info = owner.model_fields.get(str(steps[-1])) if owner is not None and steps else None
    units = [m.unit for m in info.metadata if isinstance(m, Unit)] if info is not None else []
    return f" {units[0]}" if units and units[0] != "1" else ""


def _answers_to(member: Any, tag: str | int) -> bool:
    """Whether ``member`` of a union is what pydantic calls ``tag`` in its locations."""
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return False
    if member.__name__ == tag:
        return True
    return any(
        get_origin(info.annotation) is Literal and tag in get_args(info.annotation)
        for info in member.model_fields.values()
    )


_ABSENT = object()


def _line_and_column(error: ConfigError) -> tuple[int, int]:
    parts = error.place.rsplit(":", 2)
    if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
        return int(parts[1]), int(parts[2])
    return 0, 0
