"""What a run keeps and says of its key: files only where both hold it, reasons as they are."""

import dataclasses
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from bellbench.experiments import Outcome, load_experiment, run_experiment, summary
from bellbench.protocols import qkd
from bellbench.protocols.qkd import wire
from bellbench.protocols.qkd.messages import Confirmation, Tag
from rich.console import Console


class Spoiler:
    """Alters the tag of Alice's last message: she has accepted by then, Bob gives up."""

    confirmed = False

    def __call__(self, sender: str, data: bytes) -> Iterable[bytes]:
        if data.startswith(b"BBHS"):
            return (data,)
        frame = wire.decode(data)
        if isinstance(frame.message, Confirmation):
            self.confirmed = True
        elif self.confirmed and isinstance(frame.message, Tag):
            false = Tag(frame.message.index, bytes(16))
            return (wire.encode(dataclasses.replace(frame, message=false)),)
        return (data,)


@pytest.mark.usefixtures("no_pictures")
def test_a_key_that_only_one_party_accepted_is_not_kept(
    tmp_path: Path, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = qkd.join
    monkeypatch.setattr(qkd, "join", lambda alice, bob: join(alice, bob, Spoiler()))
    config = load_experiment(warm / "bbm92_metro.yaml", duration=0.7)
    outcome = run_experiment(config, seed=3, out=tmp_path)
    assert outcome.metrics["aborted"]
    assert "their tag does not match" in outcome.metrics["reason"]
    assert outcome.metrics["leak_bits"] > 0
    assert outcome.metrics["secret_key_bits"] == 0
    assert outcome.metrics["epsilon"] is None
    assert outcome.folder.is_dir()
    assert not list(outcome.folder.glob("*.key"))


def test_a_reason_with_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    metrics: dict[str, Any] = dict.fromkeys(
        ("car", "visibility_z", "visibility_x", "qber_z", "qber_x", "f_ec")
    )
    metrics |= dict.fromkeys(("coincidences", "sifted_bits", "leak_bits", "leak_budget_bits"), 0)
    metrics |= {"singles_hz": {}, "aborted": True, "reason": "bob aborted: [/] [red]x"}
    metrics |= {"protocol": "bbm92", "randomness": "system", "all_twins": True}
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(summary(Outcome(metrics, tmp_path)))
    shown = console.export_text()
    assert "bob aborted: [/] [red]x" in shown
    assert "the key is no secret" in shown
