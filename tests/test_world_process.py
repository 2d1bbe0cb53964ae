"""The world in its own process: grants, readers of different speed, and clients that fail."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bellbench
import numpy as np
import pytest
from bellbench import twins
from bellbench.drivers.id_quantique import streams
from bellbench.instruments import TagBatch, TwinError, concatenate
from bellbench.twins import StepClock, World, join_world, start_world

BLOCK_S = 0.01


def record(
    bench: Path, seed: int, steps: dict[str, int], *, change_at: int | None = None
) -> dict[str, TagBatch]:
    """Half a second of both taggers' clicks; tagger ``n`` is read every ``steps[n]`` blocks.

    At block ``change_at`` the pump is turned up.
    """
    found: dict[str, list[TagBatch]] = {name: [] for name in steps}
    with bellbench.open_bench(bench, twin=True, seed=seed) as lab:
        for name in steps:
            lab.instruments[name].start()
        for block in range(1, 61):
            if block == change_at:
                lab.pump.current.set(0.12)
            lab.clock.sleep(BLOCK_S)
            for name, step in steps.items():
                if block % step == 0:
                    found[name].append(lab.instruments[name].read())
    joined = {name: concatenate(batches) for name, batches in found.items()}
    return {name: batch.split(5 * 10**11)[0] for name, batch in joined.items()}


def same(a: TagBatch, b: TagBatch) -> bool:
    return np.array_equal(a.times_ps, b.times_ps) and np.array_equal(a.channels, b.channels)


@pytest.fixture(scope="module")
def bench(warm: Path) -> Path:
    return warm / "metro.yaml"


@pytest.fixture(scope="module")
def even(bench: Path) -> dict[str, TagBatch]:
    return record(bench, 5, {"alice_tagger": 10, "bob_tagger": 10})


def test_clicks_do_not_depend_on_how_fast_each_reader_is(
    bench: Path, even: dict[str, TagBatch]
) -> None:
    uneven = record(bench, 5, {"alice_tagger": 1, "bob_tagger": 30})
    for name, batch in even.items():
        assert len(batch) > 100_000
        assert same(batch, uneven[name])


def test_a_setting_changed_in_mid_run_acts_at_the_same_block_each_time(
    bench: Path, even: dict[str, TagBatch]
) -> None:
    first, second = (
        record(bench, 5, {"alice_tagger": 10, "bob_tagger": 10}, change_at=31) for _ in range(2)
    )
    for name, batch in even.items():
        assert same(first[name], second[name])
        # until the change nothing differs; the recording begins some ms after its command
        before, after = first[name].split(290_000_000_000)
        assert same(before, batch.split(290_000_000_000)[0])
        assert len(after) > 1.3 * len(batch.split(290_000_000_000)[1])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    from bellbench.configs import find_config

    with start_world(find_config("metro", "benches"), seed=3) as found:
        yield found


def control(world: World) -> tuple[str, int]:
    host, _, port = world._control.peer.rpartition(":")
    return host, int(port)


def test_the_world_goes_only_as_far_as_the_least_granted(world: World) -> None:
    begin = world.clock.now()
    with join_world(*control(world)) as second:
        slow = second.clock
        done = threading.Event()

        def sleep() -> None:
            world.clock.sleep(1.0)
            done.set()

        thread = threading.Thread(target=sleep)
        thread.start()
        slow.sleep(0.4)
        assert slow.now() == pytest.approx(begin + 0.4)
        assert not done.is_set()
        slow.sleep(0.6)
        thread.join(10)
        assert done.is_set()
        assert world.clock.now() == pytest.approx(begin + 1.0)


def test_a_client_that_dies_drops_its_grant(world: World) -> None:
    begin = world.clock.now()
    dying = join_world(*control(world))
    timer = threading.Timer(0.2, dying.close)
    timer.start()
    world.clock.sleep(1.0)  # returns only when the other grant is gone
    timer.join()
    assert world.clock.now() == pytest.approx(begin + 1.0)


def test_an_observer_that_grants_nothing_holds_nothing(world: World) -> None:
    with socket.create_connection(control(world)) as observer:
        observer.sendall(b'{"op": "hello"}\n')
        assert b'"event": "hello"' in observer.recv(65536)
        world.clock.sleep(0.05)


def test_a_client_that_releases_its_clock_holds_nothing_until_it_holds_again(
    world: World,
) -> None:
    assert isinstance(world.clock, StepClock)
    with join_world(*control(world)) as second:
        assert isinstance(second.clock, StepClock)
        begin = world.clock.now()
        second.clock.release()
        world.clock.sleep(0.5)
        second.clock.hold()
        assert second.clock.now() == world.clock.now() == pytest.approx(begin + 0.5)
        done = threading.Event()

        def sleep() -> None:
            world.clock.sleep(0.2)
            done.set()

        thread = threading.Thread(target=sleep)
        thread.start()
        assert not done.wait(0.2)
        second.clock.sleep(0.1)
        assert not done.is_set()
        second.clock.release()
        thread.join(10)
        assert done.is_set()


@pytest.mark.parametrize(
    "nonsense",
    [b"\n", b"{}\n", b'{"op": "fly"}\n', b'{"op": "grant", "until_ps": "soon"}\n', b"\xff\xfe\n"],
)
def test_nonsense_on_the_control_port_is_answered_and_harms_nobody(
    world: World, nonsense: bytes
) -> None:
    with socket.create_connection(control(world)) as client:
        client.sendall(nonsense)
        assert b'"event": "error"' in client.recv(65536)
    with socket.create_connection(control(world)) as client:
        client.sendall(b"x" * 100_000)
    world.clock.sleep(0.02)


def test_a_reader_that_stops_holds_the_world_and_is_named(
    bench: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "_HELD_LIMIT_S", 1.5)
    monkeypatch.setattr(streams, "_MAX_WORDS", 1000)
    with bellbench.open_bench(bench, twin=True, seed=2) as lab:
        lab.bob_tagger.start()
        with pytest.raises(TwinError, match="waits for bob_tagger: its stream is full"):
            lab.clock.sleep(300.0)
        held = lab.clock.now()
        assert held < 200
        lab.bob_tagger.stop()  # who stops reading and says so lets the world go on
        lab.clock.sleep(0.5)
        assert lab.clock.now() == pytest.approx(held + 0.5, abs=0.1)


def test_a_world_ends_with_the_process_that_started_it() -> None:
    program = (
        "from bellbench.twins import start_world\n"
        "from bellbench.configs import find_config\n"
        "world = start_world(find_config('metro', 'benches'), seed=1)\n"
        "print(world._process._process.pid, world._control.peer, flush=True)\n"
        "import os; os._exit(1)\n"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    host, _, port = result.stdout.split()[1].rpartition(":")
    for _ in range(200):
        try:
            with socket.create_connection((host, int(port)), timeout=1) as last:
                last.settimeout(10)
                while last.recv(4096):
                    pass
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue
    pytest.fail("the world outlived its owner")


def test_a_world_that_cannot_start_says_why(tmp_path: Any) -> None:
    bench = tmp_path / "bench.yaml"
    bench.write_text("bellbench: bench/1\ninstruments: {}\n")
    with pytest.raises(TwinError, match=r"(?s)did not start.*bench\.yaml"):
        start_world(bench, seed=1)


def test_joining_something_that_is_no_world_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()

        def answer() -> None:
            client, _ = server.accept()
            client.sendall(b'{"hi": 1}\n')
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TwinError, match="not a Bellbench world"):
            join_world(host, port)
        thread.join()
    with pytest.raises(TwinError, match="no world answers"):
        join_world(host, port)


def test_a_sleep_that_begins_after_the_world_has_ended_says_so() -> None:
    """The first bytes to a peer that is gone are sent without an error."""

    class Gone:
        peer = "127.0.0.1:1"

        def send(self, message: dict[str, object]) -> None:
            pass

        def receive(self) -> None:
            return None

    before = set(threading.enumerate())
    clock = StepClock(Gone(), 0, 10**10)  # type: ignore[arg-type]
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
    with pytest.raises(TwinError, match="has ended"):
        clock.sleep(1.0)
