"""The pages of elements and of experiments name every key; run this file to write them anew."""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from bellbench.experiments import _PROTOCOLS
from bellbench.instruments import Unit
from bellbench.sims import elements as el
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

DOCS = Path(__file__).parents[1] / "docs"
HEAD = """\
# Elements of a world

Every kind of element that a [world file](files.md#world-what-the-optics-are) may have, with its
keys. **Bold** keys have to be given. Written by `python tests/test_docs_keys.py` from the
models in `sims/elements`.
"""
EXPERIMENTS_HEAD = """\
# Keys of an experiment

Every `protocol` of an [experiment file](files.md#experiment-what-to-run), with its keys. **Bold**
keys have to be given. Written by `python tests/test_docs_keys.py` from the models in `experiments`.
"""
PREFIXES = {-12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}


def kinds() -> dict[str, type[BaseModel]]:
    models = get_args(get_args(el.ElementModel)[0])
    return {get_args(m.model_fields["kind"].annotation)[0]: m for m in models}


def parts(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Mappings within an element, by key."""
    found: dict[str, type[BaseModel]] = {}
    for key, field in model.model_fields.items():
        open_types: list[Any] = [field.annotation]
        while open_types:
            one = open_types.pop()
            if inspect.isclass(one) and issubclass(one, BaseModel):
                found[key] = one
            open_types += get_args(one)
    return found


def sayings(model: type[BaseModel]) -> dict[str, str]:
    """What stands below each key in the source."""
    found: dict[str, str] = {}
    for cls in reversed([c for c in model.__mro__ if c.__module__.startswith("bellbench.")]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)
        for one, two in zip(body.body, body.body[1:], strict=False):
            if isinstance(one, ast.AnnAssign) and isinstance(two, ast.Expr):
                assert isinstance(one.target, ast.Name)
                assert isinstance(two.value, ast.Constant)
                found[one.target.id] = " ".join(str(two.value.value).split()).replace("``", "`")
    return found


def quantity(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) or value is None:
        return value or ""
    if isinstance(value, tuple):
        return f"[{', '.join(quantity(one, unit) for one in value)}]" if value else ""
    if not isinstance(value, (int, float)) or unit == "1":
        return f"{value:.5g}" if isinstance(value, (int, float)) else ""
    if value == math.inf:
        return "no end"
    if value and unit in ("s", "m", "A", "V", "Hz", "W"):
        power = max(p for p in PREFIXES if abs(value) >= 0.9999 * 10.0**p or p == -12)
        return f"{value / 10.0**power:.5g} {PREFIXES[power]}{unit}"
    return f"{value:.5g} {unit}" if unit else f"{value:.5g}"


def unit_of(field: Any) -> str:
    own = next((m.unit for m in field.metadata if isinstance(m, Unit)), "")
    return own or next(iter(re.findall(r"Unit\('([^']*)'", str(field.annotation))), "")


def table(model: type[BaseModel]) -> str:
    said = sayings(model)
    rows = ["| key | default | what it is |", "|---|---|---|"]
    for key, field in model.model_fields.items():
        if key in ("kind", "bellbench", "protocol"):
            continue
        unit, default = unit_of(field), field.default
        needed = default is PydanticUndefined
        name = f"**`{key}`**" if needed else f"`{key}`"
        value = f"in {unit}" if needed and unit not in ("", "1") else ""
        if not needed:
            value = quantity(default, unit)
            value = value or (f"(in {unit})" if unit not in ("", "1") else "")
        what = said.get(key, "").replace("|", "\\|")
        if get_origin(field.annotation) is Literal:
            what = f"{what} One of: {', '.join(map(str, get_args(field.annotation)))}.".strip()
        rows.append(f"| {name} | {value} | {what} |")
    return "\n".join(rows) if len(rows) > 2 else "No keys."


def section(title: str, model: type[BaseModel], level: str = "##") -> str:
    own = inspect.getmodule(model) if "protocol" in model.model_fields else model
    says = re.sub(r"; see :func:.*|:\w+:", "", inspect.getdoc(own) or "").replace("``", "`")
    first = " ".join(says.split("\n\n")[0].split())
    text = f"{level} `{title}`\n\n{first}\n\n{table(model)}\n"
    for key, part in parts(model).items():
        text += "\n" + section(f"{title}: {key}", part, "###")
    return text


def page() -> str:
    return "\n".join([HEAD, *(section(kind, model) for kind, model in kinds().items())])


def protocols() -> dict[str, type[BaseModel]]:
    return {name: experiment.file for name, experiment in _PROTOCOLS.items()}


def experiments_page() -> str:
    return "\n".join([EXPERIMENTS_HEAD, *(section(p, model) for p, model in protocols().items())])


@pytest.mark.parametrize("protocol", protocols())
def test_every_protocol_stands_in_the_docs_with_every_key(protocol: str) -> None:
    files = (DOCS / "files.md").read_text(encoding="utf-8")
    assert f"| `{protocol}` |" in files, f"add {protocol} to the table of docs/files.md"
    text = (DOCS / "experiments.md").read_text(encoding="utf-8")
    assert section(protocol, protocols()[protocol]) in text, "run 'python tests/test_docs_keys.py'"


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_element_stands_in_the_docs_with_every_key(kind: str) -> None:
    files = (DOCS / "files.md").read_text(encoding="utf-8")
    assert f"| `{kind}` |" in files, f"add {kind} to the table of docs/files.md"
    text = (DOCS / "elements.md").read_text(encoding="utf-8")
    remedy = "run 'python tests/test_docs_keys.py'"
    assert f"\n## `{kind}`\n" in text, remedy
    here = text.split(f"\n## `{kind}`\n")[1].split("\n## ")[0]
    models = [kinds()[kind], *parts(kinds()[kind]).values()]
    for model in models:
        for key in model.model_fields.keys() - {"kind"}:
            assert f"`{key}`" in here, f"{kind}.{key}: {remedy}"


if __name__ == "__main__":
    for name, text in (("elements", page()), ("experiments", experiments_page())):
        (DOCS / f"{name}.md").write_text(text, encoding="utf-8", newline="\n")
