"""The twins' plumbing: bounded buffers, pushed status, chaos; and finding a twin by its driver."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import Any

import pytest
from bellbench.instruments import ConfigError, TwinError
from bellbench.sims.devices import EMULATORS, load_emulator
from bellbench.sims.devices.wire import (
    LIMIT,
    Link,
    OverlongError,
    Port,
    Splitter,
    chaos_generator,
    reachable,
)
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b)), st.data())
def test_lines_are_found_however_the_bytes_arrive(lines: list[bytes], data: Any) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter = Splitter(b"\n")
    found: list[bytes] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += splitter.feed(stream[:size])
        stream = stream[size:]
    assert found == lines


def test_a_command_without_end_is_given_up() -> None:
    splitter = Splitter(b"\r\n;")
    assert splitter.feed(b"a;b\rc") == [b"a", b"b"]
    splitter.feed(b"x" * (LIMIT - 1))
    with pytest.raises(OverlongError):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("lab", "lab")],
)
def test_an_address_names_a_host_that_can_be_reached(host: str, shown: str) -> None:
    assert reachable(host) == shown


class Echo:
    """A port whose clients are kept; what they say is kept, too."""

    def __init__(self, stage: Any, *, clients: int = 16, chaos: bool = False) -> None:
        self.stage = stage
        self.heard = b""
        setting = stage.setting("echo")
        self.port = Port(
            setting, self.serve, clients=clients, chaos=chaos_generator(setting, chaos)
        )
        self.number = stage.run(self.port.open(0))

    async def serve(self, link: Link) -> None:
        await link.send(b"hello\n")
        while data := await link.read():
            self.heard += data

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.number), 10)
        assert client.recv(1) == b"h"  # now it is served
        return client

    def link(self) -> Link:
        found: Link = self.stage.call(lambda: self.port.links[0])
        return found


@pytest.mark.parametrize("chaos", [False, True])
def test_pushed_status_is_bounded_and_the_latest_arrives(stage: Any, chaos: bool) -> None:
    echo = Echo(stage, chaos=chaos)
    client = echo.connect()
    link = echo.link()
    filler = b"x" * 32_768

    def push_much() -> None:
        for number in range(2000):  # 64 MB into a client that does not read
            link.push(f"key{number % 3}", b"%d:" % number + filler + b"\n")

    stage.call(push_much)
    assert stage.call(lambda: link.backlog) <= 2 * LIMIT + len(filler)
    got = b""
    last = re.compile(rb"(1997|1998|1999):x+\n")
    while len(last.findall(got)) < 3:
        data = client.recv(1 << 20)
        assert data
        got += data
    numbers = [int(n) for n in re.findall(rb"(\d+):", got)]
    assert numbers == sorted(numbers)
    assert len(numbers) < 1000
    client.close()
    stage.run(echo.port.close())


def test_sending_waits_for_the_client_and_its_end_releases(stage: Any) -> None:
    echo = Echo(stage)
    client = echo.connect()
    sending = stage.submit(echo.link().send(b"x" * 64_000_000))
    with contextlib.suppress(TimeoutError):
        sending.result(0.3)
    assert not sending.done()
    client.close()
    sending.result(10)
    stage.run(echo.port.close())


def test_closing_a_port_disconnects_and_frees_it(stage: Any) -> None:
    echo = Echo(stage)
    client = echo.connect()
    stage.run(echo.port.close())
    with contextlib.suppress(ConnectionResetError):
        while client.recv(10):
            pass
    client.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", echo.number), 5)


def test_a_port_in_use_is_an_error_that_says_so(stage: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        echo = Echo(stage)
        other = Port(stage.setting("busy"), echo.serve)
        with pytest.raises(TwinError, match=f"'busy' cannot bind 127.0.0.1:{port}"):
            stage.run(other.open(port))
        stage.run(echo.port.close())


#: Where one word of the key would not tell whose it is.
MODULES = {"agiltron.switch": "agiltron_switch"}


@pytest.mark.parametrize("key", sorted(EMULATORS))
def test_every_driver_key_finds_its_twin(key: str) -> None:
    found = load_emulator(key)
    assert found.__module__ == load_emulator.__module__ + "." + MODULES.get(key, key.split(".")[1])
    assert found.MODEL
    assert found.Settings() == found.Settings(port=0, chaos=False)
    assert isinstance(found.ELEMENT, type)


def test_a_driver_without_twin_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'thorlabs\.cld1015'"):
        load_emulator("thorlabs.cld1016")
