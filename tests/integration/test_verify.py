"""What ``mocrop verify`` finds, and that the next run repairs just that."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from data_specs.fingerprints import fingerprint
from data_specs.recipes import load_recipe
from data_specs.records import BoxRow, MotionRow, Record, read_records
from data_specs.stored import StoreError, open_store, zarr_store
from mocrop_core import Box
from pipelines.errors import RunError
from pipelines.runs.options import Options
from pipelines.store.lock import StoreLocked, locked
from pipelines.store.record_blocks import RecordBlock
from pipelines.store.verify import Fault, _object_faults, verify
from pipelines.store.writer import put_attributes, write_record
from tests.conftest import run_stages
from tests.integration.test_run import with_views
from tests.integration.test_store import contents
from tests.support.rewriting import rewrite

BOXES = "progress/boxes/mocrop/00001"


@pytest.fixture
def options(synth_data: Path, synth_store: Path, tmp_path: Path) -> Options:
    """What a copy of the synthetic store was made from, to do with as one likes."""
    for name in (synth_store.name, f"{synth_store.name}.work"):
        shutil.copytree(synth_store.parent / name, tmp_path / name)
    store = str(tmp_path / synth_store.name)
    return Options(str(synth_data / "UCF-101"), store, str(synth_data / "ucfTrainTestlist"), "smoke")


def mended(options: Options, before: dict[str, bytes], *stages: str) -> None:
    """Run again; just these stages are done, each for one shard, and the store is what it was."""
    summary, done = run_stages(options)
    assert summary.done == 12
    assert done == list(stages)
    after = contents(Path(options.store))
    assert {key for key in after.keys() | before.keys() if after.get(key) != before.get(key)} == set()
    assert verify(options.store) == []


def where(options: Options) -> list[str]:
    """The places of the faults that are found."""
    return sorted({fault.where for fault in verify(options.store)})


def test_every_single_byte_of_a_chunk_counts(options: Options) -> None:
    store = open_store(options.store)
    record = RecordBlock(store.zarr, store.recipe, [0]).boxes["mocrop"][0]
    (key,) = record.objects
    path = Path(options.store, key)
    whole = path.read_bytes()
    assert 100 < len(whole) < 20_000
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        rewrite(path, damaged)
        assert [fault.where for fault in _object_faults(store, record)] == [key], f"byte {place}"
    rewrite(path, whole)
    assert list(_object_faults(store, record)) == []


def test_a_flipped_byte_is_found_in_any_object_of_a_store(options: Options) -> None:
    before = contents(Path(options.store))
    rng = random.Random(1)
    keys = rng.sample([key for key in before if before[key] and not key.startswith("progress/")], 10)
    places = {}
    for key in keys:
        damaged = bytearray(before[key])
        places[key] = rng.randrange(len(damaged))
        damaged[places[key]] = (damaged[places[key]] + rng.randrange(1, 256)) % 256
        rewrite(Path(options.store, key), damaged)
        try:
            found = bool(verify(options.store))
        except StoreError:  # the root, damaged so that nothing can be read by it
            found = key == "zarr.json"
        assert found, f"byte {places[key]} of {key}"
        rewrite(Path(options.store, key), before[key])


def test_several_processes_find_the_faults_that_one_finds(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("views/mocrop/density/c.1.0.0", f"{BOXES}/zarr.json", "state/c.0"):
        rewrite(Path(options.store, file), Path(options.store, file).read_bytes()[:-1] + b"?")
    counts: list[tuple[int, int]] = []
    alone = verify(options.store, lambda *count: counts.append(count))
    assert counts[-1] == (29, 29)
    assert len(alone) >= 3
    monkeypatch.setattr("pipelines.store.verify.ALONE", 1)
    monkeypatch.setattr("pipelines.store.verify.BLOCK", 1)
    assert verify(options.store) == alone


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", None])
def test_a_damaged_record_is_found_and_only_its_task_done_again(options: Options, damage: bytes | None) -> None:
    before = contents(Path(options.store))
    file = Path(options.store, BOXES, "zarr.json")
    if damage is None:  # still JSON, with another number in it
        values = json.loads(before[f"{BOXES}/zarr.json"])
        next(iter(values["attributes"]["clips"].values()))["score"] = 0.5
        damage = json.dumps(values).encode()
    rewrite(file, damage)
    assert BOXES in where(options)
    mended(options, before, "boxes")


def test_a_damaged_record_is_done_again_without_verify_too(options: Options) -> None:
    before = contents(Path(options.store))
    rewrite(Path(options.store, BOXES, "zarr.json"), b"")
    mended(options, before, "boxes")


def test_a_missing_record_is_found(options: Options) -> None:
    before = contents(Path(options.store))
    shutil.rmtree(Path(options.store, BOXES))
    assert BOXES in where(options)
    mended(options, before, "boxes")


def forge(options: Options, record: Record[Any]) -> None:
    """Put a record with a right fingerprint of wrong content into a store."""
    write_record(zarr_store(options.store, read_only=False), record)


def test_a_box_outside_its_frame_is_found(options: Options) -> None:
    before = contents(Path(options.store))
    (record,) = read_records(zarr_store(options.store, read_only=True), BoxRow, "mocrop", [1]).values()
    id, row = min(record.clips.items())
    forge(options, replace(record, clips={**record.clips, id: replace(row, box=Box(0, 0, 9999, 10))}))
    faults = [fault for fault in verify(options.store) if fault.where == BOXES]
    assert any("box [0, 0, 9999, 10] is not inside" in fault.what for fault in faults)
    _, done = run_stages(options)
    assert set(done) <= {"boxes", "clips"}
    assert contents(Path(options.store)) == before


@pytest.mark.parametrize(("key", "what"), [("vectors", "the number of vectors"), ("frames", "were encoded")])
def test_a_wrong_count_of_vectors_or_frames_is_found_and_counted_again(options: Options, key: str, what: str) -> None:
    before = contents(Path(options.store))
    (record,) = read_records(zarr_store(options.store, read_only=True), MotionRow, None, [0]).values()
    id, row = min(record.clips.items())
    forge(options, replace(record, clips={**record.clips, id: replace(row, **{key: 1})}))
    assert any(what in fault.what and fault.record == record.path for fault in verify(options.store))
    _, done = run_stages(options)
    assert "transcode" not in done
    assert contents(Path(options.store)) == before
    assert verify(options.store) == []


def test_a_record_that_makes_no_sense_is_found(options: Options) -> None:
    before = contents(Path(options.store))
    (record,) = read_records(zarr_store(options.store, read_only=True), BoxRow, "mocrop", [1]).values()
    clips = {id: {"box": "x"} for id in record.clips}
    output = fingerprint("boxes", "mocrop", record.inputs, clips, dict(record.objects))
    values = {**record.as_attributes(), "clips": clips, "output": output}
    put_attributes(zarr_store(options.store, read_only=False), record.path, values)
    assert Fault(BOXES, "the record is damaged", BOXES) in verify(options.store)
    _, done = run_stages(options)
    assert set(done) <= {"boxes", "clips"}
    assert contents(Path(options.store)) == before


def test_a_note_of_what_to_do_again_removes_nothing_but_records(options: Options, tmp_path: Path) -> None:
    before = contents(Path(options.store))
    (tmp_path / "precious").mkdir()
    places = ["views", "", "../precious", "progress/boxes", "progress/boxes/../../views/00000", 3]
    put_attributes(zarr_store(options.store, read_only=False), "progress/damaged", {"records": places})
    mended(options, before)
    assert (tmp_path / "precious").is_dir()


def test_a_fingerprint_that_does_not_follow_from_its_inputs_is_found(options: Options) -> None:
    before = contents(Path(options.store))
    (record,) = read_records(zarr_store(options.store, read_only=True), BoxRow, "mocrop", [1]).values()
    forge(options, replace(record, inputs="0" * 32))
    assert "its inputs differ from what is in the store now" in {fault.what for fault in verify(options.store)}
    mended(options, before, "boxes")


def test_damaged_descriptions_are_found_and_written_again(options: Options) -> None:
    before = contents(Path(options.store))
    places = ["views/mocrop/frames", "views/full/box", "label", "views/mocrop", "progress/boxes", "motion"]
    damages = [None, b"", b'{"zarr_format": 3, "node_type": "array"}']
    for shift in range(3):
        for number, place in enumerate(places):
            damage = damages[(number + shift) % 3]
            file = Path(options.store, place, "zarr.json")
            file.unlink() if damage is None else rewrite(file, damage)
        assert {f"{place}/zarr.json" for place in places} <= set(where(options))
        mended(options, before)


def test_a_description_that_says_something_else_is_found_and_written_again(options: Options) -> None:
    before = contents(Path(options.store))
    file = Path(options.store, "views/mocrop/frames/zarr.json")
    values = json.loads(file.read_text())
    values["shape"][0] += 1
    file.write_text(json.dumps(values))
    assert "views/mocrop/frames/zarr.json" in where(options)
    mended(options, before)


def test_damage_to_the_vectors_descriptions_is_found_and_they_are_made_again(options: Options) -> None:
    before = contents(Path(options.store))
    file = Path(options.store, "motion/00000/zarr.json")
    (count,) = re.findall(rb'"vectors": ?\[\s*(\d+)', file.read_bytes())
    other = file.read_bytes().replace(count, b"%d" % (int(count) ^ 1), 1)
    for damage in (b"", b"{}", None, other):
        file.unlink() if damage is None else rewrite(file, damage)
        assert where(options) == ["motion/00000", "motion/00000/zarr.json"]
        mended(options, before, "motion")


@pytest.mark.parametrize("name", ["id", "label", "split", "state", "views/mocrop/score"])
def test_a_damaged_table_is_found_and_written_again(options: Options, name: str) -> None:
    before = contents(Path(options.store))
    (key,) = [key for key in before if key.startswith(f"{name}/c.")]
    damaged = bytearray(before[key])
    damaged[len(damaged) // 2] ^= 4
    rewrite(Path(options.store, key), damaged)
    assert where(options) == [name]
    mended(options, before)


def no_root(file: Path) -> None:
    file.unlink()


def empty_root(file: Path) -> None:
    rewrite(file, b"")


def other_class(file: Path) -> None:
    file.write_text(file.read_text().replace('"class_names": [', '"class_names": ["Zoo",'))


def other_seed(file: Path) -> None:
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 9'))


def recipe_of_nothing(file: Path) -> None:
    file.write_text(file.read_text().replace('"seed": 0', '"seed": "x"'))


def other_build(file: Path) -> None:
    file.write_text(file.read_text().replace('"ffmpeg": "', '"ffmpeg": "x'))


ROOTS = [no_root, empty_root, other_class, other_seed, recipe_of_nothing, other_build]


@pytest.mark.parametrize("damage", ROOTS)
def test_damaged_attributes_of_a_store_are_noticed_and_written_again(
    options: Options, damage: Callable[[Path], None]
) -> None:
    before = contents(Path(options.store))
    damage(Path(options.store, "zarr.json"))
    assert contents(Path(options.store)) != before
    try:
        found = where(options)
    except StoreError as error:
        found = [str(error)]
    assert all(fault == "zarr.json" or "preprocess" in fault for fault in found)
    assert found
    assert "\n" not in found[0]
    mended(options, before)


@pytest.mark.parametrize("damage", [no_root, empty_root])
def test_what_lies_below_lost_attributes_is_not_mixed_with_another_recipe(
    options: Options, damage: Callable[[Path], None]
) -> None:
    damage(Path(options.store, "zarr.json"))
    before = contents(Path(options.store))
    smoke = load_recipe("smoke")
    others = (
        smoke.model_copy(update={"transcode": smoke.transcode.model_copy(update={"crf": 30})}),  # type: ignore[union-attr]
        smoke.model_copy(update={"seed": 5}),
    )
    for other in others:
        with pytest.raises(RunError, match="its contents were made with another recipe"):
            run_stages(replace(options, recipe=other))
    assert contents(Path(options.store)) == before


def test_a_new_view_on_damaged_vectors_stops_and_blames_no_clip(options: Options) -> None:
    chunk = Path(options.store, "motion/00001/c.0.0.0")
    whole = chunk.read_bytes()
    rewrite(chunk, whole[:-3] + b"xyz")
    wider = with_views(load_recipe("smoke"), {"kind": "motion", "name": "v2", "preset": "paper-v2"})
    with pytest.raises(RunError, match=r"^motion/00001 in the store is damaged .* mocrop verify marks"):
        run_stages(replace(options, recipe=wider))
    assert verify(options.store)
    summary, done = run_stages(replace(options, recipe=wider))
    assert (summary.done, summary.quarantined) == (12, {})
    assert done.count("motion") == 1
    assert "transcode" not in done


def test_what_is_found_is_told_even_where_nothing_can_be_noted(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(options.store, "motion/00001/c.0.0.0").unlink()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "progress/damaged")

    monkeypatch.setattr("pipelines.store.verify.put_attributes", refuse)
    faults = verify(options.store)
    assert [fault.where for fault in faults] == ["motion/00001/c.0.0.0", "progress/damaged"]
    assert "Permission denied" in faults[1].what


def test_two_verifies_before_a_run_forget_nothing(options: Options) -> None:
    before = contents(Path(options.store))
    chunk, other = (Path(options.store, f"motion/0000{shard}/c.0.0.0") for shard in (0, 1))
    whole = chunk.read_bytes()
    rewrite(chunk, b"")
    assert verify(options.store)
    rewrite(chunk, whole)
    rewrite(other, b"")
    assert where(options) == ["motion/00001/c.0.0.0"]
    mended(options, before, "motion", "motion")


def test_a_store_that_is_being_written_is_not_verified(options: Options) -> None:
    with locked(options.store), pytest.raises(StoreLocked, match=r"is being written by process .*; wait for it"):
        verify(options.store)


def once(act: Callable[[], object]) -> Callable[[int, int], None]:
    """To be called with each record that is checked; acts at the first."""
    left = [act]

    def on_record(done: int, total: int) -> None:
        if left:
            left.pop()()

    return on_record


@pytest.fixture
def changing(options: Options, tmp_path: Path) -> tuple[Options, Callable[[], None]]:
    """What the store was made from, and a real run that writes its first shard again, from another video."""
    source = Path(shutil.copytree(options.source, tmp_path / "source"))
    options = replace(options, source=str(source))
    clips = [source / f"{id}.avi" for id in open_store(options.store).ids]

    def run() -> None:
        clips[0].write_bytes(clips[-1].read_bytes())
        assert "clips" in run_stages(options)[1]

    return options, run


def test_no_run_begins_while_a_store_is_verified(changing: tuple[Options, Callable[[], None]]) -> None:
    options, run = changing
    refused = pytest.raises(RunError, match=r"is being verified by process \d+ on .*; wait for it, or stop it first")

    def begin() -> None:
        with refused:
            run()

    assert verify(options.store, once(begin)) == []
    run()
    assert verify(options.store) == []


def no_lock(options: Options) -> Path:
    """Put something in the lock's place, so that no lock can be written, as in a store that is for reading only."""
    obstacle = Path(options.store, "progress/lock")
    obstacle.write_bytes(b"")
    return obstacle


