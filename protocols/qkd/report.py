"""What a session says of its keys: block by block, and in sum. Public, and fit for JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .finite_key import binary_entropy

__all__ = ["ASSUMPTIONS", "BlockReport", "SecurityReport", "markdown"]

#: What every key rests on beside the bound; ``docs/security.md`` says more on each.
ASSUMPTIONS = (
    "two-dimensional measurements in two unbiased bases of equal probability at both parties",
    "detection efficiency that does not depend on basis or outcome; blinding is outside",
    "double clicks become random bits; events within the dead time after a click give no key",
    "bases and monitored bits are told while later pairs are still on their way: an attacker who"
    " owns the source and adapts to them is outside the sampling bound",
    "announced times tell nothing about outcomes",
    "laboratories leak nothing; random numbers that nobody can foresee",
)


@dataclass(frozen=True)
class BlockReport:
    """One block at one party: what it was, what was told of it, and what came of it.

    Attributes:
        block: Its id, the same at both parties.
        number: Of the block in the session.
        reason: Why it gave no key; empty where it gave one.
        coincidences: Matched pairs, whatever their bases.
        monitored_compared: Bits revealed while the exchange went on, in Z and X.
        monitored_errors: Errors among these.
        sifted_bits: m, the length of the block.
        sample_bits: k of these, revealed to estimate the error rate.
        sample_compared: The same in Z and X; None where none were compared.
        sample_errors: Errors among these.
        tolerance: Error rate of the sample above which there is no key.
        reconciled_bits: n = m - k.
        corrected_errors: Errors found by reconciliation; None where it did not end.
        method: Of reconciliation.
        leak_bits: Parities and syndromes sent.
        leak_budget_bits: r, reserved for them and charged.
        efficiency: f, leak over n h(Q); None without errors.
        verify_bits: t.
        verified: Whether the tags agreed; None where they were not compared.
        key_bits: Length of the key.
        reserve_bits: Of these, put into the pool for authentication.
        pads_spent: One-time pads of 128 bits spent on tags of this block, of both directions.
        epsilons: Of correctness, estimation, amplification, and their total with the tags'.
        disclosed_bits: The ledger: bits by sender and kind of message.
        traffic_bytes: Bytes of the block's messages by sender and kind.
    """

    block: str
    number: int
    reason: str
    coincidences: int
    monitored_compared: tuple[int, int]
    monitored_errors: tuple[int, int]
    sifted_bits: int
    sample_bits: int
    sample_compared: tuple[int, int] | None
    sample_errors: tuple[int, int] | None
    tolerance: float
    reconciled_bits: int
    corrected_errors: int | None
    method: str | None
    leak_bits: int
    leak_budget_bits: int
    efficiency: float | None
    verify_bits: int
    verified: bool | None
    key_bits: int
    reserve_bits: int
    pads_spent: int
    epsilons: Mapping[str, float]
    disclosed_bits: Mapping[str, int]
    traffic_bytes: Mapping[str, int]

    @property
    def traffic_per_sifted_bit(self) -> float | None:
        """Bits on the classical channel, both ways, for each sifted bit, revealed ones included."""
        sifted = self.sifted_bits + sum(self.monitored_compared)
        return 8 * sum(self.traffic_bytes.values()) / sifted if sifted else None

    def as_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return dataclasses.asdict(self) | {"traffic_per_sifted_bit": self.traffic_per_sifted_bit}


@dataclass
class SecurityReport:
    """The security report of a session at one party, as it grows.

    Attributes:
        party: Whose it is.
        settings: The session's terms.
        assumptions: What the keys rest on.
        authentication: How messages were authenticated, and where that began.
        randomness: Where random choices came from.
        rehearsal: Whether the keys are no secrets.
        blocks: Reports of the last blocks.
        totals: Sums over all blocks.
    """

    party: str
    settings: Mapping[str, Any]
    assumptions: list[str]
    authentication: str
    randomness: str
    rehearsal: bool
    blocks: list[BlockReport] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)
    #: Blocks that are listed one by one; older ones are in the totals only.
    most_blocks: int = 1000

    def add(self, report: BlockReport) -> None:
        """Take the report of a block that has ended."""
        self.blocks.append(report)
        del self.blocks[: -self.most_blocks]
        self.totals.update(
            blocks=1,
            blocks_without_key=int(bool(report.reason)),
            sifted_bits=report.sifted_bits + sum(report.monitored_compared),
            key_bits=report.key_bits,
            reserve_bits=report.reserve_bits,
            leak_bits=report.leak_bits,
            traffic_bytes=sum(report.traffic_bytes.values()),
        )

    def figures(self) -> dict[str, Any]:
        """What the blocks listed amount to: rates over all of them, and what was spent."""
        blocks = self.blocks
        given = [block for block in blocks if not block.reason]
        done = [block for block in blocks if block.corrected_errors is not None]
        errors = [block.corrected_errors or 0 for block in done]
        reconciled = sum(block.reconciled_bits for block in done)
        least = sum(
            block.reconciled_bits * binary_entropy(wrong / block.reconciled_bits)
            for block, wrong in zip(done, errors, strict=True)
        )
        watched = [(block.monitored_compared, block.monitored_errors) for block in blocks]
        sampled = [
            (block.sample_compared, block.sample_errors)
            for block in blocks
            if block.sample_compared is not None and block.sample_errors is not None
        ]
        disclosed: Counter[str] = Counter()
        for block in blocks:
            disclosed.update(block.disclosed_bits)
        leak = sum(block.leak_bits for block in blocks)
        names = ("correctness", "estimation", "amplification", "authentication")
        return {
            "blocks": len(blocks),
            "failed_blocks": len(blocks) - len(given),
            "block_bits": sum(block.sifted_bits for block in blocks),
            "sample_bits": sum(block.sample_bits for block in blocks),
            "qber": _rate(watched + sampled, (0, 1)),
            "qber_z": _rate(watched + sampled, (0,)),
            "qber_x": _rate(watched + sampled, (1,)),
            "qber_sample": _rate(sampled, (0, 1)),
            "qber_reconciled": sum(errors) / reconciled if reconciled else None,
            "leak_bits": leak,
            "leak_budget_bits": sum(block.leak_budget_bits for block in blocks),
            "f_ec": leak / least if least else None,
            "verify_bits": sum(block.verify_bits for block in blocks if block.verified is not None),
            "disclosed_bits": dict(sorted(disclosed.items())),
            "reserve_bits": sum(block.reserve_bits for block in blocks),
            "traffic_per_sifted_bit": _traffic(blocks),
            "epsilon": sum(block.epsilons["total"] for block in given) if given else None,
            "epsilons": {
                name: sum(block.epsilons[name] for block in given) if given else None
                for name in names
            },
            "reason": next((block.reason for block in blocks if block.reason), ""),
        }

    def as_dict(self, **others: Any) -> dict[str, Any]:
        """All of it, fit for JSON, with what the session adds."""
        return {
            "party": self.party,
            "authentication": self.authentication,
            "randomness": self.randomness,
            "rehearsal": self.rehearsal,
            "assumptions": self.assumptions,
            "settings": dict(self.settings),
            "totals": dict(self.totals),
            **others,
            "blocks": [report.as_dict() for report in self.blocks],
        }


_Compared = list[tuple[tuple[int, int], tuple[int, int]]]


def _rate(found: _Compared, bases: tuple[int, ...]) -> float | None:
    compared = sum(bits[basis] for bits, _ in found for basis in bases)
    return (
        sum(wrong[basis] for _, wrong in found for basis in bases) / compared if compared else None
    )


def _traffic(blocks: list[BlockReport]) -> float | None:
    sifted = sum(block.sifted_bits + sum(block.monitored_compared) for block in blocks)
    carried = sum(sum(block.traffic_bytes.values()) for block in blocks)
    return 8 * carried / sifted if sifted else None


def markdown(report: Mapping[str, Any]) -> str:
    """A security report for people."""
    total, key, epsilon = report["totals"], report["key"], report["epsilon"]
    lines = [
        f"# Key exchange of {report['party']}",
        "",
        *(["**Rehearsal: the keys are no secrets.**", ""] if report["rehearsal"] else []),
        f"- Session {report['session']}: {report['phase']}"
        + (f", {report['reason']}" if report["reason"] else ""),
        f"- Authentication: {report['authentication']}; randomness: {report['randomness']}",
        f"- Blocks: {total.get('blocks', 0)}, without a key {total.get('blocks_without_key', 0)}",
        f"- Key: {key['gained_bits']:,} bits made, {key['reserved_bits']:,} of them put into the"
        f" pool for authentication, {key['consumed_bits']:,} spent from it:"
        f" {key['net_bits']:,} bits gained in all",
        f"- Epsilon: {epsilon['spent']:.3g} spent of {epsilon['total']:.3g}",
        *(
            f"  - {name}: {part['epsilon']:.3g}, {part['times']} times"
            for name, part in epsilon["parts"].items()
        ),
        "",
        "| block | m | k | n | sample errors | corrected | leak of r | f | t | key | why none |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for block in report["blocks"]:
        wrong = block["sample_errors"]
        f = block["efficiency"]
        lines.append(
            f"| {block['number']} | {block['sifted_bits']:,} | {block['sample_bits']:,}"
            f" | {block['reconciled_bits']:,} | {'-' if wrong is None else sum(wrong)}"
            f" | {'-' if block['corrected_errors'] is None else block['corrected_errors']}"
            f" | {block['leak_bits']:,} of {block['leak_budget_bits']:,}"
            f" | {'-' if f is None else f'{f:.3f}'} | {block['verify_bits']}"
            f" | {block['key_bits']:,} | {block['reason'].replace('|', '/')} |"
        )
    lines += ["", "Assumed:", "", *(f"- {line}" for line in report["assumptions"])]
    lines += ["", "Settings:", ""]
    lines += [f"- {name}: {value}" for name, value in report["settings"].items()]
    return "\n".join(lines) + "\n"
