"""Run folders: everything a run leaves behind, and a name that tells a finished one.

A folder is ``NAME-TIME.running`` while the run goes on, ``NAME-TIME`` when it is complete and
``NAME-TIME.failed`` when an error ended it; ``error.txt`` then says which.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from . import configs
from .instruments import BellbenchError

__all__ = ["RunFolder", "versions"]

_PACKAGES = ("bellbench", "numpy", "scipy", "numba", "pydantic", "pyvisa", "pyserial", "pyzmq")


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


class RunFolder:
    """A new folder below ``out``; a context manager that gives it its final name.

    Args:
        out: Where runs are kept; made if it is not there.
        name: What ran.

    Raises:
        BellbenchError: where the folder cannot be made.
    """

    def __init__(self, out: Path, name: str) -> None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        for attempt in range(1000):
            final = out / (f"{name}-{stamp}" + (f"-{attempt}" if attempt else ""))
            running = final.with_name(final.name + ".running")
            if final.exists() or final.with_name(final.name + ".failed").exists():
                continue
            try:
                running.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise BellbenchError(
                    f"cannot make the run folder {running}: {error.strerror};"
                    " choose another place for runs (--out)"
                ) from error
            self.path = running
            self._final = final
            return
        raise BellbenchError(f"{out} holds a thousand runs of this second")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._fail(error)
            return
        with self.writing():
            self.path.rename(self._final)
        self.path = self._final

    def _fail(self, error: BaseException) -> None:
        failed = self._final.with_name(self._final.name + ".failed")
        notes = "\n".join(getattr(error, "__notes__", []))
        text = f"{type(error).__name__}: {error}\n{notes}".rstrip() + "\n"
        try:
            self.path.rename(failed)
            self.path = failed
            (failed / "error.txt").write_text(text, encoding="utf-8")
        except OSError as another:
            # the error that ended the run matters more than what cannot be kept of it
            error.add_note(f"and while closing the run folder {self.path}: {another.strerror}")
        else:
            error.add_note(f"what there is of the run: {failed}")

    @contextlib.contextmanager
    def writing(self, name: str = "") -> Iterator[Path]:
        """Give the path of a file to write; what the disk refuses is an error of ours.

        Raises:
            BellbenchError: where the block raises :class:`OSError`.
        """
        path = self.path / name
        try:
            yield path
        except OSError as error:
            raise BellbenchError(
                f"cannot write {error.filename or path}: {error.strerror or error}"
            ) from error

    def write_json(self, name: str, content: object) -> None:
        """Write ``content`` as indented JSON."""
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        with self.writing(name) as path:
            path.write_text(text + "\n", encoding="utf-8")

    def write_yaml(self, name: str, content: Mapping[str, object]) -> None:
        """Write ``content`` as YAML."""
        with self.writing(name) as path:
            configs.write(path, content)

    def write_secret(self, name: str, content: bytes) -> None:
        """Write bytes that only the user may read (mode 0600; Windows uses the folder's rights)."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with self.writing(name) as path, os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(content)
