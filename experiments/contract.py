"""What a protocol's module is made of, and what it is handed; see :mod:`bellbench.experiments`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from .. import calibrations
from ..bench import BenchConfig, open_bench
from ..calibrations import Calibration, Kind
from ..configs import Loc, nearest
from ..instruments import Unit
from ..live import Progress

if TYPE_CHECKING:
    from ..lab import Lab
    from ..runs import RunFolder

__all__ = [
    "LONGEST_S",
    "Duration",
    "Experiment",
    "ExperimentFile",
    "Mistake",
    "Model",
    "Result",
    "Run",
    "lacks",
]

#: Longest recording, s: its times are int64 picoseconds, which end after 9e6 s.
LONGEST_S = 1e6

Duration = Annotated[float, Unit("s"), Field(gt=0, le=LONGEST_S)]

#: Where in the experiment's file, and what is wrong there.
Mistake = tuple[Loc, str]


class Model(BaseModel):
    """A mapping in an experiment file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ExperimentFile(Model):
    """What every experiment file says; a protocol adds its own keys.

    A protocol that can be run for a longer or shorter time calls that ``duration: Duration``:
    ``bellbench run --duration`` replaces it.
    """

    bellbench: Literal["experiment/1"]
    protocol: str
    """A subclass narrows it to the ``Literal`` of its own name."""
    bench: str
    """Bundled name, or a path relative to this file."""
    calibrations: tuple[Kind, ...] = ()
    """Stored calibrations whose set points are applied whenever the bench is opened."""


F = TypeVar("F", bound=ExperimentFile)


@dataclass(frozen=True)
class Result:
    """What a protocol hands back.

    Attributes:
        metrics: Public figures, fit for JSON (no NaN); the run adds ``experiment``, ``protocol``,
            ``seed``, ``all_twins`` and ``wall_s``. A run that ends without a result (aborted,
            dark) is no error: it says ``aborted: True`` and a ``reason``.
        draw: Writes the pictures into a folder.
        secrets: Files that only the user may read, by name.
    """

    metrics: dict[str, Any]
    draw: Callable[[Path], None]
    secrets: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment(Generic[F]):
    """One protocol.

    Attributes:
        file: Model of its experiment file.
        check: What is wrong with a file on a bench, beyond what the model says; :func:`lacks`
            tells what the bench is missing.
        run: Does it.
        rows: Turns the metrics into lines for a person: a name and a value, in rich's markup.
    """

    file: type[F]
    check: Callable[[F, BenchConfig], Iterable[Mistake]]
    run: Callable[[F, Run], Result]
    rows: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]]


class Run:
    """A run that is going on: what a protocol works with.

    Attributes:
        name: Name of the experiment, for titles.
        bench: The bench.
        show: Call it with the progress.
    """

    def __init__(
        self,
        name: str,
        bench: BenchConfig,
        *,
        folder: RunFolder,
        benches: ExitStack,
        stored: Sequence[Calibration],
        seed: int | None,
        show: Callable[[Progress], None],
    ) -> None:
        self.name = name
        self.bench = bench
        self.show = show
        self._folder = folder
        self._benches = benches
        self._stored = stored
        self._seed = seed
        self._lab: Lab | None = None

    @property
    def lab(self) -> Lab | None:
        """The bench opened last."""
        return self._lab

    def open(self, label: str = "") -> Lab:
        """Open the bench, bring it up, apply the calibrations, and keep a snapshot.

        The lab is closed by the run, after the result was written or when an error ends it; so a
        protocol needs no ``with``. A second call closes the bench first and opens it anew, with the
        same seed: the same world from its beginning.

        Args:
            label: Names the snapshot where there are several.

        Raises:
            BellbenchError: where the bench cannot be opened.
        """
        self._benches.close()
        if self._lab is not None and self._seed is None:
            self._seed = self._lab.seed
        words = f" ({label})" if label else ""
        self.show(Progress(f"opening the bench, waiting for its set points{words}"))
        lab = self._benches.enter_context(open_bench(self.bench, seed=self._seed))
        self._lab = lab
        if self._stored:
            self._folder.write_json("calibrations.json", calibrations.record(self._stored))
            self.show(Progress(f"applying the calibrations{words}"))
            calibrations.apply(lab, self._stored, timeout_s=self.bench.settle_timeout)
        name = f"snapshot {label}".strip().replace(" ", "_")
        self._folder.write_json(f"{name}.json", lab.snapshot())
        return lab


def lacks(
    file: ExperimentFile,
    bench: BenchConfig,
    party: str,
    *,
    labels: Sequence[str] = (),
    roles: Sequence[str] = (),
) -> list[Mistake]:
    """Return what a bench's party lacks, each with the nearest name that is there.

    Args:
        file: The experiment.
        bench: Its bench.
        party: Name that the protocol gives the party.
        labels: Labels that inputs of its tagger must have.
        roles: Keys of the bench file's party (``source``, ``controller``...) that must be given.
    """
    found = bench.parties.get(party)
    if found is None:
        near = nearest(party, bench.parties)
        message = f"{file.protocol} needs a party {party!r}; {bench.path} has none{near}"
        return [(("bench",), message)]
    there = list(found.channels.values())
    words = []
    if missing := [label for label in labels if label not in there]:
        near = nearest(missing[0], [label for label in there if label not in labels])
        words.append(
            f"{file.protocol} needs a party {party!r} with channels {', '.join(labels)};"
            f" {bench.path} lacks {', '.join(missing)}{near}"
        )
    words += [
        f"{file.protocol} needs a party {party!r} with a {role}; {bench.path} names none"
        for role in roles
        if getattr(found, role) is None
    ]
    return [(("bench",), word) for word in words]
