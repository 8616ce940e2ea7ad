"""Packing the records of a store of more shards than an object holds, and records that stay groups."""

from __future__ import annotations

from pathlib import Path

import pytest
from zarr.abc.store import Store as ZarrStore

from data_specs import record_packs
from data_specs.record_packs import PACK, record_documents
from data_specs.stored import zarr_store
from pipelines.store import packing
from pipelines.store.packing import pack_records
from pipelines.store.writer import group_document, put_attributes

SHARDS = PACK + 6
KEY = ("boxes", "full")


@pytest.fixture
def store(tmp_path: Path) -> ZarrStore:
    """A store of nothing but a record for each shard of one stage and view."""
    for shard in range(SHARDS):
        folder = tmp_path / f"progress/boxes/full/{shard:05}"
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_bytes(group_document({"shard": shard}))
    return zarr_store(str(tmp_path), read_only=False)


def groups(store: ZarrStore) -> list[str]:
    return sorted(path.name for path in Path(store.root, "progress/boxes/full").glob("[0-9]*"))  # type: ignore[attr-defined]


def packs(store: ZarrStore) -> list[str]:
    return sorted(path.name for path in Path(store.root, "progress/boxes/full").glob("records/*"))  # type: ignore[attr-defined]


def test_an_object_has_a_thousand_shards_and_the_next_one_the_rest(store: ZarrStore) -> None:
    checks: list[None] = []
    assert pack_records(store, [KEY], SHARDS, lambda: checks.append(None))
    assert len(checks) == 4, "before and after each object"
    assert (packs(store), groups(store)) == (["c.0", "c.1"], [])
    found = record_documents(store, *KEY, range(SHARDS))
    assert found == {shard: group_document({"shard": shard}) for shard in range(SHARDS)}
    assert not pack_records(store, [KEY], SHARDS, lambda: pytest.fail("nothing to write"))


def test_shards_of_which_one_has_no_record_are_not_packed(store: ZarrStore) -> None:
    missing = Path(store.root, f"progress/boxes/full/{PACK:05}/zarr.json")  # type: ignore[attr-defined]
    missing.unlink()
    assert pack_records(store, [KEY], SHARDS, lambda: None)
    assert packs(store) == ["c.0"]
    assert groups(store) == [f"{shard:05}" for shard in range(PACK, SHARDS)]


def test_records_that_take_too_much_stay_groups(store: ZarrStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MAX_PACK", 16 * PACK + 1000)  # the index, and room for the six of the second object
    assert pack_records(store, [KEY], SHARDS, lambda: None)
    assert packs(store) == ["c.1"]
    assert groups(store) == [f"{shard:05}" for shard in range(PACK)]


def test_records_that_take_too_much_when_they_are_unpacked_stay_groups(
    store: ZarrStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_attributes(store, f"progress/boxes/full/{PACK:05}", {"shard": "x" * 200_000})
    for module in (packing, record_packs):
        monkeypatch.setattr(module, "MAX_PACK", 180_000)  # more than either object
    assert pack_records(store, [KEY], SHARDS, lambda: None)
    assert packs(store) == ["c.0"]
    assert groups(store) == [f"{shard:05}" for shard in range(PACK, SHARDS)]


def test_a_lost_lock_stops_packing_before_anything_is_removed(store: ZarrStore) -> None:
    checks = iter([None])
    with pytest.raises(StopIteration):
        pack_records(store, [KEY], SHARDS, lambda: next(checks))
    assert (packs(store), len(groups(store))) == (["c.0"], SHARDS)
