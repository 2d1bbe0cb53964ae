"""Two party processes on one served world, killed at random moments: no key is lost or doubled.

What is shown: a block committed at one end is committed at the other with the same key, whichever
process was killed when; keys delivered while they run are equal and each delivered once; both
authentication pools go on in step.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from bellbench.keystore import KeyStore, NotEnoughKeys, UnknownKey, write_preshared
from bellbench.protocols.qkd.sink import split_key_id

PASSPHRASE = "of a rehearsal"
PATIENCE_S = 60.0
ROLES = ("alice", "bob")

DETECTORS = "\n".join(
    "      - {efficiency: 90 %, dark_rate: 75 Hz, operating_bias: 18 uA, switching_current: 22 uA,"
    " jitter: 60 ps, dead_time: 30 ns}"
    for _ in range(4)
)
ARM = """\
  {who}_analyzer: {{kind: analyzer, z_fraction: 50 %, extinction: 40 dB}}
  {who}_snspd:
    kind: snspd
    detectors:
{detectors}
  {who}_tagger:
    kind: tagger
    jitter: 60 ps
    cable_delays: {cables}
    start_offset: {start}
    clock: {{reference: internal, frequency_offset: {ppm}e-6, flicker_fm: 3e-10}}
"""
#: A bright source between two analyzers: few clicks for many coincidences, clocks 40 ppm apart.
WORLD = (
    """\
bellbench: world/1
elements:
  pump: {kind: pump_laser, threshold: 40 mA, slope: 0.5 W/A, tec_time_constant: 0.1 s}
  crystal: {kind: spdc, pump: pump, pair_rate: 10 kHz/mW, visibility: 0.98}
"""
    + ARM.format(
        who="alice",
        detectors=DETECTORS,
        cables="[23 ns, 25 ns, 21 ns, 24 ns]",
        start="2.7 ms",
        ppm=-9,
    )
    + ARM.format(
        who="bob",
        detectors=DETECTORS,
        cables="[41 ns, 39 ns, 43 ns, 44 ns]",
        start="6.2 ms",
        ppm=31,
    )
    + """\
paths:
  - [crystal.signal, alice_analyzer, alice_snspd, alice_tagger]
  - [crystal.idler, bob_analyzer, bob_snspd, bob_tagger]
"""
)
PUMP = "{current: 50 mA, current_limit: 150 mA, temperature: 25 degC, tec: true, emission: true}"
BIAS = "{bias_currents: [18 uA, 18 uA, 18 uA, 18 uA], enabled: true}"
INPUTS = "{enabled: [true, true, true, true], takeover: true}"
INSTRUMENTS = {
    "pump": ("alice", "thorlabs.cld1015", PUMP),
    "alice_snspd": ("alice", "single_quantum.websq", BIAS),
    "alice_tagger": ("alice", "id_quantique.id900", INPUTS),
    "bob_snspd": ("bob", "single_quantum.websq", BIAS),
    "bob_tagger": ("bob", "id_quantique.id900", INPUTS),
}
PARTY = (
    "  {0}: {{tagger: {0}_tagger, detectors: {0}_snspd, channels: {{1: H, 2: V, 3: D, 4: A}}}}\n"
)
TERMS = """\
bellbench: experiment/1
protocol: bbm92
bench: bench.yaml
duration: 1 s
block: 1 s
calibration: 300 ms
coincidence_window: 300 ps
key: {epsilon: 1e-6, expected_sifted_rate: 20 kHz}
"""


def bench(role: str | None = None, control: str = "") -> str:
    """One party's bench in the world served at ``control``; without a role what serves it."""
    text = "bellbench: bench/1\n"
    if role is None:
        text += "world: world.yaml\ntwin: true\n"
    text += "instruments:\n"
    for name, (owner, driver, settings) in INSTRUMENTS.items():
        if role in (None, owner):
            at = f"address: 'twin://{control}/{name}', " if role else ""
            text += f"  {name}: {{driver: {driver}, {at}settings: {settings}, on_exit: leave}}\n"
    roles = ROLES if role is None else (role,)
    return text + "parties:\n" + "".join(PARTY.format(each) for each in roles)


