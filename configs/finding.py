"""Find a configuration file: one of our own by its bare name, or the user's by its path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..instruments import ConfigError
from .documents import Document, read
from .report import nearest

__all__ = ["bundled", "find_config", "gallery_entries", "read_config"]


def bundled(folder: str) -> dict[str, Path]:
    """Return the bundled files of ``folder`` (benches, worlds, experiments) by bare name."""
    root = resources.files(__package__) / folder
    paths = [Path(str(item)) for item in root.iterdir()] if root.is_dir() else []
    return {path.stem: path for path in sorted(paths) if path.suffix == ".yaml"}


def gallery_entries() -> dict[str, Path]:
    """Return the folders of the gallery's entries by name."""
    root = Path(str(resources.files(__package__) / "gallery"))
    return {path.parent.name: path.parent for path in sorted(root.glob("*/published.yaml"))}


def find_config(name: str | Path, *folders: str, beside: Path | None = None) -> Path:
    """Return the path of a configuration file.

    Args:
        name: A bare name is a bundled file; with a folder or ``.yaml`` it is a path.
        folders: ``benches``, ``worlds`` or ``experiments``; of several the first that has it.
        beside: The file that names it; relative paths are relative to that file.

    Raises:
        ConfigError: for an unknown bundled name.
    """
    text = str(name)
    path = Path(text)
    bare = path.name == text and path.suffix not in (".yaml", ".yml")
    if isinstance(name, Path) or not bare:
        return path if beside is None else beside.parent / path
    files: dict[str, Path] = {}
    for folder in reversed(folders):
        files |= bundled(folder)
    if text not in files:
        raise ConfigError(
            f"no bundled file {text!r} in {', '.join(folders)} (one of your own is named with its"
            f" ending, .yaml){nearest(text, files)}"
        )
    return files[text]


def read_config(path: Path, kind: str) -> Document:
    """Read a file and check its header, ``bellbench: kind/1``.

    Args:
        path: The file.
        kind: ``bench``, ``world``, ``experiment`` or ``gallery``.

    Raises:
        ConfigError: where it cannot be read or is of another kind.
    """
    document = read(path)
    expected = f"{kind}/1"
    header = document.data.get("bellbench")
    if header == expected:
        return document
    if header is None:
        raise ConfigError(
            f"the first line must say what the file is: 'bellbench: {expected}'",
            place=document.place(()),
        )
    place = document.place(("bellbench",))
    found = str(header)[:40]
    if found.partition("/")[0] == kind:
        raise ConfigError(f"version {found!r} is not known; this is {expected}", place=place)
    raise ConfigError(f"is a {found!r} file, {expected!r} is needed here", place=place)
