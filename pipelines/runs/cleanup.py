"""Finding and removing files that no store needs: stale H.264 files and unfinished temporary files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from data_specs import schema
from data_specs.documents import parse_json
from data_specs.local_files import read_part, refuse_links
from data_specs.recipes import Encode
from data_specs.records import TranscodeRow
from data_specs.stored import NoStore, Store, StoreError, is_url, open_store, shown
from pipelines.atomic_files import atomic_write
from pipelines.runs.source_index import SOURCES
from pipelines.stages.h264_cache import H264, Folders, default_work_dir, target_path
from pipelines.store.lock import check_unlocked, locked
from pipelines.store.record_index import RECORDS

MOST_NOTE = 1 << 16  # largest size in bytes of a note in the work folder
STORES = "stores"  # subfolder of the work folder with one note for each store that uses it
_MADE = re.compile(r"-[0-9a-f]{16}\.(mp4|json)$")
_UNFINISHED = re.compile(r"\.(part|partial)$|#\d+$")


@dataclass(frozen=True, slots=True)
class Waste:
    """A file that no store needs: its path, its size in bytes, and why it is not needed."""

    path: Path
    bytes: int
    why: str


def register(work_dir: str, location: str) -> None:
    """Record in a work folder that a store uses it, so that the store's files there are not taken for waste."""
    note = Path(work_dir, STORES, f"{hashlib.sha256(location.encode()).hexdigest()[:16]}.json")
    text = json.dumps({"store": location})
    if read_part(note, None, MOST_NOTE) != text.encode():
        refuse_links(Path(work_dir), note.parent)
        note.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(note) as part:
            part.write_text(text)


def registered(work_dir: str) -> list[str]:
    """The stores that are registered in a work folder; some may no longer exist."""
    stores = []
    for note in sorted(Path(work_dir, STORES).glob("*.json")):
        try:
            stores.append(str(parse_json(read_part(note, None, MOST_NOTE) or b"", MOST_NOTE)["store"]))
        except (ValueError, KeyError, TypeError):
            raise StoreError(f"{note} is damaged; remove it and run mocrop preprocess for its store again") from None
    return stores


def unfinished(folder: Path) -> Iterator[Path]:
    """Temporary files below a folder that a killed run left."""
    for parent, _, names in os.walk(folder):  # follows no symbolic links below the folder
        yield from (Path(parent, name) for name in sorted(names) if _UNFINISHED.search(name))


def work_folder(location: str, work_dir: str | None) -> Path:
    """The folder of a store's H.264 files; ``StoreError`` if it is not given for a store on an object store."""
    if work_dir is None and is_url(location):
        raise StoreError("work_dir: give the folder of the H.264 files that was given to mocrop preprocess")
    return Path(work_dir or default_work_dir(location)).resolve()


def find_waste(location: str, work_dir: str | None = None) -> list[Waste]:
    """Files that neither this store nor another one with the same work folder needs.

    The H.264 file of a clip that is recorded or not done yet is needed: new views are made from it. Raises
    ``StoreError`` if the store does not exist, another one cannot be read, or a run is writing one of them.
    """
    stores, missing = _sharing(location, work_dir)
    for store in stores:
        check_unlocked(store.location, "run mocrop gc")
    return _waste_of(stores, missing, work_folder(location, work_dir))


def clear(location: str, work_dir: str | None = None) -> list[Waste]:
    """Remove and return what ``find_waste`` finds; the stores are locked meanwhile."""
    stores, missing = _sharing(location, work_dir)
    with ExitStack() as stack:
        for store in stores:
            stack.enter_context(locked(store.location))
        folder = work_folder(location, work_dir)
        waste = _waste_of(stores, missing, folder)
        remove(waste, folder)
    return waste


def _sharing(location: str, work_dir: str | None) -> tuple[list[Store], list[str]]:
    """Open a store and the others registered in its work folder; also return the locations of missing ones."""
    folder = work_folder(location, work_dir)
    for name in (H264, STORES):
        refuse_links(folder, folder / name)
    location = location if is_url(location) else str(Path(location).resolve())
    stores, missing = [open_store(location)], []
    for other in registered(str(folder)):
        if other != location:
            try:
                stores.append(open_store(other))
            except NoStore:
                missing.append(shown(other))
    return stores, missing


def _waste_of(stores: list[Store], missing: list[str], folder: Path) -> list[Waste]:
    location = stores[0].location
    waste = [] if is_url(location) else [_waste(path, "unfinished") for path in unfinished(Path(location))]
    own = (H264, STORES, SOURCES, RECORDS)
    waste += [_waste(path, "unfinished") for name in own for path in unfinished(folder / name)]
    return waste + _stale(folder, stores, missing)


def _stale(folder: Path, stores: list[Store], missing: list[str]) -> list[Waste]:
    """The H.264 files and their notes that no store needs."""
    needed, open_names = set(), set()
    for store in stores:
        files, names = _needs(store, str(folder))
        needed |= files
        open_names |= names
    why = "no store needs it"
    if missing:
        why += f" (there is no store at {', '.join(missing)} any more)"
    return [
        _waste(path, why)
        for path in sorted((folder / H264).rglob("*"))
        if _MADE.search(path.name)
        and path.with_suffix(".mp4") not in needed
        and str(path.parent / path.stem.rpartition("-")[0]) not in open_names
    ]


def _needs(store: Store, work_dir: str) -> tuple[set[Path], set[str]]:
    """The H.264 files that a store was made from, and the names, without fingerprint, of those for pending clips."""
    encode, folders = store.recipe.transcode, Folders("", work_dir)
    if not isinstance(encode, Encode):
        return set(), set()
    files, names = set(), set()
    records = store.records(TranscodeRow)
    for shard in range(store.num_shards):
        rows = schema.shard_rows(shard, len(store.ids), store.recipe.clips_per_shard)
        transcoded = records[shard].clips if shard in records else {}
        for clip in store.clips(rows):
            row = transcoded.get(clip.id)
            target = target_path(clip, row.source if row else "", encode, store.build, folders)
            if row:
                files.add(target)
            elif shard not in records:
                names.add(str(target.parent / target.stem.rpartition("-")[0]))
    return files, names


def _waste(path: Path, why: str) -> Waste:
    return Waste(path, path.lstat().st_size, why)


def remove(waste: list[Waste], work_dir: Path) -> None:
    """Remove files, and the folders of H.264 files that become empty."""
    for file in waste:
        file.path.unlink(missing_ok=True)
    for folder in sorted((work_dir / H264).rglob("*"), reverse=True):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
