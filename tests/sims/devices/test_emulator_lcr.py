"""The LCR's twin on its own wire, and its cells."""

import itertools
import socket
from typing import Any

import numpy as np
import pytest
from bellbench.instruments import ConfigError
from bellbench.sims.devices.lcr import LCREmulator
from bellbench.sims.elements import LiquidCrystals, LiquidCrystalsModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


class Bench:
    def __init__(self, stage: Any, axes: tuple[float, ...] = (0.0, 45.0, 0.0, 45.0)) -> None:
        self.stage = stage
        self.cells = LiquidCrystals(LiquidCrystalsModel(kind="liquid_crystals", axes=axes))
        self.twin = LCREmulator(stage.setting(), self.cells, LCREmulator.Settings())
        self.where = stage.endpoint(stage.open(self.twin))

    def driven(self) -> bool:
        return self.cells.driven

    def ask(self, *commands: str) -> list[str]:
        """Send commands and return the lines that answer them."""
        stream = "".join(f"{command}\r\n" for command in (*commands, "*IDN?"))
        end = b"LCD cell driver LCR-001\r\n"
        got = b""
        with socket.create_connection(self.where, 10) as client:
            client.sendall(stream.encode("latin-1"))
            while not got.endswith(end):
                data = client.recv(4096)
                assert data, got
                got += data
        return got.removesuffix(end).decode().splitlines()


@pytest.fixture
def bench(stage: Any) -> Bench:
    return Bench(stage)


def test_amplitudes_are_set_in_silence_and_read_back(bench: Bench) -> None:
    assert bench.ask("AMPLITUDE 2 4.125", "AMP? 2") == ["4.125"]
    assert bench.ask("amp 1 9.9999;amp? 1") == ["9.999"]
    assert bench.ask("*RST", "AMP? 2", "AMP? 1") == ["0.000", "0.000"]
    assert bench.ask("ON", "DARK", "FREQ 2000", "AMP? 1") == ["0.000"]


@pytest.mark.parametrize(
    "command",
    [
        *["AMPLITUDE 5 1", "AMPLITUDE 0 1", "AMPLITUDE 1 10", "AMPLITUDE 1 -0.1", "AMP? 9"],
        *["AMPLITUDE 1 nan", "AMPLITUDE 1 x", "FREQ 0", "FREQ 20001", "FREQ x", "FREQ"],
        *["AMPLITUDE 1", "AMPLITUDE", "ON 1", "what?", "\xe4"],
    ],
)
def test_nonsense_is_answered_with_a_line(bench: Bench, command: str) -> None:
    refusal, amplitude = bench.ask("AMPLITUDE 1 3", command, "AMP? 1")
    assert refusal in ("unknown command", "argument out of range")
    assert amplitude == "3.000"


def test_cells_move_at_the_next_block_once_driven(bench: Bench) -> None:
    bench.ask("AMPLITUDE 2 3.0", "AMP? 2")
    bench.stage.step(bench.twin)
    assert bench.cells.amplitudes_v == [0.0, 3.0, 0.0, 0.0]
    assert not bench.driven()
    bench.ask("ON", "AMP? 1")
    assert not bench.driven()
    bench.stage.step(bench.twin)
    assert bench.driven()
    for _ in range(100):
        bench.cells.step(np.random.default_rng(0), 0.0)
    assert bench.cells.retardances_deg[1] == pytest.approx(540 / np.cosh(1.0) ** 2)
    bench.ask("OFF", "AMP? 1")
    bench.stage.step(bench.twin)
    assert not bench.driven()


def test_three_cells_are_driven_and_five_are_refused(stage: Any) -> None:
    three = Bench(stage, (0.0, 45.0, 0.0))
    three.ask("AMPLITUDE 4 1", "AMP? 4")
    stage.step(three.twin)
    assert three.cells.amplitudes_v == [0.0] * 3
    with pytest.raises(ConfigError, match="drives four cells, the element has 5 axes"):
        Bench(stage, (0.0,) * 5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 38), max_size=5))
def test_any_split_of_the_bytes_gives_the_same_replies(bench: Bench, cuts: list[int]) -> None:
    stream = b"AMPLITUDE 1 2.5\r\nAMP? 1;x\r\n;AMP? 4\r\n"
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
    wanted = b"2.500\r\nunknown command\r\n0.000\r\n"
    bench.ask("AMPLITUDE 4 0", "AMP? 4")
    assert bench.stage.converse(bench.where, [p for p in pieces if p], len(wanted)) == wanted


def test_a_flood_is_dropped(bench: Bench) -> None:
    bench.stage.flood(bench.where, b"A" * 200_000)
    assert bench.ask("AMP? 1") == ["0.000"]
