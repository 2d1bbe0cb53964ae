"""The gallery: its files, its verdicts, its table and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bellbench import gallery
from bellbench.cli import app
from bellbench.configs import gallery_entries
from bellbench.experiments import check_file
from bellbench.gallery import Comparison, compare, load_entry, load_gallery
from bellbench.instruments import ConfigError
from typer.testing import CliRunner

LINKS = "neumann_2021_cw_links"

PUBLISHED = """\
bellbench: gallery/1
title: A link
source: {citation: A. Nobody, url: "https://doi.org/10.1000/1", checked: all of it}
inputs: {paper: [loss]}
runs:
  one:
    experiment: link.yaml
    closed_form:
      {kind: cw_link, pair_rate: 1 MHz, loss: [10 dB, 10 dB], dark_rate: [0 Hz, 0 Hz],
       window: 1 ns, peak: 0.1 ns, error: 1 %}
results:
  - {run: one, quantity: QBER, metric: qber, published: 4.5 %, uncertainty: 0.1 %,
     tolerance: 10 %, why: so, origin: predicted}
  - {run: one, quantity: key, metric: key_rate_bps, published: 0.43 bit/s,
     tolerance: 0 %, why: so, origin: fitted}
  - {run: one, quantity: rate, metric: true_hz, published: closed form, unit: kcps,
     tolerance: 1 %, why: so, origin: predicted}
  - {run: one, quantity: g2, metric: storage.1.g2, published: 2.0,
     tolerance: 1 %, why: so, origin: predicted}
"""
EXPERIMENT = """\
bellbench: experiment/1
protocol: link_characterization
duration: 1 s
calibration: 0.2 s
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "a_link"
    found.mkdir()
    (found / "published.yaml").write_text(PUBLISHED, encoding="utf-8")
    bench = gallery_entries()["wengerowsky_2018_mesh"] / "bench_alice_bob.yaml"
    (found / "link.yaml").write_text(EXPERIMENT + f"bench: {bench}\n", encoding="utf-8")
    return found


@pytest.mark.parametrize("name", gallery_entries())
def test_every_entry_is_in_order_and_says_where_it_comes_from(name: str) -> None:
    (entry,) = load_gallery([name])
    assert entry.name == name
    assert entry.file.inputs.paper
    fitted = {each.origin for each in entry.file.results} & {"fitted"}
    assert bool(fitted) <= bool(entry.file.inputs.fitted)  # what is fitted names its input
    pictures = {run.picture for run in entry.file.runs.values()} - {None}
    assert all(str(each).endswith(".png") for each in pictures)


