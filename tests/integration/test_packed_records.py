"""Stores of many shards, whose records are packed when they are finished: kills, damage, records made again, S3."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zarr

from data_specs.recipes import parse_recipe
from data_specs.record_packs import PACK, REMOVED, record_documents
from data_specs.records import BoxRow, CropRow, MotionRow, Record, TranscodeRow
from data_specs.stored import open_store, zarr_store
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import ONE_PASS, STAGES
from pipelines.store import packing, record_blocks, writer
from pipelines.store.summary import summarise
from pipelines.store.verify import verify
from pipelines.store.writer import group_document, put_attributes, put_object, remove_record
from tests.conftest import run_stages
from tests.support import object_store
from tests.support.rewriting import rewrite
from tests.support.saboteurs import SPAWN, contents, records

SHARDS = 33
KEYS: list[tuple[str, str | None]] = [("transcode", None), ("motion", None)]
KEYS += [(stage, view) for stage in ("boxes", "clips") for view in ("full", "mocrop")]
FOLDERS = [f"{stage}/{view}" if view else stage for stage, view in KEYS]
ROWS: dict[str, Any] = {"transcode": TranscodeRow, "motion": MotionRow, "boxes": BoxRow, "clips": CropRow}
RECIPE = parse_recipe(
    {
        "name": "small",
        "shard_clips": 1,
        "transcode": "keep",
        "frames": {"slots": 1, "size": 16},
        "views": [{"kind": "full"}, {"kind": "motion"}],
    },
    "small",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Options:
    """A finished store of `SHARDS` shards of one tiny clip each; not to be changed."""
    folder = tmp_path_factory.mktemp("packed")
    first = folder / "source/a/000.mp4"
    first.parent.mkdir(parents=True)
    words = ["-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=12:duration=0.5", "-c:v", "libx264"]
    subprocess.run([find_ffmpeg().path, *words, "-preset", "ultrafast", first], check=True)
    for number in range(1, SHARDS):
        os.link(first, first.with_name(f"{number:03}.mp4"))
    options = Options(str(folder / "source"), str(folder / "store.zarr"), recipe=RECIPE)
    assert run_stages(options)[0].done == SHARDS
    return options


@pytest.fixture
def own(finished: Options, tmp_path: Path) -> Options:
    """A copy of it, and of its source."""
    options = Options(str(tmp_path / "source"), str(tmp_path / "store.zarr"), recipe=RECIPE)
    shutil.copytree(finished.source, options.source)
    shutil.copytree(finished.store, options.store)
    return options


def documents(location: str) -> dict[str, bytes]:
    """The document of each record, by its path, packed or not."""
    store = zarr_store(location, read_only=True)
    return {
        f"progress/{folder}/{shard:05}": document
        for (stage, view), folder in zip(KEYS, FOLDERS, strict=True)
        for shard, document in record_documents(store, stage, view, range(SHARDS)).items()
    }


def unpack(location: str) -> None:
    """Put the store into the state before its records were packed."""
    store = zarr_store(location, read_only=False)
    for path, document in documents(location).items():
        put_object(store, f"{path}/zarr.json", document)
    for folder in FOLDERS:
        Path(location, f"progress/{folder}/records/c.0").unlink()


def test_a_finished_store_has_its_records_in_one_object_for_each_stage_and_view(finished: Options) -> None:
    assert records(Path(finished.store)) == {}
    packs = [str(path.relative_to(f"{finished.store}/progress")) for path in Path(finished.store).rglob("records/c.0")]
    assert sorted(packs) == sorted(f"{name}/records/c.0" for name in FOLDERS)
    store = open_store(finished.store)
    for (stage, view), folder in zip(KEYS, FOLDERS, strict=True):
        texts = zarr.open_array(f"{finished.store}/progress/{folder}/records", mode="r")[:]
        found: dict[int, Record[Any]] = store.records(ROWS[stage], view)
        assert list(found) == list(range(SHARDS))
        assert [str(text).encode() for text in texts] == [
            group_document(replace(record, software=dict(record.software)).as_attributes()) for record in found.values()
        ]
    assert summarise(finished.store).done == SHARDS
    assert verify(finished.store) == []


def test_packed_records_are_not_read_by_a_run_with_nothing_to_do(own: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_stages(own)[1] == []  # the first with this work folder
    before = contents(Path(own.store))
    reads: list[Any] = []
    monkeypatch.setattr(record_blocks, "read_records", lambda *words: reads.append(words))
    monkeypatch.setattr(packing, "record_documents", lambda *words: reads.append(words))
    assert run_stages(own)[1] == []
    assert reads == []
    assert contents(Path(own.store)) == before


def killed_while_packing(options: Options, steps: int) -> None:
    """Complete a store, and be killed when so many objects were written and groups removed for packing."""
    left = iter(range(steps))

    def counted(step: Callable[..., None]) -> Callable[..., None]:
        def take(*words: Any) -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            step(*words)

        return take

    with open_run(options) as run:
        packing.put_object, writer.remove_attributes = map(counted, (packing.put_object, writer.remove_attributes))
        run.publish()


@pytest.mark.parametrize(
    "steps", [1, *(pytest.param(steps, marks=pytest.mark.soak) for steps in (0, 2, 33, 34, 35, 180))]
)
def test_a_run_killed_while_it_packs_loses_and_repeats_nothing(steps: int, own: Options, finished: Options) -> None:
    unpack(own.store)
    expected = documents(own.store)
    assert len(records(Path(own.store))) == len(expected) == SHARDS * len(KEYS)
    process = SPAWN.Process(target=killed_while_packing, args=(own, steps))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    packs = len(list(Path(own.store, "progress").rglob("records/c.0")))
    removed = len(expected) - len(records(Path(own.store)))
    assert packs + removed == steps
    assert packs == -(-steps // (SHARDS + 1)), "an object, then the groups that it replaces"
    assert documents(own.store) == expected
    assert summarise(own.store).done == SHARDS
    assert run_stages(own)[1] == []
    assert contents(Path(own.store)) == contents(Path(finished.store))


def test_a_flipped_byte_in_a_pack_is_found_and_only_its_shard_is_done_again(own: Options, finished: Options) -> None:
    pack = Path(own.store, "progress/boxes/mocrop/records/c.0")
    flipped = bytearray(pack.read_bytes())
    flipped[(len(flipped) - 16 * PACK) // 2] ^= 16
    rewrite(pack, flipped)
    faults = {fault.record for fault in verify(own.store)} - {None}
    assert len(faults) == 1
    assert "progress/boxes/mocrop/" in str(*faults)
    assert run_stages(own)[1] == ["boxes"]
    assert contents(Path(own.store)) == contents(Path(finished.store))
    assert verify(own.store) == []


def test_records_of_a_pack_without_its_index_are_made_again(own: Options, finished: Options) -> None:
    pack = Path(own.store, "progress/boxes/full/records/c.0")
    rewrite(pack, pack.read_bytes()[:-1])
    damaged = [fault.where for fault in verify(own.store) if fault.what == "the record is damaged"]
    assert damaged == [f"progress/boxes/full/{shard:05}" for shard in range(SHARDS)]
    assert run_stages(own)[1] == SHARDS * ["boxes"]
    assert contents(Path(own.store)) == contents(Path(finished.store))


def test_a_shard_done_again_replaces_its_packed_record(own: Options) -> None:
    before = documents(own.store)
    changed = Path(own.source, "a/005.mp4")
    rewrite(changed, changed.read_bytes() + b"\0\0\0\x08free")  # a box of MP4 that has nothing in it
    with open_run(own) as run:
        for stage in STAGES[:2]:
            for plan in run.pending(stage):
                process_shard(plan, run.recipe)
    mixed = documents(own.store)
    changes = {path for path in before if mixed[path] != before[path]}
    assert (
        changes
        == {"progress/transcode/00005", "progress/motion/00005"}
        == {f"progress/{name}" for name in records(Path(own.store))}
    ), "not packed before the run is finished"
    assert sorted(run_stages(own)[1]) == ["boxes", "clips"]
    assert records(Path(own.store)) == {}
    after = documents(own.store)
    assert {path for path in before if after[path] != before[path]} == {f"progress/{name}/00005" for name in FOLDERS}
    assert verify(own.store) == []


def test_a_removed_record_does_not_come_back_from_its_pack(own: Options, finished: Options) -> None:
    path, store = "progress/motion/00007", zarr_store(own.store, read_only=False)
    remove_record(store, path)
    assert path not in documents_of_records(own.store)
    assert summarise(own.store).pending == 1
    assert [fault.where for fault in verify(own.store) if fault.record] == 4 * [path], (
        "its boxes and crops, of two views"
    )
    assert run_stages(own)[1] == ["motion"]
    assert contents(Path(own.store)) == contents(Path(finished.store))
    remove_record(store, "progress/motion/99999")
    assert not Path(own.store, "progress/motion/99999").exists()


def test_records_of_a_run_in_one_pass_are_packed(own: Options, finished: Options) -> None:
    remove_record(zarr_store(own.store, read_only=False), "progress/boxes/full/00007")
    assert run_stages(replace(own, discard_h264=True))[1] == [ONE_PASS]
    assert contents(Path(own.store)) == contents(Path(finished.store))


def documents_of_records(location: str) -> set[str]:
    store = open_store(location)
    return {record.path for stage, view in KEYS for record in store.records(ROWS[stage], view).values()}


def test_a_damaged_group_is_not_packed(own: Options) -> None:
    unpack(own.store)
    group = Path(own.store, "progress/clips/full/00003/zarr.json")
    assert run_stages(replace(own, work_dir=f"{own.store}.other"))[1] == []
    unpack(own.store)
    store = zarr_store(own.store, read_only=False)
    with open_run(own) as run:
        rewrite(group, b"{")
        run.publish()
    assert sorted({name.rpartition("/")[0] for name in records(Path(own.store))}) == ["clips/full"]
    assert len(records(Path(own.store))) == SHARDS
    put_attributes(store, "progress/clips/full/00003", REMOVED)
    assert run_stages(own)[1] == ["clips"]
    assert records(Path(own.store)) == {}


def of_clips(path: Path) -> bool:
    """Whether a file holds vectors, frames or densities, which a run with nothing to do does not read."""
    return bool(re.search(r"(?<!progress/)motion/\d+/|/(frames|density)/c\.", str(path)))


def test_a_store_on_s3_is_packed_into_the_same_bytes(
    own: Options, finished: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack(own.store)
    with object_store.s3_server() as behind, object_store.faulty(behind, lambda *_: "") as (address, proxy):
        object_store.make_bucket(behind, "bucket")
        for name, value in object_store.environment(address).items():
            monkeypatch.setenv(name, value)
        options = replace(own, store="s3://bucket/store.zarr", work_dir=f"{own.store}.work")
        remote = zarr_store(options.store, read_only=False)
        files = [path for path in Path(own.store).rglob("*") if path.is_file() and not of_clips(path)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: put_object(remote, str(path.relative_to(own.store)), path.read_bytes()), files))
        proxy.answers.clear()
        assert run_stages(options)[1] == []
        removals = [path for method, path, _ in proxy.answers if method in ("POST", "DELETE")]
        assert len(removals) == len(KEYS) + 1, "one request for the groups of a pack, and one for the lock"
        local = {key: value for key, value in contents(Path(finished.store)).items() if not of_clips(Path(key))}
        assert object_store.contents(behind, options.store) == local
        proxy.answers.clear()
        assert run_stages(options)[1] == []
        again = len(proxy.answers)
        assert again < 3 * SHARDS, "not even three for a shard, most of them for the run"
        remove_record(remote, "progress/boxes/full/00007")
        assert summarise(options.store).pending == 1
