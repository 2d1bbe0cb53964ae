"""How the loops in ``_kernels_*`` are compiled. Import this module lazily: it loads numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

__all__ = ["compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile at the first call and keep the result on the disk; it lets go of the interpreter."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))
