"""Read a YAML file and remember where in the file every key and value stands."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

from ..instruments import ConfigError

__all__ = ["Document", "Loc", "Mark", "dump", "parse", "read", "write"]

#: Where a value stands in a file: the keys and indices that lead to it.
Loc = tuple[str | int, ...]
#: Line and column, counted from 1.
Mark = tuple[int, int]

_SIZE_LIMIT = 1 << 20
_DEPTH_LIMIT = 32


@dataclass(frozen=True)
class Document:
    """A YAML file as plain values, with the place of everything in it.

    Attributes:
        path: The file, as errors show it.
        data: Mappings, lists, text, numbers, booleans and None.
        values: Place of each value.
        keys: Place of each key.
        repeated: One error for each key that stands twice in a mapping; the first one counts.
    """

    path: Path
    data: dict[Any, Any]
    values: dict[Loc, Mark] = field(default_factory=dict)
    keys: dict[Loc, Mark] = field(default_factory=dict)
    repeated: list[ConfigError] = field(default_factory=list)

    def place(self, loc: Loc, *, key: bool = False) -> str:
        """Return ``file:line:column`` of the value (or the key) at ``loc``, or of its parent."""
        while loc:
            mark = self.keys.get(loc) if key else None
            mark = mark or self.values.get(loc)
            if mark:
                return f"{self.path}:{mark[0]}:{mark[1]}"
            loc, key = loc[:-1], True
        line, column = self.values.get((), (1, 1))
        return f"{self.path}:{line}:{column}"


def read(path: Path) -> Document:
    """Read a YAML file whose top is a mapping.

    Raises:
        ConfigError: where there is no such file, or it is no UTF-8 YAML mapping.
    """
    try:
        if path.is_dir():
            raise ConfigError("is a directory, not a YAML file", place=str(path))
        with path.open("rb") as file:
            raw = file.read(_SIZE_LIMIT + 1)
    except FileNotFoundError:
        raise ConfigError("no such file", place=str(path)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot be read: {reason}", place=str(path)) from error
    return parse(raw, path)


def parse(raw: bytes, path: Path) -> Document:
    """Parse the bytes of a YAML file; ``path`` is what errors call it.

    Raises:
        ConfigError: as for :func:`read`.
    """
    if len(raw) > _SIZE_LIMIT:
        raise ConfigError(f"is larger than {_SIZE_LIMIT >> 20} MiB", place=str(path))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        raise ConfigError(
            f"is not UTF-8 text (byte 0x{raw[error.start]:02x})", place=f"{path}:{line}:{column}"
        ) from None
    builder = _Builder(path)
    try:
        for event in _events(builder.yaml, text):
            builder.take(event)
    except ReaderError as error:
        position = int(error.position)
        line = text.count("\n", 0, position) + 1
        column = position - text.rfind("\n", 0, position)
        raise ConfigError(
            f"character U+{ord(text[position]):04X} is not allowed in YAML",
            place=f"{path}:{line}:{column}",
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(
            "; ".join(part for part in (error.problem, error.context) if part),
            place=f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path),
        ) from None
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        # The parser's own slips on broken input; none of them is the reader's doing.
        raise ConfigError(f"is not valid YAML: {error}", place=str(path)) from error
    if not builder.done:
        raise ConfigError("is empty", place=str(path))
    if not isinstance(builder.root, dict):
        raise ConfigError(
            f"must be keys and values (a mapping), not {describe(builder.root)}",
            place=f"{path}:1:1",
        )
    return Document(path, builder.root, builder.values, builder.keys, builder.repeated)


def write(path: Path, content: Mapping[str, object]) -> None:
    """Write plain values as YAML, UTF-8."""
    path.write_bytes(dump(content))


def dump(content: Mapping[str, object]) -> bytes:
    """Return plain values as YAML in UTF-8, in block style.

    In flow style ruamel.yaml writes the text ``:0`` without the quotes it needs there.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda *_: True
    stream = io.BytesIO()
    yaml.dump(dict(content), stream)
    return stream.getvalue()


