"""The chain from the source files' bytes to the crops: nothing made from what is gone stays in a store unseen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from data_specs.recipes import Recipe, parse_recipe
from data_specs.stored import StoreError, open_store
from pipelines.cli.app import app
from pipelines.errors import RunError, RunStopped
from pipelines.media.encoder import write_video
from pipelines.report.clip_reader import ClipReader
from pipelines.runs import source_index
from pipelines.runs.estimate import _shards_left
from pipelines.runs.options import Options, read_request
from pipelines.stages.tasks import STAGES
from pipelines.store.verify import verify
from tests.conftest import made_once, run_stages
from tests.integration.test_store import contents

VALUES = {"name": "tiny", "shard_clips": 2, "transcode": {"preset": "ultrafast"}, "frames": {"slots": 2, "size": 32}}
ENCODE = parse_recipe(VALUES, "tiny")
KEEP = parse_recipe({**VALUES, "transcode": "keep"}, "tiny")
RED, BLUE = (200, 30, 30), (30, 30, 200)


def still(path: Path, colour: tuple[int, int, int]) -> None:
    """A clip of 14 frames of one colour: none of its blocks moves, whatever the colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, np.full((14, 48, 64, 3), colour, np.uint8), 25)


def still_store(factory: pytest.TempPathFactory) -> Path:
    """A folder, to be read only, with three still red clips and a store of them, in two shards."""

    def make(folder: Path) -> None:
        for number in range(3):
            still(folder / f"source/Still/s{number}.avi", RED)
        run_stages(Options(str(folder / "source"), str(folder / "store.zarr"), recipe=ENCODE))

    return made_once(factory, "still", make)


