"""Index of records in the work folder: what a run kept of them, so that the next one need not read unchanged ones.

As with the index of source files, a record counts as unchanged while its stamp is: its size, times and inode in a
folder, its tag on an object store. The index is not part of the store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from zarr.abc.store import Store as ZarrStore

from data_specs.local_files import LocalFiles, read_part, refuse_links
from data_specs.schema import STAGES, VIEW_STAGES
from data_specs.stored import run
from pipelines.atomic_files import atomic_write

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


def record_stamps(store: ZarrStore) -> dict[str, Stamp]:
    """The stamp of each object that may be a record, by its path."""
    if isinstance(store, LocalFiles):
        return dict(_stamps(store.root))
    tags: dict[str, str] = run(store.tags("progress/"))  # type: ignore[attr-defined]
    return {key.removesuffix("/zarr.json"): tag for key, tag in tags.items()}


def _stamps(root: Path) -> Iterator[tuple[str, Stamp]]:
    for stage in STAGES:
        views = [f"/{view}" for view in _names(root / "progress" / stage)] if stage in VIEW_STAGES else [""]
        for folder in (f"progress/{stage}{view}" for view in views):
            for name in filter(str.isdigit, _names(root / folder)):
                with suppress(OSError):
                    status = os.stat(f"{root}/{folder}/{name}/zarr.json")
                    stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
                    yield f"{folder}/{name}", stamp


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # missing, or a file
        return []


class RecordIndex:
    """The stamps and links of a store's records, by path, as a file in a work folder."""

    def __init__(self, work_dir: str, location: str) -> None:
        refuse_links(Path(work_dir), Path(work_dir, RECORDS))
        self._location = location
        name = hashlib.sha256(os.fsencode(location)).hexdigest()[:16]
        self._file = Path(work_dir, RECORDS, f"{name}.json")

    def load(self) -> dict[str, tuple[Stamp, Link]]:
        """What is known of the records; nothing if there is no index or it is damaged."""
        try:
            text = read_part(self._file, None, _MOST_BYTES)
            return {} if text is None else _INDEX.validate_json(text)
        except (OSError, ValueError, ValidationError):
            return {}

    def save(self, links: Mapping[str, Link], stamps: Mapping[str, Stamp]) -> None:
        """Write the index. If that fails, the records are merely read again next time."""
        known = {path: (stamps[path], link) for path, link in links.items() if path in stamps}
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._file) as part:
                part.write_bytes(_INDEX.dump_json(known))


_INDEX: TypeAdapter[dict[str, tuple[Stamp, Link]]] = TypeAdapter(dict[str, tuple[Stamp, Link]])