def describe(value: object) -> str:
    """Name the kind of a YAML value for a sentence."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _events(yaml: YAML, text: str) -> Iterator[Event]:
    yield from yaml.parse(text)  # type: ignore[no-untyped-call, unused-ignore]


class _Builder:
    """Builds plain values from parser events; a stack, so that depth costs no recursion.

    The parser's events rather than a loader: they carry every mark, anchors and aliases (which can
    blow a small file up) are seen before they act, and no tag ever constructs an object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.yaml = YAML(typ="safe", pure=True)
        self.root: object = None
        self.done = False
        self.values: dict[Loc, Mark] = {}
        self.keys: dict[Loc, Mark] = {}
        self.repeated: list[ConfigError] = []
        self._stack: list[tuple[dict[Any, Any] | list[Any], Loc]] = []
        self._key: list[Any] = []  # pending key of each open mapping, _NO_KEY where none

    def take(self, event: Event) -> None:
        if isinstance(event, DocumentStartEvent) and self.done:
            raise self._error("a second document begins here; one file holds one", event)
        if getattr(event, "version", None) not in (None, (1, 2)):
            raise self._error("only YAML 1.2 is read", event)  # 1.1 takes `off` for false
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise self._error("anchors and aliases are not used here; write the value out", event)
        if isinstance(event, ScalarEvent):
            self._scalar(event)
        elif isinstance(event, MappingStartEvent):
            self._open({}, event)
        elif isinstance(event, SequenceStartEvent):
            self._open([], event)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._stack.pop()
            self._key.pop()

    def _scalar(self, event: Any) -> None:
        value = self._construct(event)
        if self._stack and isinstance(self._stack[-1][0], dict) and self._key[-1] is _NO_KEY:
            self._begin_pair(value, event)
        else:
            self._place(value, event)

    def _construct(self, event: Any) -> object:
        tag = self.yaml.resolver.resolve(ScalarNode, event.value, event.implicit)
        if event.tag is not None and not any(event.implicit):
            raise self._error(f"tag {event.tag} is not used here", event)
        kind = str(tag).rpartition(":")[2]
        node = ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        constructor = self.yaml.constructor
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return bool(constructor.construct_yaml_bool(node))
            if kind == "int":
                return int(constructor.construct_yaml_int(node))
            if kind == "float":
                return float(constructor.construct_yaml_float(node))
        except ValueError:
            raise self._error(f"cannot read {describe(event.value)} as a number", event) from None
        return str(event.value)

    def _open(self, container: dict[Any, Any] | list[Any], event: Any) -> None:
        if event.tag is not None and not event.implicit:
            raise self._error(f"tag {event.tag} is not used here", event)
        if self._stack and isinstance(self._stack[-1][0], dict) and self._key[-1] is _NO_KEY:
            raise self._error("a key must be a word or a number", event)
        if len(self._stack) >= _DEPTH_LIMIT:
            raise self._error(f"nested deeper than {_DEPTH_LIMIT} levels", event)
        loc = self._place(container, event)
        self._stack.append((container, loc))
        self._key.append(_NO_KEY)

    def _begin_pair(self, key: object, event: Any) -> None:
        mapping, loc = self._stack[-1]
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise self._error(f"a key must be a word or a number, not {describe(key)}", event)
        if key in mapping:
            line = self.keys[(*loc, key)][0]
            where = ".".join(str(step) for step in (*loc, key))
            message = f"{where}: this key stands twice; first in line {line}"
            self.repeated.append(self._error(message, event))
            self._key[-1] = _DROPPED
            return
        self.keys[(*loc, key)] = (event.start_mark.line + 1, event.start_mark.column + 1)
        self._key[-1] = key

    def _place(self, value: object, event: Any) -> Loc:
        """Put a value where it belongs and return its location."""
        loc: Loc = ()
        if self._stack:
            parent, parent_loc = self._stack[-1]
            if isinstance(parent, dict):
                key, self._key[-1] = self._key[-1], _NO_KEY
                if key is _DROPPED:
                    return (*parent_loc, "")
                parent[key] = value
                loc = (*parent_loc, key)
            else:
                parent.append(value)
                loc = (*parent_loc, len(parent) - 1)
        else:
            self.root = value
            self.done = True
        self.values[loc] = (event.start_mark.line + 1, event.start_mark.column + 1)
        return loc

    def _error(self, message: str, event: Any) -> ConfigError:
        mark = event.start_mark
        return ConfigError(message, place=f"{self.path}:{mark.line + 1}:{mark.column + 1}")


_NO_KEY = object()
_DROPPED = object()
