"""Bundled files by bare name, one's own by path, and the header that says what a file is."""

from __future__ import annotations

from pathlib import Path

import pytest
from bellbench.configs import bundled, find_config, read_config
from bellbench.instruments import ConfigError


def test_bundled_files_are_known_by_bare_name() -> None:
    assert {"metro", "metro_tdc1"} <= set(bundled("benches"))
    path = find_config("metro", "benches")
    assert path.is_file()
    assert path.parts[-3:] == ("configs", "benches", "metro.yaml")
    assert read_config(path, "bench").data["world"] == "metro"


def test_an_unknown_bundled_name_offers_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        find_config("metr", "worlds")
    assert str(caught.value) == (
        "no bundled file 'metr' in worlds (one of your own is named with its ending, .yaml);"
        " did you mean 'metro'?"
    )


def test_an_unknown_bundled_name_lists_all_where_none_is_near() -> None:
    with pytest.raises(ConfigError, match=r"valid: .*metro") as caught:
        find_config("zzz", "benches")
    assert caught.value.place == ""


@pytest.mark.parametrize("name", ["metro.yaml", "./metro", "sub/metro", "metro.yml"])
def test_an_ending_or_a_folder_makes_it_a_path(name: str) -> None:
    assert find_config(name, "benches") == Path(name)
    beside = Path("/lab/bench.yaml")
    assert find_config(name, "benches", beside=beside) == Path("/lab") / name


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    assert find_config(str(path), "worlds", beside=Path("/lab/bench.yaml")) == path
    assert find_config(path, "worlds") == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "1:1: the first line must say what the file is: 'bellbench: bench/1'"),
        ("bellbench: world/1\n", "1:12: is a 'world/1' file, 'bench/1' is needed here"),
        ("x: 1\nbellbench: bench/2\n", "2:12: version 'bench/2' is not known; this is bench/1"),
        ("bellbench: [bench]\n", "1:12: is a \"['bench']\" file, 'bench/1' is needed here"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(path, "bench")
    assert str(caught.value) == f"{path}:{message}"
