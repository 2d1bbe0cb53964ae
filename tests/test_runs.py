"""A run folder's name tells whether the run finished, and secrets are the user's alone."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from bellbench.instruments import BellbenchError
from bellbench.runs import RunFolder, versions


def test_a_finished_run_gets_its_final_name(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs", "bbm92") as folder:
        assert folder.path.name.endswith(".running")
        folder.write_json("metrics.json", {"qber": 0.01})
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [folder.path.name]
    assert "." not in folder.path.name
    assert json.loads((folder.path / "metrics.json").read_text()) == {"qber": 0.01}


def test_a_run_that_fails_does_not_look_finished(tmp_path: Path) -> None:
    with pytest.raises(BellbenchError), RunFolder(tmp_path, "bbm92") as folder:
        raise BellbenchError("the fibre is cut")
    assert folder.path.name.endswith(".failed")
    assert "the fibre is cut" in (folder.path / "error.txt").read_text()


def test_two_runs_of_one_second_do_not_meet(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "x") as a, RunFolder(tmp_path, "x") as b:
        assert a.path != b.path
    assert len(list(tmp_path.iterdir())) == 2


def test_keys_are_written_for_the_user_alone_and_never_over_another(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "x") as folder:
        folder.write_secret("alice.key", b"\x01\x02")
        with pytest.raises(BellbenchError, match=r"cannot write .*alice\.key: File exists"):
            folder.write_secret("alice.key", b"\x03")
    key = folder.path / "alice.key"
    assert key.read_bytes() == b"\x01\x02"
    if sys.platform != "win32":
        assert stat.S_IMODE(os.stat(key).st_mode) == 0o600


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BellbenchError, match="cannot make the run folder"):
        RunFolder(tmp_path / "file", "x")


def test_numbers_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    with RunFolder(tmp_path, "x") as folder, pytest.raises(ValueError, match="JSON"):
        folder.write_json("metrics.json", {"qber": float("nan")})


def test_versions_name_what_a_result_depends_on() -> None:
    assert {"python", "numpy", "bellbench"} <= set(versions())
