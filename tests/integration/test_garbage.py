"""What no store needs any more is listed, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data_specs.recipes import Recipe, load_recipe
from data_specs.stored import StoreError, zarr_store
from pipelines.cli import app
from pipelines.runs import cleanup
from pipelines.runs.cleanup import find_waste, remove, work_folder
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.shard_task import process_shard
from pipelines.store.lock import LOCK, StoreLocked, exchange, locked, read_holder
from tests.conftest import run_stages
from tests.integration.test_run import with_views
from tests.integration.test_store import contents


@pytest.fixture
def options(synth_data: Path, tmp_path: Path) -> Options:
    """A run of two clips of a source of its own, in a work folder that other stores may share."""
    for name in ("MovingDisc/v_MovingDisc_g01_c01", "MovingStar/v_MovingStar_g01_c01"):
        target = tmp_path / "source" / f"{name}.avi"
        target.parent.mkdir(parents=True)
        shutil.copy(synth_data / "UCF-101" / f"{name}.avi", target)
    store, work = str(tmp_path / "a.zarr"), str(tmp_path / "work")
    return Options(str(tmp_path / "source"), store, recipe="smoke", work_dir=work)


def smoke(crf: int) -> Recipe:
    """The recipe smoke with another quality of the H.264 files."""
    recipe = load_recipe("smoke").model_dump(mode="json")
    return Recipe.model_validate({**recipe, "transcode": {**recipe["transcode"], "crf": crf}})


def found(options: Options) -> set[str]:
    """The names of the files that are not needed, relative to the folder of the test."""
    folder = Path(options.store).parent
    return {str(one.path.relative_to(folder)) for one in find_waste(options.store, options.work_dir)}


def h264(options: Options) -> set[str]:
    """The names of all H.264 files and of the notes beside them."""
    folder = Path(options.store).parent
    return {str(path.relative_to(folder)) for path in (folder / "work/h264").rglob("*") if path.is_file()}


def test_a_store_that_is_whole_leaves_no_waste(options: Options) -> None:
    run_stages(options)
    assert len(h264(options)) == 4
    assert find_waste(options.store, options.work_dir) == []


def test_h264_files_of_a_source_that_changed_are_waste_and_the_others_are_kept(
    options: Options, synth_data: Path
) -> None:
    run_stages(options)
    before = h264(options)
    shutil.copy(
        synth_data / "UCF-101/MovingDisc/v_MovingDisc_g02_c01.avi",
        Path(options.source, "MovingDisc/v_MovingDisc_g01_c01.avi"),
    )
    run_stages(options)
    stale = {name for name in before if "MovingDisc" in name}
    assert len(stale) == 2
    assert found(options) == stale
    waste = find_waste(options.store, options.work_dir)
    assert {one.why for one in waste} == {"no store needs it"}
    assert sum(one.bytes for one in waste) == sum(one.path.stat().st_size for one in waste)
    remove(waste, work_folder(options.store, options.work_dir))
    assert found(options) == set()
    assert len(h264(options)) == 4
    wider = with_views(load_recipe("smoke"), {"kind": "motion", "name": "v2", "preset": "paper-v2"})
    summary, done = run_stages(replace(options, recipe=wider))
    assert (summary.done, set(done)) == (2, {"boxes", "clips"})


def test_parts_are_waste_and_files_of_others_are_not(options: Options) -> None:
    run_stages(options)
    folder = Path(options.store).parent
    parts = [f"work/{name}/.1234.part" for name in ("h264/MovingDisc", "records", "sources", "stores")]
    parts += ["a.zarr/label/c.0.1234.partial", "a.zarr/motion/00000/c.0.0.0#1"]
    others = ["work/mine.part", "work/film.mp4", "work/h264/MovingDisc/holiday.mp4", "other.part", "a.zarr.part"]
    for name in parts + others:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert found(options) == set(parts)
    remove(find_waste(options.store, options.work_dir), folder / "work")
    assert [name for name in others if not (folder / name).exists()] == []
    assert [name for name in parts if (folder / name).exists()] == []


def test_a_run_after_a_killed_one_removes_its_unfinished_files_in_all_its_folders(options: Options) -> None:
    run_stages(options)
    store = zarr_store(options.store, read_only=False)
    with locked(options.store) as held:  # not settled: what it found abandoned stays
        killed = {**asdict(held.holder), "token": "killed", "pid": 2**22 + 1}
    assert exchange(store, LOCK, None, killed)
    folder = Path(options.store).parent
    parts = [f"work/{name}/.1234.part" for name in ("h264/MovingDisc", "records", "sources", "stores")]
    for name in [*parts, "work/mine.part"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    run_stages(options)
    assert [name for name in parts if (folder / name).exists()] == []
    assert (folder / "work/mine.part").exists(), "other programs may use the work folder"


def test_what_another_store_in_the_work_folder_needs_is_kept_as_long_as_that_store_is_there(options: Options) -> None:
    run_stages(options)
    other = replace(options, store=options.store.replace("a.zarr", "b.zarr"), recipe=smoke(crf=30))
    own = h264(options)
    run_stages(other)
    assert len(h264(options)) == 8
    assert found(options) == found(other) == set()
    shutil.rmtree(other.store)
    assert found(options) == h264(options) - own
    (why,) = {one.why for one in find_waste(options.store, options.work_dir)}
    assert why == f"no store needs it (there is no store at {other.store} any more)"


def test_files_of_clips_that_are_not_done_yet_are_kept(options: Options) -> None:
    with open_run(options) as run:
        (plan,) = run.pending("transcode")
        process_shard(plan, run.recipe)
    assert found(options) == set()
    shutil.rmtree(Path(options.store, "progress/transcode/00000"))  # as if it had been killed just before the record
    assert found(options) == set()
    assert len(h264(options)) == 4


def test_no_waste_is_looked_for_while_a_run_is_writing(options: Options) -> None:
    run_stages(options)
    other = replace(options, store=options.store.replace("a.zarr", "b.zarr"), limit=1)
    run_stages(other)
    for store in (options.store, other.store):
        with locked(store), pytest.raises(StoreLocked, match="is being written by process"):
            find_waste(options.store, options.work_dir)


def test_a_store_on_an_object_store_needs_its_work_folder_named() -> None:
    with pytest.raises(StoreError, match=r"work_dir: give the folder of the H\.264 files"):
        find_waste("s3://bucket/x.zarr")


def test_the_command_lists_and_removes_only_when_told(
    options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_stages(options)
    part = Path(options.store, "label/c.0.12.partial")
    part.write_bytes(b"abc")
    before = contents(Path(options.store))

    def gc(*words: str) -> str:
        command = ["mocrop", "gc", options.store, "--work-dir", str(options.work_dir), *words]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            app.main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert gc().splitlines() == [f"{part}: 3 bytes, unfinished", "1 file, 0 MiB, to remove with --yes"]
    assert json.loads(gc("--json")) == [{"path": str(part), "bytes": 3, "why": "unfinished"}]
    assert contents(Path(options.store)) == before
    held = []
    monkeypatch.setattr(
        cleanup, "remove", lambda *_: held.append(read_holder(zarr_store(options.store, read_only=True)))
    )
    gc("--yes")
    assert [holder.pid for holder in held if holder] == [os.getpid()], "no run can begin while files are removed"
    monkeypatch.setattr(cleanup, "remove", remove)
    assert gc("--yes").splitlines()[-1] == "1 file, 0 MiB, removed"
    assert gc().splitlines() == ["nothing to remove"]