def test_a_run_beside_verify_leaves_no_false_fault_where_no_lock_can_be_held(
    changing: tuple[Options, Callable[[], None]],
) -> None:
    options, run = changing
    obstacle = no_lock(options)
    before = contents(Path(options.store))

    def write_meanwhile() -> None:
        obstacle.unlink()
        run()

    assert verify(options.store, once(write_meanwhile)) == []
    assert contents(Path(options.store)) != before
    assert not Path(options.store, "progress/damaged").exists()
    assert run_stages(options)[1] == []


def test_verify_notes_nothing_while_a_run_goes_on_where_no_lock_could_be_held(options: Options) -> None:
    obstacle = no_lock(options)
    Path(options.store, "motion/00001/c.0.0.0").unlink()
    with ExitStack() as run:

        def begin() -> None:
            obstacle.unlink()
            run.enter_context(locked(options.store))

        with pytest.raises(StoreLocked, match=r"is being written by process .*; verify it when it is done"):
            verify(options.store, once(begin))
    assert not Path(options.store, "progress/damaged").exists()


def test_what_is_wrong_is_found_and_noted_where_no_lock_can_be_held(options: Options) -> None:
    no_lock(options)
    Path(options.store, "motion/00001/c.0.0.0").unlink()
    assert where(options) == ["motion/00001/c.0.0.0"]
    assert Path(options.store, "progress/damaged/zarr.json").is_file()


def test_the_command_lists_what_is_wrong_and_says_what_to_do(options: Options) -> None:
    Path(options.store, "motion/00001/c.0.0.0").unlink()
    zarr.open_group(options.store, mode="r+")["views/mocrop/box"][0] = np.zeros(4, np.int32)  # type: ignore[index]
    command = [sys.executable, "-c", "from pipelines.cli.app import main; main()", "verify", options.store]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == [
        "motion/00001/c.0.0.0: the object is missing",
        "views/mocrop/box: the table does not match the records",
        "2 faults",
        "run the same mocrop preprocess command to redo only these parts",
    ]
