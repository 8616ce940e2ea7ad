"""Index of records in the work folder: what a run kept of them, so that the next one need not read unchanged ones.

As with the index of source files, a record counts as unchanged while its stamp is: its size, times and inode in a
folder, its tag on an object store; those of the pack if it is packed. The index is not part of the store.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter
from zarr.abc.store import Store as ZarrStore

from data_specs.local_files import LocalFiles, read_part, refuse_links
from data_specs.record_packs import pack_of
from data_specs.schema import STAGES, VIEW_STAGES
from data_specs.stored import run
from pipelines.atomic_files import atomic_write
from pipelines.store.lock import is_this_boot, place_here

RECORDS = "records"  # subfolder of the work folder with one index for each store
_MOST_BYTES = 1 << 31
Stamp = tuple[int, ...] | str
"""Identifies a version of a record without reading it: size in bytes, mtime and ctime in ns, inode; or the tag."""


@dataclass(frozen=True, slots=True)
class Link:
    """What is kept of a record: its inputs and output, and the software that made it, one object for equal versions.

    Of the stage transcode also ``sources``: the fingerprint of each clip's source file in row order, None for a
    quarantined clip. ``reasons`` and ``notes`` are those of the record.
    """

    inputs: str
    output: str
    software: tuple[tuple[str, str], ...]
    sources: tuple[str | None, ...]
    reasons: Mapping[str, str]
    notes: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Stamps:
    """The stamps of all objects that may be or hold records.

    ``own``: of records that are groups of their own, by their path; ``packs``: of objects with packed ones, by key.
    """

    own: Mapping[str, Stamp]
    packs: Mapping[str, Stamp]

    def get(self, path: str) -> Stamp | None:
        """The stamp of what has the record at a path, as far as that can be told without reading it."""
        own = self.own.get(path)
        return self.packs.get(pack_of(path)) if own is None else own

    def __contains__(self, path: str) -> bool:
        return self.get(path) is not None


def record_stamps(store: ZarrStore) -> Stamps:
    """The stamp of each object that may be a record, or hold some."""
    local = isinstance(store, LocalFiles)
    found: dict[str, Stamp] = dict(_stamps(store.root)) if local else run(store.tags("progress/"))  # type: ignore[attr-defined]
    own = {key.removesuffix("/zarr.json"): stamp for key, stamp in found.items() if _OWN.search(key)}
    return Stamps(own, {key: stamp for key, stamp in found.items() if _PACK.search(key)})


def stamps_of(store: ZarrStore, paths: Iterable[str]) -> Stamps:
    """The same for some records that are groups of their own; none on an object store, where each takes a request."""
    if not isinstance(store, LocalFiles):
        return Stamps({}, {})
    found = _stamps_of(store.root, (f"{path}/zarr.json" for path in paths))
    return Stamps({key.removesuffix("/zarr.json"): stamp for key, stamp in found}, {})


_OWN, _PACK = re.compile(r"/\d+/zarr\.json$"), re.compile(r"/records/c\.\d+$")


def _stamps(root: Path) -> Iterator[tuple[str, Stamp]]:
    for stage in STAGES:
        views = [f"/{view}" for view in _names(root / "progress" / stage)] if stage in VIEW_STAGES else [""]
        for folder in (f"progress/{stage}{view}" for view in views):
            keys = [f"{folder}/{name}/zarr.json" for name in _names(root / folder) if name.isdigit()]
            keys += [f"{folder}/records/{name}" for name in _names(root / folder / "records")]
            yield from _stamps_of(root, keys)


def _stamps_of(root: Path, keys: Iterable[str]) -> Iterator[tuple[str, Stamp]]:
    for key in keys:
        with suppress(OSError):
            status = os.stat(f"{root}/{key}")
            yield key, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # missing, or a file
        return []


Known = Mapping[str, tuple[Stamp, Link]]
"""The stamp and the link of records, by path."""


class RecordIndex:
    """The stamps and links of a store's records, by path, in a file in a work folder.

    Its lines are JSON: the place (`place_here`) where it was saved, then one for each record.
    """

    def __init__(self, work_dir: str, location: str) -> None:
        refuse_links(Path(work_dir), Path(work_dir, RECORDS))
        self._location = location
        name = hashlib.sha256(os.fsencode(location)).hexdigest()[:16]
        self._file = Path(work_dir, RECORDS, f"{name}.jsonl")

    def load(self, *, since_boot: bool = False) -> Known:
        """What is known of the records; nothing if there is no index or it is damaged.

        With ``since_boot``, also nothing if it was saved before this machine was started, or on another one.
        """
        known: dict[str, tuple[Stamp, Link]] = {}
        software: dict[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = {}
        try:
            lines = io.BytesIO(read_part(self._file, None, _MOST_BYTES) or b"")
            place = _PLACE.validate_json(next(lines, b""))
            if since_boot and not is_this_boot(place):
                return {}
            for line in lines:
                path, stamp, link = _LINE.validate_json(line)
                known[path] = stamp, replace(link, software=software.setdefault(link.software, link.software))
        except (OSError, ValueError):  # pydantic's errors are among the latter
            return {}
        return known

    def save(self, links: Mapping[str, Link], stamps: Stamps, before: Mapping[str, Stamp] | None = None) -> None:
        """Write the index. If that fails, the records are merely read again next time.

        ``before`` has the stamps of records from before they were read, which are preferred: if such a record was
        replaced meanwhile, the next run sees that.
        """
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._file) as part, part.open("wb") as file:
                file.write(_PLACE.dump_json(place_here()) + b"\n")
                for path, link in links.items():
                    if stamp := (before or {}).get(path) or stamps.get(
                        path
                    ):  # "" on a server without tags: it would never change
                        file.write(_LINE.dump_json((path, stamp, link)) + b"\n")


_PLACE, _LINE = TypeAdapter(str), TypeAdapter(tuple[str, Stamp, Link])