def test_an_unknown_entry_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=f"no gallery entry 'neumann_2021'.*{LINKS}"):
        load_gallery(["neumann_2021"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("title:", "titel:", "2:1: titel: unknown key; did you mean 'title'"),
        ("4.5 %", "4.5 furlongs", "results.0.published"),
        ("unit: kcps", "unit: kcp", "unit 'kcp' is not known; did you mean 'kcps'"),
        ("metric: true_hz", "metric: true_khz", "results.2.metric: the closed form says nothing"),
        ("{run: one, quantity: g2", "{run: two, quantity: g2", "results.3.run: no run 'two'"),
        ("origin: fitted", "origin: guessed", "'guessed' does not fit here"),
        ("loss: [10 dB, 10 dB]", "loss: [10 dB]", "loss"),
        ("https://doi", "doi", "source.url"),
    ],
)
def test_a_mistake_is_named_with_its_place(folder: Path, old: str, new: str, expected: str) -> None:
    text = (folder / "published.yaml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    (folder / "published.yaml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_entry(folder)
    assert expected in str(caught.value)
    assert "published.yaml:" in str(caught.value)
    told = "\n".join(map(str, check_file(folder / "published.yaml")))
    assert told == str(caught.value)


def test_verdicts_leave_room_for_tolerance_and_counting_only(folder: Path) -> None:
    metrics = {
        "qber": {"value": 0.0502, "sigma": 0.0001, "n": 5},
        "key_rate_bps": {"value": 0.9, "sigma": 0.1, "n": 5},
        "true_hz": {"value": 9_990.0, "sigma": 1.0, "n": 5},
        "storage": [{}, {"g2": None}],
    }
    qber, key, rate, g2 = compare(load_entry(folder), {"one": metrics})
    # 10 % of 4.5 % and 3 sigma of 0.1 % and 0.01 %: 0.7515 %
    assert qber.room == pytest.approx(0.45 + 3 * 0.1**0.5 * (0.1 + 0.001) ** 0.5, rel=1e-3)
    assert qber.ours == pytest.approx(5.02)
    assert (qber.verdict, qber.unit) == ("within errors", "%")
    assert qber.published_text == "4.50 ± 0.10 %"
    assert (key.verdict, key.published_text) == ("misses", "0.43 bit/s")
    assert rate.published == pytest.approx(10.0, rel=1e-3)
    assert (rate.verdict, rate.unit, rate.ours_text) == ("agrees", "kcps", "9.9900 ± 0.0010 kcps")
    assert (g2.ours, g2.verdict, g2.ours_text) == (None, "misses", "-")


def test_the_command_prints_a_table_and_writes_a_page(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cheap run through the wires, whose miss is shown and is no error."""
    text = (folder / "published.yaml").read_text(encoding="utf-8")
    cut = text.index("  - {run: one, quantity: key")
    (folder / "published.yaml").write_text(text[:cut], encoding="utf-8")
    monkeypatch.setattr(gallery, "gallery_entries", lambda: {"a_link": folder})
    runner = CliRunner()
    out = tmp_path / "docs"
    arguments = ["gallery", "--entry", "a_link", "--duration", "0.6 s", "--out", str(out)]
    result = runner.invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.output.splitlines() if " QBER " in line]
    assert "a_link: A link" in result.output
    assert row.split()[:2] == ["one", "QBER"]
    assert row.split()[-2:] == ["predicted", "misses"]
    assert "0 agree, 0 within errors, 1 miss; seed 1" in result.output
    page = (out / "gallery.md").read_text(encoding="utf-8")
    assert "[A. Nobody](https://doi.org/10.1000/1)" in page
    assert "**misses**" in page
    assert (out / "img" / "gallery" / "ratios.png").read_bytes()[:4] == b"\x89PNG"
    assert runner.invoke(app, ["gallery", "--duration", "1 parsec"]).exit_code == 2


def test_a_new_page_takes_only_its_own_old_pictures_away(tmp_path: Path, folder: Path) -> None:
    pictures = tmp_path / "img" / "gallery"
    pictures.mkdir(parents=True)
    for name in ("gone-one.png", "mine.png"):
        (pictures / name).write_bytes(b"")
    old = "![one](img/gallery/gone-one.png)\n![two](img/gallery/../../etc.png)\n"
    (tmp_path / "gallery.md").write_text(old, encoding="utf-8")
    (tmp_path / "etc.png").write_bytes(b"")
    entry = load_entry(folder)
    metrics = {"one": {"qber": 0.05}}
    for _ in range(2):
        gallery.write_page(
            tmp_path, [entry], compare(entry, metrics), {"a_link": {"one": tmp_path}}, command="so"
        )
        left = {each.name for each in pictures.iterdir()}
        assert left == {"mine.png", "ratios.png", "a_link-key.png"}
    assert (tmp_path / "etc.png").exists()


def test_json_is_the_comparison(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Comparison("a", "one", "QBER", "qber", 4.5, 0.1, 4.6, 0.2, "%", 0.1, "so", "predicted")
    monkeypatch.setattr(gallery, "gallery_entries", lambda: {"a_link": folder})
    monkeypatch.setattr(gallery, "run_entry", lambda *args, **more: ([found], {"one": folder}))
    result = CliRunner().invoke(app, ["gallery", "--json"])
    assert result.exit_code == 0
    (row,) = json.loads(result.stdout.strip().splitlines()[-1])
    assert (row["ours"], row["verdict"]) == (4.6, "agrees")
