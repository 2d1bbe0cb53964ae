"""Bellbench: lab control for quantum-network benches.

Drivers, wire-level twins, and the protocols above them::

    import bellbench

    with bellbench.open_bench("metro", twin=True) as lab:
        lab.source.pump_current.set(0.1)
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bench import Lab, open_bench

__all__ = ["Lab", "__version__", "open_bench"]

__version__ = _version("bellbench")


def __getattr__(name: str) -> object:
    # `import bellbench` stays fast: pydantic, pyvisa and zmq load with the first bench.
    if name in ("Lab", "open_bench"):
        from . import bench

        return getattr(bench, name)
    raise AttributeError(f"module 'bellbench' has no attribute {name!r}")
