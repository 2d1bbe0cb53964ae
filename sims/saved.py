"""A world saved and resumed: what lasts while nobody looks.

Kept are the time, and of each element what its ``KEPT`` names: temperatures, the polarization of
fibres, the phase of clocks. Events that last are found again from the world file. Instruments are
not kept: on resuming they come up as when switched on, and the bench writes its settings again.
JSON, complex numbers as [re, im].
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..instruments import ConfigError

__all__ = ["read_state", "recall", "remember", "write_state"]

_FORMAT = "bellbench world state/1"


def remember(elements: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """Return what the elements keep, as JSON can hold it."""
    return {
        name: {key: _plain(getattr(element, key)) for key in element.KEPT}
        for name, element in elements.items()
        if hasattr(element, "KEPT")
    }


def recall(elements: Mapping[str, object], state: Mapping[str, Mapping[str, Any]]) -> None:
    """Give elements back what they kept.

    Raises:
        ConfigError: where the state is of another world; nothing has changed then.
    """
    kept = {n: e for n, e in elements.items() if hasattr(e, "KEPT")}
    if state.keys() != kept.keys():
        other = sorted(state.keys() ^ kept.keys())
        raise ConfigError(f"the state is of another world: they differ in {', '.join(other)}")
    found: list[tuple[object, str, Any]] = []
    for name, element in kept.items():
        if set(state[name]) != set(element.KEPT):
            raise ConfigError(f"the state of {name!r} is of another version; begin a new one")
        for key, value in state[name].items():
            try:
                found.append((element, key, _like(getattr(element, key), value)))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"the state of {name!r}: {key} is damaged ({error})") from None
    for element, key, value in found:
        setattr(element, key, value)


def write_state(path: Path, world: Mapping[str, Any]) -> None:
    """Write a state; the file is the old one or the new one, never half of it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps({"format": _FORMAT, **world}) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def read_state(path: Path) -> dict[str, Any]:
    """Read a state.

    Raises:
        ConfigError: where the file is none.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); delete it to begin anew") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ConfigError(f"{path}: no state of a world ({_FORMAT}); choose another file")
    elements, now, seed = (state.get(key) for key in ("elements", "now_ps", "seed"))
    if (
        type(now) is not int
        or type(seed) is not int
        or not 0 <= now < 1 << 62
        or not isinstance(elements, dict)
        or not all(isinstance(kept, dict) for kept in elements.values())
    ):
        raise ConfigError(f"{path}: the state is damaged; delete it to begin anew")
    return state


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if np.iscomplexobj(value):
            return np.stack([value.real, value.imag], axis=-1).tolist()
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _like(now: Any, value: Any) -> Any:
    """A saved value with the type and shape of what it replaces."""
    if isinstance(now, np.ndarray):
        found = np.asarray(value, np.float64)
        if np.iscomplexobj(now):
            found = found[..., 0] + 1j * found[..., 1]
        if found.shape != now.shape or not np.isfinite(found).all():
            raise ValueError(f"it has the shape {found.shape}")
        return found.astype(now.dtype)
    if isinstance(now, (list, tuple)):
        if not isinstance(value, list) or len(value) != len(now):
            raise ValueError(f"it is {value!r}")
        return type(now)(_like(a, b) for a, b in zip(now, value, strict=True))
    if now is None:
        return None if value is None else np.asarray(value, np.float64)
    if isinstance(now, (bool, str)):
        if type(value) is not type(now):
            raise ValueError(f"it is {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"it is {value!r}")
    return type(now)(value)
