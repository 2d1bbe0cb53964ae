"""Ways to carry bytes to an instrument. The modules load their library when opened."""

from .endpoint import Endpoint

__all__ = ["Endpoint"]
