"""A few damaged files of every format; by the ten thousand with `pytest -m slow tests/fuzz`."""

import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest
from bellbench.instruments.formats import FORMATS


def _harness() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "bellbench_fuzz_tags", Path(__file__).with_name("fuzz_tags.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


harness = _harness()


def _needs(name: str) -> None:
    if name == "photon_hdf5":
        pytest.importorskip("h5py")


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    _needs(name)
    found = harness.fuzz(name, 60, 5, tmp_path, limits=False)
    assert found["damaged"] + found["refused"] > 20


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_by_the_ten_thousand(name: str, tmp_path: Path) -> None:
    """``pytest --rootdir=tests -m slow tests/fuzz``; more with tests/fuzz/fuzz_tags.py."""
    _needs(name)
    harness.fuzz(name, 2_000 if name == "photon_hdf5" else 20_000, 6, tmp_path)


def test_the_harness_notices_what_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bellbench.instruments.formats import swabian

    late = struct.pack("<BBHiqBBHiq", 0, 0, 0, 1, 5, 1, 0, 0, 0, 2**63 - 1)
    checker = harness.Checker("swabian", tmp_path)
    checker.case(late)
    monkeypatch.setattr(swabian, "_LATEST_PS", 2**63 - 1)
    with pytest.raises(harness.BrokenError, match="do not fit 64 bits"):
        checker.case(late)
    checker.close()
