"""What is installed is what the folders say."""

import importlib.metadata
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
OUTSIDE = {"tests", "docs", "build", "benchmarks", "dist"}  # not part of the package
ROOMS = {"configs", "drivers", "instruments", "protocols", "sims"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_folder_of_the_package_is_listed(project: dict[str, Any]) -> None:
    found = {"bellbench"}
    for init in ROOT.glob("*/**/__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if parts[0] not in OUTSIDE and not any(part.startswith(".") for part in parts):
            found.add(".".join(("bellbench", *parts)))
    assert set(project["tool"]["setuptools"]["packages"]) == found


def test_no_root_module_is_named_like_a_dependency(project: dict[str, Any]) -> None:
    installed = set(importlib.metadata.packages_distributions())
    ours = {path.stem for path in ROOT.glob("*.py")} | {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    }
    assert not (ours - {"__init__", "__main__"}) & (installed - {"tests", "docs"})


def test_root_modules_are_kept_out_of_the_rooms(project: dict[str, Any]) -> None:
    """A new root module must be added to the import contracts."""
    ours = {f"bellbench.{path.stem}" for path in ROOT.glob("*.py")}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - OUTSIDE
    ours |= {f"bellbench.{name}" for name in folders - ROOMS}
    contracts = {c["name"]: c for c in project["tool"]["importlinter"]["contracts"]}
    listed = contracts["rooms never import the root modules"]["forbidden_modules"]
    assert set(listed) == ours - {"bellbench.__init__", "bellbench.__main__"}


def test_metadata_tells_people_what_it_is() -> None:
    metadata = importlib.metadata.metadata("bellbench")
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert importlib.metadata.version("bellbench") == "0.1.0"
