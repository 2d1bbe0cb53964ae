"""Photon-HDF5 0.5, one spot: photon times and detectors in HDF5. Needs h5py.

Read: ``/photon_data/timestamps`` in units of ``timestamps_specs/timestamps_unit``, rounded to the
nearest ps (halves up, no accumulation); ``detectors`` are the channels (0 where there are none);
``nanotimes``, where there are, are added in units of ``nanotimes_specs/tcspc_unit``. Times count
from the file's own zero. Clicks are sorted, see `in_order`.

Written: the fields the format demands, in steps of 1 ps or of ``resolution_ps``. What it has no
place for, stands under ``/user/bellbench``, and is read again: start, clock, losses, and begin
and end of the recording.

Memory: the photons of a chunk; the losses. A data set is read only if its chunks are in the
file and no larger than 64 MiB, whatever its header promises.

Source: Photon-HDF5 reference 0.5; checked with phconvert.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import TagFileError
from ..tags import Loss, TagBatch
from ._common import (
    LATEST_PS,
    About,
    Decoded,
    Following,
    Piece,
    TagFileInfo,
    error_at,
    in_order,
    step_of,
    to_ps,
)

__all__ = ["PHOTON_HDF5", "PhotonHdf5Codec"]

_MAGIC = b"\x89HDF\r\n\x1a\n"
_CHUNK = 1 << 16
_LARGEST = 1 << 26
_LOSSES = 1 << 20
_KINDS = ("overflow", "gap", "late", "corrupt", "clock")
_OURS = "user/bellbench"


class PhotonHdf5Codec:
    """Reader and writer."""

    begin_ps: int | None = None
    losses = frozenset(_KINDS)

    def describe(self, path: Path, size: int) -> TagFileInfo:
        """Describe the photons and check that the file holds what it promises."""
        with _opened(path) as file, _damage(path):
            photons = _group(file, path)
            times = _data_set(file, photons, "timestamps", path, size)
            for name in ("detectors", "nanotimes"):
                if name in photons and _data_set(file, photons, name, path, size).size != (
                    times.size
                ):
                    raise TagFileError(
                        f"/photon_data/{name} and timestamps differ in length: damaged",
                        path=str(path),
                    )
            unit_ps = _unit(photons, "timestamps_specs/timestamps_unit", path)
            header: dict[str, Any] = {}
            if "nanotimes" in photons:
                header["tcspc_ps"] = _unit(photons, "nanotimes_specs/tcspc_unit", path)
            if "description" in file:
                text = file["description"][()]
                header["File_Comment"] = (
                    text.decode(errors="replace") if isinstance(text, bytes) else str(text)
                )[:1000]
            ours = file[_OURS].attrs if _OURS in file else {}
            start, clock = ours.get("start_unix_ns", 0), ours.get("clock_id", "")
            return TagFileInfo(
                "photon_hdf5",
                str(path),
                int(times.size),
                int(times.dtype.itemsize),
                0,
                unit_ps,
                header,
                start_unix_ns=int(start),
                clock_id=str(clock),
            )

    def read(self, info: TagFileInfo, chunk_records: int) -> Iterator[Piece]:
        """Decode the photons."""
        path = Path(info.path)
        with _opened(path) as file:
            try:
                begin, losses, end = _ours(file, path)
                if begin is not None:
                    none = np.zeros(0, np.int64)
                    yield Piece(none, none.astype(np.int16), begin)
                yield from in_order(info, _photons(file, info, chunk_records, losses, end))
            except TagFileError as error:
                if error.offset is None or error.path != info.path:
                    raise
                record = error.offset // info.record_bytes
                message = str(error).partition(": ")[2]
                raise TagFileError(message, path=info.path, offset=_offset(file, record)) from None

    def writer(self, file: BinaryIO, about: About) -> PhotonHdf5Writer:
        """Begin a file."""
        return PhotonHdf5Writer(file, about)

    def plausible(self, head: bytes, size: int) -> bool:
        """Whether the file is HDF5."""
        return head.startswith(_MAGIC)


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise TagFileError(
            "Photon-HDF5 needs h5py, which is not installed: pip install 'bellbench[hdf5]'"
        ) from error


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise TagFileError(
            f"the HDF5 library finds it damaged: {reason}; copy it again", path=str(path), offset=0
        ) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    h5py = _h5py()
    with path.open("rb"):  # a missing file is told by open_tags
        pass
    with _damage(path):
        file = h5py.File(path, "r", locking=False)
    try:
        yield file
    finally:
        file.close()


def _group(file: Any, path: Path) -> Any:
    if "photon_data" in file:
        return file["photon_data"]
    spots = sum(name.startswith("photon_data") for name in file)
    raise TagFileError(
        f"holds {spots} spots (/photon_data0...); only files of one can be read"
        if spots
        else "is HDF5, but not Photon-HDF5: it has no /photon_data",
        path=str(path),
        offset=0,
    )


def _data_set(file: Any, group: Any, name: str, path: Path, size: int) -> Any:
    def fail(message: str) -> TagFileError:
        return TagFileError(f"/photon_data/{name} {message}", path=str(path), offset=0)

    if name not in group:
        raise fail("is missing: not Photon-HDF5, or damaged")
    data = group[name]
    if not hasattr(data, "dtype") or data.dtype.kind not in "iu" or data.ndim != 1:
        raise fail("is not a row of integers")
    if data.file.filename != file.filename or data.is_virtual or data.external:
        raise fail("lies in another file; join them first (h5repack)")
    if data.chunks is None:
        held = min(data.id.get_storage_size(), size) // data.dtype.itemsize
    else:
        if data.chunks[0] * data.dtype.itemsize > _LARGEST:
            raise fail(f"comes in chunks of {data.chunks[0]} numbers, too many to read at once")
        held = data.id.get_num_chunks() * data.chunks[0]
    if data.size > held:
        raise fail(f"promises {data.size} numbers, {held} are in the file: truncated or damaged")
    return data


def _unit(group: Any, name: str, path: Path) -> float:
    unit = group[name][()] if name in group else np.nan
    try:
        step = float(unit) * 1e12
    except (TypeError, ValueError):
        step = np.nan
    if not 1e-3 <= step <= 1e15:
        raise TagFileError(
            f"/photon_data/{name} says a time step of {step:g} ps: missing or damaged",
            path=str(path),
            offset=0,
        )
    return step


def _ours(file: Any, path: Path) -> tuple[int | None, list[Loss], int | None]:
    """Return begin, losses and end as our writer left them."""
    with _damage(path):
        if _OURS not in file:
            return None, [], None
        ours = file[_OURS]
        begin, end = ours.attrs.get("begin_ps"), ours.attrs.get("end_ps")
        losses: list[Loss] = []
        if "losses" in ours:
            rows = ours["losses"]
            if rows.ndim != 2 or rows.shape[1] != 4 or rows.shape[0] > _LOSSES:
                raise ValueError("/user/bellbench/losses is no table of losses")
            losses += [
                Loss(_KINDS[kind], first, last, None if count < 0 else count)
                for kind, first, last, count in rows[:].astype(np.int64).tolist()
                if 0 <= kind < len(_KINDS) and first <= last
            ]
        return (
            None if begin is None else int(begin),
            sorted(losses, key=lambda loss: loss.begin_ps),
            None if end is None else int(end),
        )


def _photons(
    file: Any, info: TagFileInfo, chunk_records: int, losses: list[Loss], end: int | None
) -> Iterator[Decoded]:
    path = Path(info.path)
    with _damage(path):
        photons = file["photon_data"]
        data = [photons.get(name) for name in ("detectors", "nanotimes")]
        times = photons["timestamps"]
    step = Fraction(info.resolution_ps).limit_denominator(1 << 16)
    most = int(LATEST_PS / info.resolution_ps)
    for first in range(0, info.records, chunk_records):
        until = min(first + chunk_records, info.records)
        with _damage(path):
            ticks = times[first:until]
            channels, nano = (None if d is None else d[first:until] for d in data)
        wrong = ticks > most
        if ticks.dtype.kind == "i":
            wrong |= ticks < -most
        if channels is None:
            channels = np.zeros(ticks.size, np.int16)
        wrong |= (channels > (1 << 15) - 1) | (channels.astype(np.int64) < -(1 << 15))
        good = int(np.argmax(wrong)) if wrong.any() else ticks.size
        ps = to_ps(ticks[:good].astype(np.int64), step.numerator, step.denominator)
        if nano is not None:
            fine = np.floor(nano[:good].astype(np.float64) * info.header["tcspc_ps"] + 0.5)
            ps = ps + np.clip(fine, -1e15, 1e15).astype(np.int64)
        yield Decoded(
            ps,
            channels[:good].astype(np.int16),
            first + np.arange(good),
            None,
            tuple(losses) if not first else (),
        )
        if good < ticks.size:
            raise error_at(
                info,
                first + good,
                f"time {ticks[good]} of detector {channels[good]} cannot be: damaged",
            )
    if end is not None:
        none = np.zeros(0, np.int64)
        waiting = () if info.records else tuple(losses)
        yield Decoded(none, none.astype(np.int16), none, end - 1, waiting)


def _offset(file: Any, record: int) -> int:
    """Byte offset of a photon's time, or of the chunk that holds it."""
    times = file["photon_data/timestamps"]
    if times.chunks is None:
        return int(times.id.get_offset() or 0) + record * int(times.dtype.itemsize)
    chunk = record // times.chunks[0] * times.chunks[0]
    return int(times.id.get_chunk_info_by_coord((chunk,)).byte_offset or 0)


