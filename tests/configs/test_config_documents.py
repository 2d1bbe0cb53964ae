"""YAML with the place of everything, and its mistakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from bellbench.configs import Document, parse, read
from bellbench.configs.documents import dump
from bellbench.instruments import ConfigError
from hypothesis import given, settings
from hypothesis import strategies as st

FILE = Path("f.yaml")


def load(text: str) -> Document:
    return parse(text.encode(), FILE)


def refusal(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text if isinstance(text, bytes) else text.encode(), FILE)
    return str(caught.value)


def test_values_are_those_of_yaml_1_2() -> None:
    document = load(
        "a: [1, -2.5, 1e7, 0x10, 0o17, true, off, yes, ~, 2024-01-01, '1', \"2\", 100 mA]\n"
        "b: {c: .inf, 3: text}\n"
        "d:\n"
        "e: |\n  two\n  lines\n"
    )
    assert document.data == {
        "a": [1, -2.5, 1e7, 16, 15, True, "off", "yes", None, "2024-01-01", "1", "2", "100 mA"],
        "b": {"c": math.inf, 3: "text"},
        "d": None,
        "e": "two\nlines\n",
    }


def test_every_key_and_value_has_its_place() -> None:
    document = load("# note\nlaser:\n  current: 90 mA\n  list: [1, {deep: x}]\n")
    assert document.place(()) == "f.yaml:2:1"
    assert document.place(("laser",), key=True) == "f.yaml:2:1"
    assert document.place(("laser",)) == "f.yaml:3:3"
    assert document.place(("laser", "current"), key=True) == "f.yaml:3:3"
    assert document.place(("laser", "current")) == "f.yaml:3:12"
    assert document.place(("laser", "list", 1, "deep")) == "f.yaml:4:20"
    assert document.place(("laser", "absent")) == "f.yaml:2:1"
    assert document.place(("nowhere", 3, "x")) == "f.yaml:2:1"


def test_a_key_that_stands_twice_is_reported_and_the_first_counts() -> None:
    document = load("a: 1\nb:\n  1: H\n  1: {x: [2]}\n  2: V\na: 3\n")
    assert document.data == {"a": 1, "b": {1: "H", 2: "V"}}
    assert [str(error) for error in document.repeated] == [
        "f.yaml:4:3: b.1: this key stands twice; first in line 3",
        "f.yaml:6:1: a: this key stands twice; first in line 1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml: is empty"),
        ("# only a comment\n", "f.yaml: is empty"),
        ("- a\n- b\n", "f.yaml:1:1: must be keys and values (a mapping), not a list"),
        ("just text", "f.yaml:1:1: must be keys and values (a mapping), not 'just text'"),
        ("a: [1\nb: 2\n", "f.yaml:2:2: expected ',' or ']', but got ':'; while parsing a flow"),
        ("a: b: c\n", "f.yaml:1:5: mapping values are not allowed here"),
        ("a: 1\n\tb: 2\n", "f.yaml:2:1: found character '\\t' that cannot start any token"),
        ("a: 1\n  b: 2\n", "f.yaml:2:4: mapping values are not allowed here"),
        ("a: 'open\n", "f.yaml:2:1: found unexpected end of stream; while scanning a quoted"),
        ("a: &x 1\nb: *x\n", "f.yaml:1:4: anchors and aliases are not used here; write the value"),
        ("a: *x\n", "f.yaml:1:4: anchors and aliases are not used here"),
        ("a: !!python/object:os.system 1\n", "f.yaml:1:4: tag tag:yaml.org,2002:python/object:os"),
        ("a: !mine {b: 1}\n", "f.yaml:1:4: tag !mine is not used here"),
        ("[a]: 1\n", "f.yaml:1:1: a key must be a word or a number"),
        ("true: 1\n", "f.yaml:1:1: a key must be a word or a number, not True"),
        ("1.5: 1\n", "f.yaml:1:1: a key must be a word or a number, not 1.5"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document begins here; one file holds one"),
        ("%YAML 1.1\n---\na: off\n", "f.yaml:2:1: only YAML 1.2 is read"),
        ("a: 1\nb: \x07\n", "f.yaml:2:4: character U+0007 is not allowed in YAML"),
        (b"a: 1\nbc: \xff\n", "f.yaml:2:5: is not UTF-8 text (byte 0xff)"),
        ("a: " + "[" * 40, "f.yaml:1:35: nested deeper than 32 levels"),
        ("a: " + "9" * 5000, "f.yaml:1:4: cannot read '99999"),
        (b"a: " + b"x" * (1 << 20), "f.yaml: is larger than 1 MiB"),
    ],
)
def test_what_is_no_mapping_in_yaml_is_refused_with_its_place(
    text: str | bytes, message: str
) -> None:
    assert refusal(text).startswith(message)


def test_a_byte_order_mark_is_no_content() -> None:
    assert parse("\ufeffa: 1\n".encode(), FILE).place(("a",), key=True) == "f.yaml:1:1"


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path / "no.yaml")
    assert str(caught.value) == f"{tmp_path / 'no.yaml'}: no such file"
    with pytest.raises(ConfigError) as caught:
        read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a directory, not a YAML file"
    with pytest.raises(ConfigError, match="cannot be read"):
        read(Path("x" * 5000 + ".yaml"))
    with pytest.raises(ConfigError):
        read(Path("nul\0.yaml"))


def test_a_file_is_read_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "ok.yaml"
    path.write_text("µ: 18 µA\n", encoding="utf-8")
    assert read(path).data == {"µ": "18 µA"}
    assert read(path).place(("µ",)) == f"{path}:1:4"


YAMLISH = st.text(alphabet=st.sampled_from("ab1:-{}[],'\"#&*!|>%@? \n\t~.0x_e"), max_size=60)


@given(st.one_of(st.binary(max_size=200), YAMLISH.map(str.encode), st.text().map(str.encode)))
@settings(max_examples=400)
def test_any_bytes_are_a_mapping_or_a_config_error(raw: bytes) -> None:
    try:
        document = parse(raw, FILE)
    except ConfigError:
        return
    assert isinstance(document.data, dict)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**18), 10**18),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=8),
    st.sampled_from(["off", "yes", "null", "1", "100 mA", "2024-01-01", "1e3", "#x", "a: b"]),
)
KEYS = st.one_of(st.integers(0, 99), st.text("abcxyzäµ", min_size=1))
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=10,
    ),
    min_size=1,
    max_size=4,
)


@given(TREES)
@settings(max_examples=150, deadline=None)
def test_what_the_library_writes_reads_back(tree: dict[Any, Any]) -> None:
    assert parse(dump(tree), FILE).data == tree
