"""What a person sees of a run, whatever its protocol."""

import io
import re

import pytest
from bellbench.live import Progress, View
from rich.console import Console

KEY = Progress(
    "exchanging",
    elapsed_s=1.5,
    duration_s=5.0,
    singles_hz={"alice": {"H": 2.5e5, "V": 2.4e5}, "bob": {"H": 1.2e5, "V": 1.3e5}},
    figures={"coincidences": "51,948", "QBER Z": "1.62 %"},
)
MEMORY = Progress(
    "storage time 30 µs [2/5]",
    singles_hz={"node": {"herald": 140.0, "c": 4.0}, "far": {"d": 12.5}},
)


def shown(*progress: Progress, terminal: bool = False) -> list[str]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, no_color=True)
    with View(console, "title") as view:
        for one in progress:
            view.show(one)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.getvalue()).splitlines()


def test_lines_tell_a_stage_once_per_second_of_bench_time() -> None:
    later = Progress("exchanging", elapsed_s=1.9, duration_s=5.0)
    assert shown(Progress("opening the bench"), KEY, later) == [
        "opening the bench",
        "exchanging 2/5 s  alice 490 kcps bob 250 kcps  coincidences 51,948  QBER Z 1.62 %",
    ]


def test_what_has_no_end_is_told_once_a_minute() -> None:
    lines = shown(*(Progress("exchanging", elapsed_s=s / 2) for s in range(400)))
    assert len(lines) == 60 + 3


def test_few_clicks_are_counted_one_by_one_and_brackets_are_no_markup() -> None:
    assert shown(MEMORY) == ["storage time 30 µs [2/5]  node 144 cps far 12 cps"]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (
            KEY,
            [
                ["exchanging", "1.5", "/", "5.0", "s"],
                ["singles,", "kcps"],
                ["H", "V"],
                ["alice", "250.0", "240.0"],
                ["bob", "120.0", "130.0"],
                ["coincidences", "51,948"],
                ["QBER", "Z", "1.62", "%"],
            ],
        ),
        (
            MEMORY,
            [
                ["storage", "time", "30", "µs", "[2/5]"],
                ["singles,", "cps"],
                ["herald", "c", "d"],
                ["node", "140.0", "4.0"],
                ["far", "12.5"],
            ],
        ),
    ],
)
def test_a_terminal_shows_rates_by_party_and_the_figures(
    progress: Progress, expected: list[list[str]]
) -> None:
    rows = [
        line.strip("│ ").translate({0x2501: " ", 0x2578: " "}).split()
        for line in shown(progress, terminal=True)
    ]
    position = 0
    for words in expected:
        assert words in rows[position:], (words, rows)
        position += rows[position:].index(words)
