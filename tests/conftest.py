"""For every test: a property may take its time on a loaded machine; no test asserts a wall time."""

from hypothesis import settings

settings.register_profile("bellbench", deadline=None)
settings.load_profile("bellbench")
