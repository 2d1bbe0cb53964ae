"""A wrong address is said when a driver is made; making one does no I/O."""

from __future__ import annotations

from typing import Any

import pytest
from bellbench.drivers import DRIVERS, load_driver
from bellbench.instruments import InstrumentError, SystemClock

VISA = ("thorlabs.cld1015", "thorlabs.pm100d", "stanford.dg645")
SERIAL = (
    "agiltron.switch",
    "oz_optics.dd100mc",
    "oz_optics.epc04",
    "s_fifteen.lcr",
    "s_fifteen.tdc1",
    "thorlabs.mpc320",
    "thorlabs.tc200",
)
WEBSQ = "single_quantum.websq"
ID900 = "id_quantique.id900"
PULSES = "swabian.pulse_streamer"

RIGHT: dict[tuple[str, ...], tuple[str, ...]] = {
    VISA: (
        "USB0::0x1313::0x804F::M00512345::INSTR",
        "TCPIP::10.0.0.2::5025::SOCKET",
        "TCPIP::10.0.0.2::INSTR",
        "GPIB0::12::INSTR",
    ),
    SERIAL: ("COM5", "/dev/ttyUSB0", "socket://127.0.0.1:4000", "loop://"),
    (WEBSQ,): ("tcp://192.168.1.1", "tcp://192.168.1.1:12000?counts=12345"),
    (ID900,): ("tcp://h", "tcp://h:5555?dlt=localhost:6060&stream=4242"),
    (PULSES,): ("http://h", "http://[::1]:8050/", "http://192.168.1.2:8050/json-rpc?data=21328"),
}
WRONG: dict[tuple[str, ...], tuple[str, ...]] = {
    VISA: (
        "/dev/ttyUSB0",
        "tcp://10.0.0.2:5025",
        "TCPIP::10.0.0.2::SOCKET",
        "TCPIP::10.0.0.2::x::SOCKET",
        "TCPIP::10.0.0.2::70000::SOCKET",
        "USB0::0x1313",
    ),
    SERIAL: (
        "tcp://127.0.0.1:4000",
        "socket://127.0.0.1",
        "socket://127.0.0.1:99999",
        "socket://:4000",
        "USB0::0x1313::0x804F::M00512345::INSTR",
    ),
    (WEBSQ,): ("192.168.1.1", "tcp://", "tcp://h:x", "tcp://h?counts=70000", "tcp://h?count=1"),
    (ID900,): ("h:5555", "tcp://h?dlt=localhost", "tcp://h?stream=0", "tcp://h:70000"),
    (PULSES,): (
        "192.168.1.2",
        "https://h",
        "http://",
        "http://h:0",
        "http://h:x",
        "http://h?data=0",
        "http://h?port=1",
        "http://me@h",
        "http://h#x",
    ),
}


def made(key: str, address: str) -> Any:
    driver = load_driver(key)
    return driver("it", address, driver.Settings(), SystemClock())


def pairs(addresses: dict[tuple[str, ...], tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(key, each) for keys, found in addresses.items() for key in keys for each in found]


def test_every_driver_with_an_address_is_here() -> None:
    single = {key for key in DRIVERS if not hasattr(load_driver(key), "PARTS")}
    assert {key for key, _ in pairs(RIGHT)} == {key for key, _ in pairs(WRONG)} == single


@pytest.mark.parametrize(("key", "address"), pairs(RIGHT))
def test_right_addresses(key: str, address: str) -> None:
    assert made(key, address).address == address
    assert made(key, "").address == ""  # of a twin that has not started


@pytest.mark.parametrize(("key", "address"), pairs(WRONG))
def test_wrong_addresses_name_themselves_and_what_is_right(key: str, address: str) -> None:
    with pytest.raises(InstrumentError, match="; try: ") as caught:
        made(key, address)
    assert caught.value.address == address
