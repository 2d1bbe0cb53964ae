"""Two parties, a stream of clicks each, and keys in two stores: the whole of a key exchange.

:class:`Session` is one party's end, a state machine without I/O::

    session = Session("alice", detectors, parameters, sink=sink, pads=pads)
    while not session.over:
        session.feed(tagger.read())               # session.finish() where the recording ends
        for frame in link.receive():
            session.receive(frame)
        session.tick(time.monotonic())
        link.send(session.send())
        reports += session.take_reports()

It puts together the handshake (:mod:`.trust`), sifting (:mod:`.bbm92`), the distillation of several
blocks at once (:mod:`.distill`), tags over everything that was said (:mod:`.authentication`) and
the key store (:mod:`.sink`).

**Blocks.** A block is a stretch of announced time. While one is distilled the next is sifted. One
that cannot give a key (too many errors, too few bits, verification failed) is reported and given
up, and the session goes on.

**Authentication.** Every message is hashed, as it travels, into the transcript of its block and
direction. At the end of a block each party tags its transcript, and nothing is done with a key
before both tags were found right: bases, parities and whatever else was said were then what the
peer said, or the chance of :data:`.authentication.TAG_EPSILON` came true. The calibration is tagged
before it is used. Frames are numbered; one that is lost, repeated, reordered or altered ends
the session, and the next one begins with a handshake of its own.

**A key is committed in two steps.** (a) Alice: Verification and her tag. (b) Bob checks both,
prepares the key in his store, durably, and sends his Verdict with his tag. (c) Alice checks,
prepares and commits: that is the decision. She sends Confirmation with a tag. (d) Bob commits.
Where this is cut short, Bob holds a key that is prepared only, and asks in the next handshake what
became of it. Bob never gives up a prepared key on his own. Blocks are verified in their order, so
that both stores commit in the same order.

**Key for authentication.** Alice decides how much of each key goes to the pool of one-time pads,
tells it in Verification, and both stores take it from the same bytes.

Which of the session's ends remain: whoever speaks last cannot know whether it was heard. Alice may
hold a key that Bob has only prepared; the next handshake settles that.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, get_args

from ...instruments import ProtocolError, TagBatch
from . import messages as msg
from . import wire
from .amplify import Seeds
from .authentication import (
    KEPT_PADS,
    PAIR_BYTES,
    TAG_EPSILON,
    Authenticator,
    PadSource,
    Role,
    Tag,
    Transcript,
)
from .bbm92 import FindDelays, Pairing, PairingAlice, PairingBob
from .distill import DistillAlice, DistillBob, Pace, RawBlock
from .epsilon import EpsilonBudget
from .estimation import ErrorHistory
from .ledger import BlockFailed, LeakLedger
from .parameters import Detectors, Parameters, SessionTerms
from .randomness import Randomness, SystemRandomness
from .report import BlockReport, SecurityReport
from .sifting import Match
from .sifting_party import Said, SiftingParty
from .sink import KeySink, check_kind
from .trust import Established, FirstTrust, Handshake
from .trust import Terms as HandshakeTerms
from .verify import extra_collision

__all__ = ["BlockReport", "Phase", "Progress", "Session", "join"]

#: Blocks that are distilled at once; more of them wait.
_IN_FLIGHT = 8
#: Blocks that may be open in all.
_OPEN = 256

#: Messages of sifting parties, and those of them that open a block.
_SIFTING = (
    msg.Announcement,
    msg.Paired,
    msg.Bases,
    msg.Sifted,
    msg.Monitored,
    msg.Sent,
    msg.Received,
    msg.Detected,
    msg.Prepared,
    msg.Tested,
    msg.Heralded,
    msg.Matched,
    msg.Compared,
)
_SIGNED: tuple[type[Any], ...] = tuple(kind for kind in get_args(msg.Message) if kind.SIGNED)
_OPENING = (msg.Announcement, msg.Sent, msg.Heralded)


class Phase(StrEnum):
    """Where a party stands."""

    HANDSHAKE = "handshake"
    CALIBRATING = "calibrating"
    EXCHANGING = "exchanging"
    FINISHING = "finishing"
    DONE = "done"
    ABORTED = "aborted"


@dataclass(frozen=True)
class Progress:
    """A look at a running session; error rates are None before anything was compared.

    Attributes:
        phase: Where the party stands.
        coincidences: Matched pairs so far, whatever their bases.
        sifted_bits: Sifted so far, with those revealed to monitor.
        key_bits: Key made so far, without what went to the pool.
        expected_bits: Key that the youngest block would give if it ended now and passed all tests.
        blocks: Blocks that gave a key.
        failed_blocks: Blocks that gave none.
        open_blocks: Blocks on their way.
        qber_z: Error rate of the monitored bits in Z.
        qber_x: The same in X.
        double_clicks: Of this party.
        pads: One-time pads left: own, the peer's.
    """

    phase: Phase
    coincidences: int
    sifted_bits: int
    key_bits: int
    expected_bits: int
    blocks: int
    failed_blocks: int
    open_blocks: int
    qber_z: float | None
    qber_x: float | None
    double_clicks: int
    pads: tuple[int, int] | None


class _Stage(StrEnum):
    SIFTING = "sifting"
    DISTILLING = "distilling"
    DECIDING = "deciding"  # Alice: verification sent; Bob: key prepared


class _Scope:
    """What was said of one block, or of the session, both ways."""

    def __init__(self, session: Session, block: int | None) -> None:
        self.name = "session" if block is None else f"block {block}"
        self.ledger = LeakLedger()
        self.traffic: Counter[str] = Counter()
        self.held: msg.Message | None = None  # signed, waits for its tag
        self.tags = 0
        self._session = session
        self._parts = {"alice": 0, "bob": 0}
        self._transcripts: dict[str, Transcript] = {}

    def transcript(self, sender: Role) -> Transcript:
        """What ``sender`` said since its last tag."""
        if sender not in self._transcripts:
            context = f"{self.name} part {self._parts[sender]}"
            auth = self._session._authenticator
            self._transcripts[sender] = auth.transcript(sender, context.encode())
        return self._transcripts[sender]

    def tagged(self, sender: Role) -> None:
        """Begin the next part."""
        del self._transcripts[sender]
        self._parts[sender] += 1
        self.tags += 1


class _Block(_Scope):
    """A block on its way."""

    def __init__(self, session: Session, number: int) -> None:
        super().__init__(session, number)
        self.number = number
        self.stage = _Stage.SIFTING
        self.distiller: DistillAlice | DistillBob | None = None
        self.key_bits = 0
        self.reserve = 0


class Session:
    """One party's end of a key exchange; see the module.

    Args:
        role: Which party this is.
        detectors: What its channels mean; None with ``sifting``.
        parameters: The terms, equal to the peer's: compared in the handshake.
        sink: Its key store.
        pads: Its end of the common pool; None where ``first_trust`` makes the first one.
        first_trust: See :class:`.trust.FirstTrust`.
        names: Name of this party and of its peer.
        find_delays: Alice's search for the delays; see :class:`.bbm92.PairingAlice`.
        known_delays: Delays of this party's own channels among themselves, in ps, from a
            calibration that nobody else could reach. Without them they are found in the light of
            the link, which an attacker can use (``docs/security.md``).
        match: See :class:`.bbm92.PairingAlice`.
        twins: Whether the clicks come from twins: the keys are then no secrets, and only a
            rehearsal's store takes them. So are they with seeded randomness.
        randomness: The operating system's by default.
        timeout_s: Silence of the peer after which the session is given up, where an answer is due.
        reserve_pads: Alice's: pads of each direction that the pool is kept filled to.
        sifting: Makes the sifting party of another protocol than BBM92, from the session's
            randomness and history; detectors, delays and ``match`` are then that party's.

    Attributes:
        over: Nothing more comes: all blocks have ended, or the session was aborted.
        reason: Why it was aborted; empty otherwise.
        history: Errors of the revealed bits over time, the same at both parties, public.

    Raises:
        ProtocolError: for a store of the other kind, or a pool that no handshake can begin with.
    """

    def __init__(
        self,
        role: Role,
        detectors: Detectors | None,
        parameters: SessionTerms,
        *,
        sink: KeySink,
        pads: PadSource | None,
        first_trust: FirstTrust | None = None,
        names: tuple[str, str] | None = None,
        find_delays: FindDelays | None = None,
        known_delays: Mapping[int, int] | None = None,
        match: Match | None = None,
        twins: bool = False,
        randomness: Randomness | None = None,
        timeout_s: float = 60.0,
        reserve_pads: int = 64,
        sifting: Callable[[Randomness, ErrorHistory], SiftingParty] | None = None,
    ) -> None:
        self.role: Role = role
        self.peer: Role = "bob" if role == "alice" else "alice"
        self.parameters = parameters
        self.over = False
        self.reason = ""
        self.history = ErrorHistory()
        self._randomness = randomness or SystemRandomness()
        rehearsal = twins or self._randomness.kind == "seeded"
        check_kind(sink, rehearsal=rehearsal)
        #: Messages that are tagged at once, and held until the tag was found right.
        self._signed = _SIGNED
        if isinstance(parameters, Parameters) and parameters.tag_pairs:
            self._signed += (msg.Paired,)
        self._sink = sink
        self._timeout = timeout_s
        self._reserve_pads = reserve_pads
        self._now: float | None = None
        self._heard: float | None = None
        self._pace = Pace(lambda: None if self._randomness.kind == "seeded" else self._now)
        self._pairing: SiftingParty
        if sifting is not None:
            self._pairing = sifting(self._randomness, self.history)
        else:
            if detectors is None or not isinstance(parameters, Parameters):
                raise ValueError("BBM92 needs detectors and Parameters")
            common: dict[str, Any] = {"known_delays": known_delays}
            if role == "alice":
                common |= {"find_delays": find_delays, "match": match}
            self._pairing = (PairingAlice if role == "alice" else PairingBob)(
                detectors, parameters, self._randomness, self.history, **common
            )
        if role == "alice":
            for block in sink.prepared():
                sink.discard(block)  # she had not decided for them, and Bob may have been told so
        self._finished = False
        self._outbox: list[bytes] = []
        self._sent = 0
        self._received = 0
        self._established: Established | None = None
        self._session_scope: _Scope | None = None
        self._blocks: dict[int, _Block] = {}
        self._opened = 0
        self._failed_here: set[int] = set()
        self._seeds = Seeds()
        self._reports: list[BlockReport] = []
        self.budget = EpsilonBudget(parameters.total_epsilon)
        self._report = SecurityReport(
            role,
            dataclasses.asdict(parameters),
            list(self._pairing.assumptions),
            "none yet",
            self._randomness.kind,
            rehearsal,
        )
        own_name, peer_name = names or (role, self.peer)
        self._handshake = Handshake(
            HandshakeTerms(role, own_name, peer_name, wire.VERSION, parameters.digest()),
            pads=pads,
            first_trust=first_trust,
            pending=sink.prepared() if role == "bob" else (),
            committed=sink.committed if role == "alice" else None,
            commits=sink.commits,
        )
        self._outbox += self._handshake.start()

    # What a caller does.

    def feed(self, batch: TagBatch) -> None:
        """Take the next clicks of this party's own tagger.

        Raises:
            ProtocolError: after :meth:`finish`, or where the batch does not follow the last one.
        """
        if self._finished:
            raise ProtocolError(f"{self.role} was fed clicks after the end of the recording")
        if not self.over:
            self._pairing.feed(batch)
            self._guard(self._pairing.advance)

    def advance(self) -> None:
        """Say what the sifting party has to say: after something was done to it, not by clicks."""
        if not self.over:
            self._guard(self._pairing.advance)

    def finish(self) -> None:
        """End the recording: no more clicks come; the open block is distilled as it is.

        Its end must not hang on what was seen: finish at a time set before.
        """
        if not self._finished:
            self._finished = True
            if not self.over:
                self._guard(self._pairing.finish)

    def receive(self, frame: bytes) -> None:
        """Take the peer's next frame. Anything wrong with it ends the session with its reason."""
        self._heard = self._now
        if not self.over:
            self._guard(lambda: self._take(frame))

    def send(self) -> list[bytes]:
        """Frames to the peer since the last call, in order."""
        out, self._outbox = self._outbox, []
        return out

    def tick(self, now_s: float) -> None:
        """Tell the time, by any clock that never goes back; gives up on a peer that is silent.

        Silence counts only where an answer is due: in the handshake, while a block is distilled,
        and after the recording.
        """
        self._now = now_s
        distilling = any(block.stage is not _Stage.SIFTING for block in self._blocks.values())
        due = self._established is None or self._finished or distilling
        if self._heard is None or not due:
            self._heard = now_s
        elif not self.over and now_s - self._heard > self._timeout:
            self.abort(f"no message from {self.peer} for {self._timeout:g} s")

    def abort(self, reason: str) -> None:
        """End the session now. Keys that are prepared stay so, for the next handshake to settle."""
        self._end(reason, tell=True)

    @property
    def ready(self) -> bool:
        """Whether more clicks are welcome: not where too many blocks are being distilled."""
        return self._distilling < _IN_FLIGHT

    @property
    def session_id(self) -> str | None:
        """Id of the session in hex; block ids begin with it. None before the handshake is over."""
        return None if self._established is None else self._established.session.hex()

    @property
    def provisional(self) -> bool:
        """Whether the session rests on a first trust: end it after its first key."""
        return self._established is not None and self._established.provisional

    @property
    def pairing(self) -> Pairing:
        """BBM92's sifting party: calibration matrix, clicks, Bob's clock at Alice."""
        assert isinstance(self._pairing, Pairing)
        return self._pairing

    @property
    def phase(self) -> Phase:
        """Where this party stands."""
        if self.over:
            return Phase.ABORTED if self.reason else Phase.DONE
        if self._established is None:
            return Phase.HANDSHAKE
        if self._pairing.calibrating:
            return Phase.CALIBRATING
        return Phase.FINISHING if self._finished else Phase.EXCHANGING

    @property
    def progress(self) -> Progress:
        """Where the session stands; public figures only."""
        pairing, totals = self._pairing, self._report.totals
        pads = None if self._established is None else self._established.pads
        return Progress(
            self.phase,
            pairing.coincidences,
            pairing.sifted,
            totals["key_bits"] - totals["reserve_bits"],
            0 if self.over else pairing.expected_bits,
            totals["blocks"] - totals["blocks_without_key"],
            totals["blocks_without_key"],
            len(self._blocks),
            pairing.monitor.qber(0),
            pairing.monitor.qber(1),
            pairing.double_clicks,
            pads.remaining if pads else None,
        )

    def take_reports(self) -> list[BlockReport]:
        """Reports of the blocks that have ended since the last call."""
        reports, self._reports = self._reports, []
        return reports

    @property
    def blocks_opened(self) -> int:
        """Blocks begun so far; their ids are ``"<session id>/<number>"``."""
        return self._opened

    def figures(self) -> dict[str, Any]:
        """Figures of all blocks together, public and the same at both parties, fit for JSON."""
        return self._report.figures() | {
            "sifted_bits": self._pairing.sifted,
            "monitor_bits": sum(self._pairing.monitor.compared),
            "authentication": self._report.authentication,
            "tolerance": self.parameters.tolerance,
        }

    def report(self) -> dict[str, Any]:
        """The security report so far, fit for JSON. ``own_clicks`` in it are not public."""
        scope = self._session_scope
        spent = 0 if self._established is None else self._authenticator.pads_spent
        return self._report.as_dict(
            session=self.session_id,
            phase=str(self.phase),
            reason=self.reason,
            provisional=self.provisional,
            epsilon=self.budget.as_dict(),
            own_clicks=self._pairing.counts(),
            key={
                "gained_bits": self._report.totals["key_bits"],
                "reserved_bits": self._report.totals["reserve_bits"],
                "consumed_bits": 128 * spent,
                "net_bits": self._report.totals["key_bits"] - 128 * spent,
            },
            session_traffic_bytes=dict(scope.traffic) if scope else {},
        )

    # Frames.

    @property
    def _authenticator(self) -> Authenticator:
        assert self._established is not None
        return self._established.authenticator

    @property
    def _distilling(self) -> int:
        return sum(block.stage is not _Stage.SIFTING for block in self._blocks.values())

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
            if not self.over:
                self._go_on()
        except ProtocolError as error:
            self.abort(str(error))
        except (ValueError, LookupError, ArithmeticError) as error:
            # Own clicks were checked when they came, so it is what the peer said.
            self.abort(f"what {self.peer} sent cannot be used: {error}")

    def _take(self, data: bytes) -> None:
        if self._established is None:
            self._outbox += self._handshake.receive(data)
            if self._handshake.established is not None:
                self._open(self._handshake.established)
            return
        frame = wire.decode(data)
        if frame.number != self._received:
            raise ProtocolError(
                f"message {self._received} of {self.peer} did not come in its turn:"
                " one was lost, repeated or reordered"
            )
        self._received += 1
        message, block = frame.message, frame.block
        kind = type(message).__name__
        if self.peer not in message.SENDER:
            raise ProtocolError(f"{self.peer} sent a {kind}, which only {self.role} says")
        if isinstance(message, msg.Abort):
            self._end(f"{self.peer} aborted: {message.reason}", tell=False)
            return
        if not isinstance(message, msg.Tag) and (block is None) != message.SESSION:
            raise ProtocolError(f"{self.peer} sent a {kind} that belongs to no such block")
        if block in self._failed_here:
            if isinstance(message, msg.Failed):
                self._failed_here.discard(block)
            return
        scope = self._scope(block, message)
        scope.traffic[f"{self.peer} {kind}"] += len(data)
        if isinstance(message, msg.Tag):
            self._take_tag(scope, message)
            if scope.held is not None:
                held, scope.held = scope.held, None
                self._dispatch(scope, block, held)
            return
        if scope.held is not None:
            raise ProtocolError(f"{self.peer} did not tag a {type(scope.held).__name__}")
        scope.transcript(self.peer).update(data)
        if isinstance(message, self._signed):
            scope.held = message
        else:
            self._dispatch(scope, block, message)

    def _take_tag(self, scope: _Scope, message: msg.Tag) -> None:
        if scope.held is None:
            raise ProtocolError(f"{self.peer} sent a tag for nothing")
        self.budget.spend("a forged tag", TAG_EPSILON)
        self._authenticator.verify(scope.transcript(self.peer), Tag(message.index, message.tag))
        scope.tagged(self.peer)

    def _scope(self, block: int | None, message: msg.Message) -> _Scope:
        if block is None:
            assert self._session_scope is not None
            return self._session_scope
        if isinstance(message, _OPENING) and block == self._opened:
            if len(self._blocks) >= _OPEN:
                raise ProtocolError(f"more than {_OPEN} blocks are open")
            self._blocks[block] = _Block(self, block)
            self._opened += 1
        found = self._blocks.get(block)
        if found is None:
            raise ProtocolError(f"a {type(message).__name__} for block {block}, which is not open")
        return found

    def _post(self, block: int | None, message: msg.Message) -> None:
        scope = self._scope(block, message)
        scope.ledger.write(self.role, message)
        data = self._frame(block, message)
        scope.traffic[f"{self.role} {type(message).__name__}"] += len(data)
        if isinstance(message, msg.Tag):
            return
        scope.transcript(self.role).update(data)
        if isinstance(message, self._signed):
            self.budget.spend("a forged tag", TAG_EPSILON)
            tag = self._authenticator.sign(scope.transcript(self.role))
            scope.tagged(self.role)
            self._post(block, msg.Tag(tag.index, tag.tag))

    def _frame(self, block: int | None, message: msg.Message) -> bytes:
        data = wire.encode(wire.Frame(block, self._sent, message))
        self._sent += 1
        self._outbox.append(data)
        return data

    # The session.

    def _open(self, established: Established) -> None:
        self._established = established
        self._session_scope = _Scope(self, None)
        self._report.authentication = "wegman-carter" + (
            ", pool of a first trust (computational)"
            if established.provisional
            else ", common secret pool"
        )
        self.budget.spend("a forged tag", TAG_EPSILON, times=2)  # the handshake's
        if self.role == "bob":
            for block in established.settled:
                self._sink.commit(block)
            for block in self._sink.prepared():
                self._sink.discard(block)

    def _end(self, reason: str, *, tell: bool) -> None:
        if self.over:
            return
        self.over = True
        self.reason = "".join(c if c.isprintable() else " " for c in reason[:1000]) or "aborted"
        if tell and self._established is not None:
            self._frame(None, msg.Abort(self.reason))
        for block in self._blocks.values():
            if block.distiller is not None:
                block.distiller.forget()
            self._note(block, self.reason)
        self._blocks.clear()
        self._pairing.forget()

    def _go_on(self) -> None:
        """Say and do what can be done by now."""
        if self._established is None:
            return
        pairing = self._pairing
        while True:
            while pairing.out:
                item = pairing.out.popleft()
                if isinstance(item, Said):
                    self._post(item.block, item.message)
                else:
                    self._begin(item)
            self._verify_in_order()
            if self.role == "alice":
                break
            held, pairing.hold = pairing.hold, not self.ready
            if not held or pairing.hold:
                break
            pairing.advance()
        if pairing.over and not self._blocks:
            self.over = True
            pairing.forget()

    def _dispatch(self, scope: _Scope, block: int | None, message: msg.Message) -> None:
        """Act on a message that is authentic, or will be before anything is done with a key."""
        if message.SESSION:
            self._pairing.handle(None, message)
        elif isinstance(message, _SIFTING):
            scope.ledger.write(self.peer, message)
            self._pairing.handle(block, message)
        else:
            assert isinstance(scope, _Block)
            try:
                scope.ledger.write(self.peer, message)
                self._distil(scope, message)
            except BlockFailed as failure:
                self._fail(scope, str(failure))

    # Blocks.

    def _block_id(self, number: int) -> str:
        return f"{self.session_id}/{number}"

    def _begin(self, raw: RawBlock) -> None:
        block = self._blocks[raw.number]
        self.budget.spend("a key that is not ideal", self.parameters.epsilon)
        distiller = (DistillAlice if self.role == "alice" else DistillBob)(
            raw,
            self._pairing.terms(raw),
            self.parameters,
            self._randomness,
            self.history,
            block.ledger,
            self._seeds,
            lambda message: self._post(raw.number, message),
        )
        if isinstance(distiller, DistillAlice):
            distiller.pace = self._pace
        if (more := extra_collision(distiller.n)) > 0.0:
            self.budget.spend("a collision beyond 2^-t of the verification", more)
        block.distiller = distiller
        block.stage = _Stage.DISTILLING
        try:
            distiller.begin()
        except BlockFailed as failure:
            self._fail(block, str(failure))

    def _distil(self, block: _Block, message: msg.Message) -> None:
        distiller = block.distiller
        if isinstance(message, msg.Failed):
            if block.stage is not _Stage.DISTILLING:
                raise ProtocolError(f"{self.peer} gave up a block that is not being distilled")
            self._fail(block, message.reason, told=True)
        elif isinstance(distiller, DistillAlice):
            if isinstance(message, msg.Verdict):
                self._in_turn(block)
            distiller.handle(message)
            if isinstance(message, msg.Verdict):
                self._decide(block, distiller)
        elif isinstance(distiller, DistillBob):
            if isinstance(message, msg.Confirmation):
                self._take_over(block)
            else:
                key = distiller.handle(message)
                if isinstance(message, msg.Verification):
                    self._prepare(block, message, key)
        else:
            raise ProtocolError(
                f"{self.peer} sent a {type(message).__name__} before the block was sifted"
            )

    def _in_turn(self, block: _Block) -> None:
        if any(number < block.number for number in self._blocks):
            raise ProtocolError(f"{self.peer} decides on blocks out of their order")

    def _verify_in_order(self) -> None:
        """Alice: verify what is reconciled, but no block before those that began earlier."""
        for number in sorted(self._blocks):
            block = self._blocks[number]
            if block.stage is _Stage.DECIDING:
                continue
            distiller = block.distiller
            if not isinstance(distiller, DistillAlice) or not distiller.reconciled:
                break
            block.stage = _Stage.DECIDING
            distiller.verify(self._share(block, distiller.key_bytes))

    def _share(self, block: _Block, key_bytes: int) -> int:
        """Bytes of a key that are to fill the pool up."""
        assert self._established is not None
        waiting = sum(other.reserve for other in self._blocks.values())
        wanted = PAIR_BYTES * (self._reserve_pads - min(self._established.pads.remaining))
        most = key_bytes - key_bytes % PAIR_BYTES
        block.reserve = min(max(0, wanted - waiting), most)
        return block.reserve

    def _prepare(self, block: _Block, message: msg.Verification, key: bytes | None) -> None:
        """Bob: keep the key, durably, and say so."""
        earlier = (other for number, other in self._blocks.items() if number < block.number)
        if any(other.stage is not _Stage.DECIDING for other in earlier):
            raise ProtocolError(f"{self.peer} decides on blocks out of their order")
        if key is None:
            self._post(block.number, msg.Verdict(False))
            raise BlockFailed("verification failed: the corrected blocks differ")
        block.stage = _Stage.DECIDING
        block.reserve = message.reserve
        block.key_bits = 8 * len(key)
        self._sink.prepare(self._block_id(block.number), key, message.reserve)
        self._post(block.number, msg.Verdict(True))

    def _decide(self, block: _Block, distiller: DistillAlice) -> None:
        """Alice: the key is; nothing can take it back from here."""
        assert self._established is not None
        if self._established.pads.remaining[0] <= KEPT_PADS:
            raise ProtocolError("the pool holds no key any more to confirm a block with")
        key = distiller.key()
        block.key_bits = 8 * len(key)
        name = self._block_id(block.number)
        self._sink.prepare(name, key, block.reserve)
        self._sink.commit(name)
        self._post(block.number, msg.Confirmation())
        self._close(block, "")

    def _take_over(self, block: _Block) -> None:
        """Bob: Alice has committed."""
        if block.stage is not _Stage.DECIDING:
            raise ProtocolError("alice confirmed a key that is not prepared")
        self._in_turn(block)
        self._sink.commit(self._block_id(block.number))
        self._close(block, "")

    def _fail(self, block: _Block, reason: str, *, told: bool = False) -> None:
        reason = "".join(c if c.isprintable() else " " for c in reason[:1000])
        reason = reason or f"{self.peer} gave it up and did not say why"  # no reason means a key
        self._post(block.number, msg.Failed(reason))
        if not told:
            self._failed_here.add(block.number)
        block.key_bits = block.reserve = 0
        self._close(block, reason)

    def _close(self, block: _Block, reason: str) -> None:
        if block.distiller is not None:
            block.distiller.forget()
        self._note(block, reason)
        del self._blocks[block.number]

    def _note(self, block: _Block, reason: str) -> None:
        distiller, ledger = block.distiller, block.ledger
        if distiller is None:
            return  # it was never more than announced
        bound = distiller.bound
        epsilons = {"authentication": block.tags * TAG_EPSILON}
        if bound is not None and not reason:
            epsilons |= {
                "correctness": distiller.correctness,
                "estimation": bound.estimation,
                "amplification": bound.amplification,
            }
        sample = distiller.sample
        report = BlockReport(
            block=self._block_id(block.number),
            number=block.number,
            reason=reason,
            coincidences=distiller.coincidences,
            monitored_compared=distiller.monitored.compared,
            monitored_errors=distiller.monitored.wrong,
            sifted_bits=distiller.m,
            sample_bits=distiller.terms.sample_bits if sample else 0,
            sample_compared=sample.compared if sample else None,
            sample_errors=sample.wrong if sample else None,
            tolerance=distiller.terms.tolerance,
            reconciled_bits=distiller.n,
            corrected_errors=distiller.corrected,
            method=distiller.method,
            leak_bits=ledger.leak_bits,
            leak_budget_bits=distiller.terms.leak_budget,
            efficiency=distiller.efficiency,
            verify_bits=distiller.terms.verify_bits,
            verified=distiller.verified,
            key_bits=0 if reason else block.key_bits,
            reserve_bits=0 if reason else 8 * block.reserve,
            pads_spent=block.tags,
            epsilons=epsilons | {"total": sum(epsilons.values())},
            disclosed_bits=ledger.as_dict(),
            traffic_bytes=dict(sorted(block.traffic.items())),
        )
        self._report.add(report)
        self._reports.append(report)


def join(
    alice: Session,
    bob: Session,
    intercept: Callable[[str, bytes], Iterable[bytes]] | None = None,
) -> int:
    """Carry frames between two sessions in one process until neither has anything to say.

    Args:
        alice: One end.
        bob: The other.
        intercept: Sees ``(sender, frame)`` and returns the frames to deliver in its place; for
            records, and for tests of loss and tampering.

    Returns:
        Frames delivered.
    """
    delivered = 0
    busy = True
    while busy:
        busy = False
        for sender, receiver in ((alice, bob), (bob, alice)):
            for frame in sender.send():
                busy = True
                for each in intercept(sender.role, frame) if intercept else (frame,):
                    receiver.receive(each)
                    delivered += 1
    return delivered