class Two:
    """Two parties' files and stores in a folder, a served world, and their processes."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.kills = 0
        self.committed: dict[str, set[str]] = {role: set() for role in ROLES}
        self.delivered: dict[UUID, bytes] = {}
        self._owed: list[UUID] = []  # taken at Alice's, not at Bob's yet
        (folder / "world.yaml").write_text(WORLD)
        (folder / "terms.yaml").write_text(TERMS)
        (folder / "bench.yaml").write_text(bench())
        self._errors = (folder / "stderr.txt").open("ab")
        command = ["twin", "serve", str(folder / "bench.yaml"), "--stepped", "--seed", str(seed)]
        self.world = self._start(*command, stdout=subprocess.PIPE)
        assert self.world.stdout is not None
        for line in self.world.stdout:
            message = json.loads(line)
            if "control" in message:
                self._control: str = message["control"]
                break
        else:
            pytest.fail(self.said())
        host, _, port = self._control.rpartition(":")
        self._clock = socket.create_connection((host, int(port)), PATIENCE_S)
        self._lines = self._clock.makefile("rb")
        with socket.create_server(("127.0.0.1", 0)) as free:
            link = "{}:{}".format(*free.getsockname())
        write_preshared(folder / "pool", alice="Alice", bob="Bob", pads=260, rehearsal=True)
        for role in ROLES:
            name, peer = ("Alice", "Bob") if role == "alice" else ("Bob", "Alice")
            with KeyStore.create(
                self.store(role),
                PASSPHRASE,
                role="alice" if role == "alice" else "bob",
                name=name,
                peer=peer,
                rehearsal=True,
                cost=4,
            ) as store:
                store.import_preshared(folder / "pool")
            (folder / f"{role}_bench.yaml").write_text(bench(role, self._control))
            (folder / f"{role}.yaml").write_text(
                f"bellbench: party/1\nrole: {role}\nbench: {role}_bench.yaml\n"
                f"experiment: terms.yaml\n{'listen' if role == 'alice' else 'connect'}: {link}\n"
                f"store: {role}.store\nreports: {role}-reports\n"
            )

    def store(self, role: str) -> Path:
        return self.folder / f"{role}.store"

    def start(self, role: str, *options: str) -> None:
        path = str(self.folder / f"{role}.yaml")
        self.processes[role] = self._start("party", "--role", role, path, *options)

    def kill(self, role: str) -> None:
        """As ``kill -9`` does."""
        process = self.processes[role]
        assert process.poll() is None, self.said()
        process.kill()
        process.wait()
        self.kills += 1

    def now(self) -> float:
        """World time, s."""
        self._clock.sendall(b'{"op": "hello"}\n')
        return float(json.loads(self._lines.readline())["now_ps"] * 1e-12)

    def watch(self) -> None:
        """Look after both ends while they run: deliver keys, note what is committed."""
        for role in ROLES:
            known = committed(self.store(role))
            assert self.committed[role] <= known.keys(), f"{role} has lost a confirmed key"
            self.committed[role] = set(known)
        with opened(self.store("alice")) as alice, opened(self.store("bob")) as bob:
            with contextlib.suppress(NotEnoughKeys):
                for key in alice.deliver(self.rng.randrange(1, 8)):
                    assert key.id not in self.delivered
                    self.delivered[key.id] = bytes(key.secret)
                    self._owed.append(key.id)
            self._pay(bob)

    def _pay(self, bob: KeyStore) -> None:
        for name in list(self._owed):
            try:
                (key,) = bob.deliver_ids([name])
            except UnknownKey:
                continue  # not confirmed there yet
            assert bytes(key.secret) == self.delivered[name]
            self._owed.remove(name)

    def wait(self, seconds: float) -> None:
        """Let the processes go on for so long, wall time; both must live."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for process in (*self.processes.values(), self.world):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(left, 0.02))
                    pytest.fail(f"a process ended by itself: {self.said()}")

    def until_blocks(self, role: str, number: int) -> None:
        deadline = time.monotonic() + 2 * PATIENCE_S  # kernels may have to be compiled
        while len(committed(self.store(role))) < number:
            assert time.monotonic() < deadline, self.said()
            self.wait(0.1)

    def settle(self) -> None:
        """Run once more, undisturbed: what a crash left open is settled by the handshake."""
        for role in ROLES:
            self.start(role, "--duration", "3 s")
        for process in self.processes.values():
            assert process.wait(2 * PATIENCE_S) == 0, self.said()

    def compare(self) -> None:
        """Both stores hold the same: blocks, keys to the last bit, pads."""
        ends = {role: committed(self.store(role)) for role in ROLES}
        assert ends["alice"] == ends["bob"]
        for role in ROLES:
            assert self.committed[role] <= ends[role].keys()
        with opened(self.store("alice")) as alice, opened(self.store("bob")) as bob:
            self._pay(bob)
            assert not self._owed
            stores = {"alice": (alice, bob), "bob": (bob, alice)}
            for mine, theirs in stores.values():
                number = mine.status().stored_own
                for key in mine.deliver(number) if number else []:
                    (other,) = theirs.deliver_ids([key.id])
                    assert key.secret == other.secret
                    assert key.id not in self.delivered
                    self.delivered[key.id] = bytes(key.secret)
            for store in (alice, bob):
                status = store.status()
                assert status.stored_own == status.stored_peer == status.prepared == 0
                assert status.delivered_own + status.delivered_peer == len(self.delivered)
            # every key of every confirmed block has left once at each end
            assert len(self.delivered) == sum(ends["alice"].values())
            assert len({split_key_id(key) for key in self.delivered}) == len(self.delivered)
            assert len(set(self.delivered.values())) == len(self.delivered)
            pads = alice.pads("alice"), bob.pads("bob")
            for sender, receiver in (pads, pads[::-1]):
                assert sender is not None
                assert receiver is not None
                assert sender.position[0] >= receiver.position[1]  # none is taken before it is used
                assert sender.position[0] + sender.remaining[0] == (
                    receiver.position[1] + receiver.remaining[1]
                )
                index, pad = sender.draw()
                assert receiver.peer(index) == pad
                end = index + sender.remaining[0]
                sender.skip(end, 0)  # the last one came with the last key
                assert receiver.peer(end) == sender.draw()[1]

    def said(self) -> str:
        return (self.folder / "stderr.txt").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        for process in (*self.processes.values(), self.world):
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._lines.close()
        self._clock.close()
        self._errors.close()

    def _start(self, *words: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "bellbench", *words],
            stdin=subprocess.DEVNULL,
            stdout=self._errors if stdout is None else stdout,
            stderr=self._errors,
            env={**os.environ, "BELLBENCH_PASSPHRASE": PASSPHRASE},
        )


