"""The summary of a store, and writing its tables, both from what its records say is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data_specs import schema
from data_specs.schema import State
from data_specs.stored import Attributes, Store, attributes, hash_objects, open_store, shown, zarr_store
from data_specs.text import counted
from pipelines.store.progress import Progress
from pipelines.store.record_index import Known
from pipelines.store.software import Versions, as_attribute
from pipelines.store.writer import HashingStore, put_attributes, write_table


@dataclass(frozen=True, slots=True)
class Summary:
    """Progress of a store: clips by state, reasons of quarantined clips, and (done, all) shards of each stage.

    Of the clips, ``windows`` are windows of ``videos`` different videos. ``notes`` maps each kind of `schema.NOTES`
    that occurs to the clip ids and one line on each; ``software`` counts, by stage and package, the records that each
    version made.
    """

    store: str
    clips: int
    done: int
    pending: int
    quarantined: dict[str, str]
    stages: dict[str, tuple[int, int]]
    notes: dict[str, dict[str, str]] = field(default_factory=dict)
    software: Versions = field(default_factory=dict)
    windows: int = 0
    videos: int = 0

    @property
    def what(self) -> str:
        """What the clips are, for people: their number, and how many are windows of how many videos."""
        whole = counted(self.clips, "clip")
        if not self.windows:
            return whole
        return f"{whole} ({counted(self.windows, 'window')} of {counted(self.videos, 'video')})"

    def as_json(self) -> dict[str, Any]:
        """The summary as JSON-like values."""
        return asdict(self)


def summarise(location: str, known: Known | None = None) -> Summary:
    """Summarise the progress of the store at ``location`` from its records; ``StoreError`` if there is no store.

    Unchanged ``known`` records (`RecordIndex.load`) are not read.
    """
    store = open_store(location)
    return summary_of(Progress.of(store, tables=False, known=known), location, window_videos(store))


def window_videos(store: Store) -> list[str]:
    """The video of each clip of a store that is a window of one."""
    return [window[0] for window in store.windows if window is not None]


def summary_of(progress: Progress, location: str, videos: Sequence[str]) -> Summary:
    """Summarise what is done in the store at ``location``; ``videos`` names the video of each window."""
    states, shards, views = progress.states(), range(progress.num_shards), progress.recipe.views
    stages = {
        "transcode": len(progress.links("transcode")),
        "motion": sum(map(progress.vectors, shards)),
        "boxes": sum(all(progress.chosen(shard, view) for view in views) for shard in shards),
        "clips": sum(all(progress.cached(shard, view) for view in views) for shard in shards),
    }
    return Summary(
        shown(location),
        len(states),
        int((states == State.DONE).sum()),
        int((states == State.PENDING).sum()),
        {progress.ids[row]: reason for row, reason in progress.quarantined().items()},
        {stage: (done, progress.num_shards) for stage, done in stages.items()},
        progress.notes(),
        progress.software,
        len(videos),
        len(set(videos)),
    )


def stage_seconds(attributes: Attributes | None) -> dict[str, float]:
    """Seconds per stage from the attributes of the group ``progress``, without invalid entries."""
    stored = (attributes or {}).get("seconds")
    seconds = stored if isinstance(stored, dict) else {}
    return {
        stage: float(value)
        for stage, value in seconds.items()
        if stage in schema.STAGES and type(value) in (int, float) and 0 <= value < 1e12
    }


def publish(location: str, progress: Progress) -> None:
    """Write the tables and the software versions of a store from its records; run by one process only.

    Tables that were written from the same records, and whose bytes are as they were written, stay.
    """
    store, writable = open_store(location), HashingStore(zarr_store(location, read_only=False))
    software = as_attribute(store.attrs["software"], progress.software)
    if software != store.attrs["software"]:
        put_attributes(writable, "", {**store.attrs, "software": software})
    (stored,) = attributes(store.zarr, ["progress"])
    keys = [schema.chunk_key(path, (0,) * ndim) for path, ndim in progress.table_dimensions().items()]
    most = schema.largest_object(1, 1, 1)
    found = dict(zip(keys, hash_objects(store.zarr, keys, most), strict=True))
    if stored and stored.get("tables") == _written(progress, found):
        return
    for path, values in progress.tables().items():
        write_table(writable, store.spec(path), values)
    written = writable.taken()[0]
    noted = _written(progress, {key: written.get(key) for key in keys})
    put_attributes(writable, "progress", {**(stored or {}), "tables": noted})


def _written(progress: Progress, hashes: Mapping[str, str | None]) -> Attributes:
    """What is noted about the tables: the records that they were written from, and the hash of each chunk."""
    return {"records": progress.fingerprint, "objects": {key: value for key, value in hashes.items() if value}}