class PhotonHdf5Writer:
    """Writes photons as they come; the counts at the end."""

    def __init__(self, file: BinaryIO, about: About) -> None:
        self._step = step_of(1.0 if about.resolution_ps is None else about.resolution_ps)
        self._following = Following()
        self._counts: dict[int, int] = {}
        self._losses: list[Loss] = []
        self._begin: int | None = None
        self._file = _h5py().File(file, "w")
        _title(
            self._file,
            "A file format for photon-counting detector based single-molecule spectroscopy"
            " experiments.",
        )
        photons = self._group("photon_data", "Group containing arrays of photon-data.")
        self._times = self._array(
            photons,
            "timestamps",
            np.int64,
            "Array of photon timestamps. Units specified in timestamps_units (defined in"
            " timestamps_specs/).",
        )
        self._channels = self._array(
            photons, "detectors", np.int16, "Array of pixel IDs for each timestamp."
        )
        self._group("photon_data/timestamps_specs", "Specifications for timestamps.")
        self._put(
            "photon_data/timestamps_specs/timestamps_unit",
            float(self._step) * 1e-12,
            "Value of 1-unit timestamp-increment in seconds.",
        )
        ours = self._file.create_group(_OURS)
        ours.attrs["start_unix_ns"], ours.attrs["clock_id"] = about.start_unix_ns, about.clock_id
        self._start_unix_ns = about.start_unix_ns

    def _group(self, name: str, title: str) -> Any:
        group = self._file.require_group(name)
        _title(group, title)
        return group

    def _array(self, group: Any, name: str, dtype: npt.DTypeLike, title: str) -> Any:
        array = group.create_dataset(
            name, (0,), dtype, chunks=(_CHUNK,), maxshape=(None,), compression=1, shuffle=True
        )
        _title(array, title)
        return array

    def _put(self, name: str, value: Any, title: str) -> None:
        _title(self._file.create_dataset(name, data=value), title)

    def write(self, batch: TagBatch) -> None:
        """Append a batch; its losses are kept."""
        self._following.check(batch)
        if self._begin is None:
            self._begin = batch.begin_ps
            self._file[_OURS].attrs["begin_ps"] = batch.begin_ps
        size = self._times.shape[0] + len(batch)
        for array, values in (
            (self._times, to_ps(batch.times_ps, self._step.denominator, self._step.numerator)),
            (self._channels, batch.channels),
        ):
            array.resize((size,))
            array[size - len(batch) :] = values
        for channel, count in zip(*np.unique(batch.channels, return_counts=True), strict=True):
            self._counts[int(channel)] = self._counts.get(int(channel), 0) + int(count)
        self._losses += [
            x for x in batch.losses if x.begin_ps >= batch.begin_ps or x not in self._losses[-64:]
        ]
        self._following.end_ps = batch.end_ps

    def finish(self) -> None:
        """Write what is known only now."""
        begin, end = self._begin or 0, self._following.end_ps or 0
        ours = self._file[_OURS]
        ours.attrs["end_ps"] = end
        if self._losses:
            ours["losses"] = np.array(
                [
                    (
                        _KINDS.index(x.kind) if x.kind in _KINDS else 1,
                        x.begin_ps,
                        x.end_ps,
                        -1 if x.count is None else x.count,
                    )
                    for x in self._losses
                ],
                np.int64,
            )
        self._put("acquisition_duration", (end - begin) * 1e-12, "Measurement duration in seconds.")
        self._put(
            "description",
            np.bytes_("Clicks of a time tagger, written by Bellbench."),
            "A user-defined comment describing the data file.",
        )
        self._setup()
        self._identity()
        self._file.close()

    def _setup(self) -> None:
        self._group("setup", "Information about the experimental setup.")
        numbers = {
            "num_pixels": (max(len(self._counts), 1), "Total number of detector pixels."),
            "num_spots": (1, 'Number of excitation (or detection) "spots" in the sample.'),
            "num_spectral_ch": (1, "Number of distinct spectral bands which are acquired."),
            "num_polarization_ch": (
                1,
                "Number of distinct polarization states which are acquired.",
            ),
            "num_split_ch": (
                1,
                "Number of distinct detection channels detecting the same spectral band and"
                " polarization. This value is > 1 when using a non-polarizing beam splitter.",
            ),
            "modulated_excitation": (
                0,
                "True (i.e. 1) if there is any form of excitation modulation of excitation"
                " wavelength (as in us-ALEX or PAX) or polarization. This field is also True for"
                " pulse-interleaved excitation (PIE) or ns-ALEX measurements.",
            ),
            "lifetime": (
                0,
                "True (i.e. 1) if the measurement includes a nanotimes array of photon arrival"
                " times with respect to a laser pulse (as in TCSPC measurements).",
            ),
        }
        for name, (value, title) in numbers.items():
            self._put(f"setup/{name}", value, title)
        self._put(
            "setup/excitation_alternated",
            np.zeros(1, np.uint8),
            "New in version 0.5. Indicates whether each excitation source is alternated (True,"
            " or 1) or not alternated (False, or 0).",
        )
        self._group(
            "setup/detectors",
            "Metadata relative to each detector's pixel. Each field is an array with size equal"
            " to the number of the detectors.",
        )
        channels = sorted(self._counts)
        self._put(
            "setup/detectors/id",
            np.array(channels, np.int16),
            "Detector IDs as they appear on /photon_data/detectors.",
        )
        self._put(
            "setup/detectors/counts",
            np.array([self._counts[c] for c in channels], np.int64),
            "Total number of counts detected by each detector.",
        )

    def _identity(self) -> None:
        self._group("identity", "Information about the Photon-HDF5 data file.")
        start = self._start_unix_ns * 1e-9
        made = datetime.fromtimestamp(start, UTC) if start else datetime.now(UTC)
        texts = {
            "format_name": ("Photon-HDF5", "Name of the file format."),
            "format_version": ("0.5", "Version for the Photon-HDF5 format."),
            "format_url": (
                "http://photon-hdf5.org/",
                "Official URL for the Photon-HDF5 format.",
            ),
            "software": (
                "Bellbench",
                "Name of the software used to create the current Photon-HDF5 file.",
            ),
            "software_version": (
                "0",
                "Version of the software used to create current the Photon-HDF5 file.",
            ),
            "creation_time": (
                f"{made:%Y-%m-%d %H:%M:%S}",
                "Creation time of the current Photon-HDF5 file.",
            ),
        }
        for name, (text, title) in texts.items():
            self._put(f"identity/{name}", np.bytes_(text), title)
            if name.startswith("format"):
                self._file.attrs[name] = np.bytes_(text)
                if name != "format_url":
                    self._put(name, np.bytes_(text), title)


def _title(node: Any, text: str) -> None:
    node.attrs["TITLE"] = np.bytes_(text)


PHOTON_HDF5 = PhotonHdf5Codec()
