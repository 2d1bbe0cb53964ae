"""A key exchange as it happens: a served world beside the wall clock, two parties, three processes.

``python benchmarks/live_key.py [--json] [--seconds 20] [--pace 1]``: the metropolitan bench with so
much pump that both parties together see 5 Mtags/s. CPU seconds of each process for each second of
the bench say what it takes to keep up: each below 1, their sum below the number of cores. On a busy
machine ``--pace 0`` lets the world wait for the parties; these figures stay about the same, and
``lag_s`` says nothing. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bellbench.configs import find_config
from bellbench.keystore import KeyStore, write_preshared

PUMP = "207 mA"
PASSPHRASE = "of a rehearsal"
PATIENCE_S = 300.0
TERMS = """\
bellbench: experiment/1
protocol: bbm92
bench: metro
duration: 10 s
block: 2 s
calibration: 1 s
coincidence_window: 300 ps
clocks: recovered
key:
  qber_tolerance: 3 %
  epsilon: 1e-10
  expected_sifted_rate: 60 kHz
  time_grid: 10 ps
  dead_time: 50 ns
"""


def brighter(text: str) -> str:
    """A bench file with more pump."""
    return text.replace("current: 90 mA", f"current: {PUMP}").replace(
        "current_limit: 150 mA", "current_limit: 400 mA"
    )


def free_port() -> int:
    """A TCP port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    """Bellbench's command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "bellbench", *command],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=(folder / f"{command[0]}-{command[1]}.txt").open("wb"),
        stderr=subprocess.STDOUT,
        env=os.environ | {"BELLBENCH_PASSPHRASE": PASSPHRASE},
    )


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a process so far, all threads."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def world(port: int) -> dict[str, float]:
    """What the served world says of itself."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as peer:
        peer.sendall(b'{"op": "hello"}\n')
        told = json.loads(peer.makefile().readline())
    return {"now_s": told["now_ps"] * 1e-12, "lag_s": told["lag_s"]}


def exchange(folder: Path, seconds: float, pace: float) -> dict[str, object]:
    """Run it; returns the figures of ``seconds`` of the bench, in the middle of the exchange."""
    control, link = free_port(), free_port()
    (folder / "bench.yaml").write_text(brighter(find_config("metro", "benches").read_text()))
    (folder / "terms.yaml").write_text(TERMS)
    write_preshared(folder / "pool", alice="Alice", bob="Bob", pads=1000, rehearsal=True)
    for role in ("alice", "bob"):
        own, peer = ("Alice", "Bob") if role == "alice" else ("Bob", "Alice")
        store = folder / f"{role}.store"
        with KeyStore.create(
            store, PASSPHRASE, role=role, name=own, peer=peer, rehearsal=True, cost=4
        ) as made:
            made.import_preshared(folder / "pool")
        text = brighter(find_config(f"metro_at_{role}", "benches").read_text())
        (folder / f"{role}_bench.yaml").write_text(text.replace(":5020/", f":{control}/"))
        way = "listen" if role == "alice" else "connect"
        (folder / f"{role}.yaml").write_text(
            f"bellbench: party/1\nrole: {role}\nbench: {role}_bench.yaml\nexperiment: terms.yaml\n"
            f"{way}: 127.0.0.1:{link}\nstore: {role}.store\nreports: {role}-reports\n"
        )
    serve = ["--seed", "1", "--port", str(control)]
    serve += ["--pace", str(pace)] if pace else ["--stepped"]
    processes = {"world": start(folder, "twin", "serve", "bench.yaml", *serve)}
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "control" not in (folder / "twin-serve.txt").read_text():
            wait(folder, processes, deadline)
        for role in ("alice", "bob"):
            processes[role] = start(folder, "party", f"{role}.yaml")
        # The first key: all is compiled, the calibration over.
        while not blocks(folder):
            wait(folder, processes, deadline)
        before, spent = world(control), {name: cpu_s(p) for name, p in processes.items()}
        known = len(blocks(folder))
        while (after := world(control))["now_s"] < before["now_s"] + seconds:
            wait(folder, processes, deadline)
        took = after["now_s"] - before["now_s"]
        cpu = {name: (cpu_s(p) - spent[name]) / took for name, p in processes.items()}
        # Blocks that ended by then, on either side of an interval as long as they are.
        new = blocks(folder)[known:]
        return {
            "bench_s": took,
            "cpu_s_per_s": cpu,
            "lag_s": after["lag_s"] - before["lag_s"],
            "blocks": len(new),
            "key_bits": sum(each["key_bits"] for each in new),
            "failed": [each["reason"] for each in new if each["reason"]],
        }
    finally:
        for process in reversed(processes.values()):
            process.terminate()
            process.wait(60)


def wait(folder: Path, processes: dict[str, subprocess.Popen[bytes]], deadline: float) -> None:
    """A moment, while all live and there is time."""
    time.sleep(0.2)
    ended = [name for name, process in processes.items() if process.poll() is not None]
    if ended or time.monotonic() > deadline:
        said = "\n".join(path.read_text()[-300:] for path in folder.glob("*.txt"))
        raise SystemExit(f"ended: {ended or 'nothing, but no key came'}\n{said}")


def blocks(folder: Path) -> list[dict[str, Any]]:
    """Alice's reports of blocks so far."""
    path = folder / "alice-reports" / "blocks.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the bench")
    parser.add_argument(
        "--pace", type=float, default=1.0, help="bench seconds per second; 0: stepped"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bellbench-") as folder:
        figures = exchange(Path(folder), args.seconds, args.pace)
    if args.json:
        print(json.dumps(figures, indent=1))
        return
    for name, value in figures.items():
        print(f"{name:12} {value}")


if __name__ == "__main__":
    main()