@contextlib.contextmanager
def opened(path: Path) -> Iterator[KeyStore]:
    with KeyStore.open(path, PASSPHRASE) as store:
        yield store


def committed(path: Path) -> dict[str, int]:
    """Number of keys of each confirmed block, as the file says it."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
        rows = db.execute("SELECT id, keys FROM blocks WHERE committed IS NOT NULL")
        return dict(rows.fetchall())


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    made = Two(tmp_path, seed=7)
    try:
        yield made
    finally:
        made.close()


def run(two: Two, kills: int, bench_s: float = 0.0) -> None:
    """Kill so often and go on for so long, then kill both, let them settle, and compare."""
    for role in ROLES:
        two.start(role)
    while two.kills < kills or two.now() < bench_s:
        if two.kills % 3:  # at any moment of starting, calibrating, and the first key
            two.wait(two.rng.uniform(0.0, 6.0))
        else:  # while keys are made
            two.until_blocks("bob", len(committed(two.store("bob"))) + 1)
            two.wait(two.rng.uniform(0.0, 2.0))
        two.watch()
        if two.kills < kills:
            role = two.rng.choice(ROLES)
            two.kill(role)
            two.start(role)
    for role in ROLES:
        two.kill(role)
    two.settle()
    two.compare()
    assert len(committed(two.store("alice"))) > kills // 3


def test_five_kills(two: Two) -> None:
    run(two, kills=3)  # and both at the end


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_kills_in_ten_minutes_of_bench_time(two: Two) -> None:
    """``pytest --rootdir=tests -c pyproject.toml -m slow tests/test_party.py``; some 15 minutes."""
    run(two, kills=100, bench_s=600.0)