@pytest.fixture
def options(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Options:
    """A copy of the still clips and their store, to change at will, and the options that made it."""
    shutil.copytree(still_store(tmp_path_factory), tmp_path, dirs_exist_ok=True)
    return Options(str(tmp_path / "source"), str(tmp_path / "store.zarr"), recipe=ENCODE)


def colour_of(options: Options, view: str, row: int) -> npt.NDArray[np.float64]:
    """The mean colour of a clip's cached frames."""
    store = open_store(options.store).view(view)
    slots = store.table("frame_index")[row] >= 0
    assert slots.any()
    return np.asarray(store.array("frames")[row])[slots].mean(axis=(0, 1, 2))


def of_the_same_size(path: Path, size: int) -> None:
    """Put bytes that no decoder looks at behind a video, so that its file has so many."""
    missing = size - path.stat().st_size
    assert missing >= 0
    path.write_bytes(path.read_bytes() + bytes(missing))


def in_place(new: Path, old: Path) -> None:
    old.write_bytes(new.read_bytes())


def by_renaming(new: Path, old: Path) -> None:
    new.replace(old)


@pytest.mark.parametrize("put", [in_place, by_renaming])
@pytest.mark.parametrize("recipe", [ENCODE, KEEP], ids=["transcoded", "keep"])
def test_crops_are_of_the_new_source_though_nothing_else_about_it_changed(
    options: Options, recipe: Recipe, put: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many frames, the same vectors, the same bytes in the file, the same date of the last write."""
    monkeypatch.setattr(source_index, "SETTLED_SECONDS", 0)  # as if the clips were older
    options = replace(options, recipe=recipe, store=str(tmp_path / "other.zarr"))
    clip, new = Path(options.source, "Still/s0.avi"), tmp_path / "new.avi"
    still(new, BLUE)
    size = max(new.stat().st_size, clip.stat().st_size)
    of_the_same_size(clip, size)
    of_the_same_size(new, size)
    run_stages(options)
    before = contents(Path(options.store))
    was = clip.stat()
    put(new, clip)
    os.utime(clip, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (clip.stat().st_size, clip.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    _, done = run_stages(options)
    assert sorted(done) == sorted(STAGES)
    assert verify(options.store) == []
    after = contents(Path(options.store))
    vectors = [key for key in before if key.startswith("motion/00000/")]
    assert len(vectors) == 2
    assert all(before[key] == after[key] for key in vectors), "the two clips were to have the same vectors"
    for view in ("full", "mocrop"):
        for row, colour in enumerate((BLUE, RED, RED)):
            assert np.abs(colour_of(options, view, row) - colour).max() < 12, (view, row)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the source files that a run reads to see whether they have changed."""
    names: list[str] = []
    real = source_index.file_fingerprint
    monkeypatch.setattr(source_index, "file_fingerprint", lambda path: names.append(path.name) or real(path))
    return names


def test_a_source_that_did_not_change_is_not_read_again(
    options: Options, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_index, "SETTLED_SECONDS", 0)
    shutil.rmtree(options.store)
    run_stages(options)
    assert run_stages(options)[1] == []
    assert read == [], "the records have the fingerprints of what was transcoded"
    Path(options.source, "Still/s1.avi").touch()
    assert run_stages(options)[1] == []
    assert run_stages(options)[1] == []
    assert read == ["s1.avi"]


def test_a_source_that_was_just_written_is_read_each_time(
    options: Options, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be written again within the same tick of its file system's clock."""
    monkeypatch.setattr(source_index, "SETTLED_SECONDS", 3600)
    for runs in (1, 2):
        assert run_stages(options)[1] == []
        assert len(read) == 3 * runs


def test_what_is_no_file_any_more_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "clip").write_bytes(b"x")
    index = source_index.SourceIndex(str(tmp_path), str(tmp_path / "work"))
    assert list(index.fingerprints(["folder", "pipe", "clip", "gone"])) == ["clip"]


def test_a_file_from_the_year_2300_is_read_each_time(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(b"x")
    os.utime(tmp_path / "clip", (10_413_792_000, 10_413_792_000))
    for _ in range(2):
        index = source_index.SourceIndex(str(tmp_path), str(tmp_path / "work"))
        assert list(index.fingerprints(["clip"])) == ["clip"]
        index.save()


@pytest.mark.parametrize("text", ["", "[]", "00 Still/s0.avi\0", "x Still/s0.avi\0", "\0"])
def test_a_damaged_index_of_sources_costs_nothing_but_reading_them(
    options: Options, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_index, "SETTLED_SECONDS", 0)
    run_stages(options)
    (index,) = Path(f"{options.store}.work", source_index.SOURCES).iterdir()
    whole = items(index)
    assert len(whole) == 3
    index.write_text(text)
    assert run_stages(options)[1] == []
    assert items(index) == whole


def items(index: Path) -> list[bytes]:
    return sorted(filter(None, index.read_bytes().split(b"\0")))


def test_an_index_of_sources_is_appended_to_until_most_of_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_index, "SETTLED_SECONDS", 0)
    clips, work = tmp_path / "clips", str(tmp_path / "work")
    clips.mkdir()
    names = ["a", "b\nc", os.fsdecode(b"d\xff")]
    for name in names:
        (clips / name).write_text(name[0])

    def known() -> dict[str, str]:
        index = source_index.SourceIndex(str(clips), work)
        found = index.fingerprints(names)
        index.save()
        return found

    first = known()
    assert list(first) == names
    (file,) = Path(work, source_index.SOURCES).iterdir()
    with file.open("ab") as torn:  # as by a run that was killed while it wrote
        torn.write(b"0123")
    for turn in range(1, 7):
        (clips / "a").write_text(f"{turn}")
        before = file.stat().st_ino, len(items(file))
        assert {name: value for name, value in known().items() if name != "a"} == {n: first[n] for n in names[1:]}
        grown = file.stat().st_ino == before[0]
        assert len(items(file)) == (before[1] + 1 if grown else 3)
        assert grown == (1 < turn < 6)


def test_a_plan_counts_the_clips_whose_source_has_changed(options: Options) -> None:
    def left() -> list[int]:
        dataset, recipe = read_request(options)
        return _shards_left(options.location(), dataset, recipe, options.folders(dataset))

    assert left() == []
    still(Path(options.source, "Still/s2.avi"), BLUE)
    assert left() == [1]


def test_an_h264_file_that_is_not_the_recorded_one_makes_no_crops(options: Options) -> None:
    """A new view is made from the frames that the vectors are of, or from new vectors."""
    still(Path(options.source, "Still/s1.avi"), BLUE)
    shutil.rmtree(f"{options.store}.work")
    run_stages(options)
    red, blue = sorted(Path(f"{options.store}.work").rglob("*.mp4"))
    for suffix in (".mp4", ".json"):
        shutil.copy(blue.with_suffix(suffix), red.with_suffix(suffix))
    values = ENCODE.model_dump(mode="json")
    wider = replace(options, recipe=parse_recipe({**values, "views": [*values["views"], {"kind": "centre"}]}, "wider"))
    with pytest.raises(RunStopped, match=r"^the H.264 file of Still/s0 was changed; run the same command again$"):
        run_stages(wider)
    _, done = run_stages(wider)
    assert done.count("transcode") == done.count("motion") == 1
    assert verify(options.store) == []
    for view in ("full", "mocrop", "centre"):
        assert np.abs(colour_of(options, view, 0) - BLUE).max() < 12


def test_verify_finds_crops_that_were_left_from_another_source(options: Options, tmp_path: Path) -> None:
    """A store as it was before records depended on all upstream: vectors of the new source, crops of the old."""
    old = tmp_path / "old.zarr"
    shutil.copytree(options.store, old)
    still(Path(options.source, "Still/s0.avi"), BLUE)
    run_stages(options)
    expected = contents(Path(options.store))
    for part in ("views", "progress/boxes", "progress/clips"):
        shutil.copytree(old / part, Path(options.store, part), dirs_exist_ok=True)
    assert np.abs(colour_of(options, "full", 0) - RED).max() < 12
    stale = {f"progress/{stage}/{view}/00000" for stage in ("boxes", "clips") for view in ("full", "mocrop")}
    what = "its inputs differ from what is in the store now"
    assert {fault.where for fault in verify(options.store) if fault.what == what} == stale
    assert sorted(run_stages(options)[1]) == ["boxes", "clips"]
    assert contents(Path(options.store)) == expected
    assert verify(options.store) == []


def test_two_random_views_have_boxes_of_their_own(options: Options) -> None:
    views = [{"kind": "random", "name": name, "crop_ratio": 0.25} for name in ("here", "there")]
    wider = parse_recipe({**VALUES, "views": [{"kind": "full"}, {"kind": "motion"}, *views]}, "wider")
    run_stages(replace(options, recipe=wider))
    here, there = (open_store(options.store).view(name) for name in ("here", "there"))
    assert here.fingerprint != there.fingerprint
    assert here.table("box").tolist() != there.table("box").tolist()


def test_what_was_not_changed_is_not_done_again(options: Options) -> None:
    """A record that is lost and made again is the same, and so all that was made from it stays good."""
    expected = contents(Path(options.store))
    for record in ("transcode/00000", "motion/00001", "boxes/full/00000"):
        shutil.rmtree(Path(options.store, "progress", record))
    assert run_stages(options)[1] == ["transcode", "motion", "boxes"]
    assert contents(Path(options.store)) == expected


OLD = (
    r"store '.*store\.zarr' was made by another version of mocrop \(0\.0\.9\): it has revision 1, this version reads "
    r"and writes revision 3; use that version, or remove the store and create it again"
)


def test_a_store_of_another_revision_is_refused_in_one_line_and_left_as_it_is(options: Options) -> None:
    root = Path(options.store, "zarr.json")
    values: dict[str, Any] = json.loads(root.read_text())
    del values["attributes"]["revision"]
    software = {**values["attributes"]["software"], "mocrop": "0.0.9"}
    values["attributes"] |= {
        "fingerprint": "0" * 32,
        "software": software,
    }
    root.write_text(json.dumps(values))
    before = contents(Path(options.store))
    for refused, error in (
        (lambda: run_stages(options), RunError),
        (lambda: verify(options.store), StoreError),
        (lambda: ClipReader(open_store(options.store)), StoreError),
    ):
        with pytest.raises(error, match=f"^{OLD}$"):
            refused()
    assert contents(Path(options.store)) == before
    assert open_store(options.store).table("state").tolist() == [1, 1, 1], "its tables and frames can be read"
    said = CliRunner().invoke(app, ["status", options.store])
    assert said.exception is not None
