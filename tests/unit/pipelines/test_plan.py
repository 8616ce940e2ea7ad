"""The dry run: what is left, what it takes, and whether the run itself would be refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_specs.recipes import load_recipe, parse_recipe
from pipelines.errors import RunError
from pipelines.runs import estimate, outcome
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.store.summary import summarise
from tests.support.saboteurs import contents

SECONDS = 8.0  # of a clip


@pytest.fixture
def options(ucf_options: Options, own_ucf_store: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """The finished store of the real clips, 4 in a shard, asked for again; no clip is done to measure its cost."""
    monkeypatch.setattr(
        estimate, "measured", lambda *_: estimate.Sample(("x",), {}, estimate.Cost(SECONDS, 100.0, 10.0))
    )
    return replace(ucf_options, store=str(own_ucf_store))


def forget_shards(store: str, count: int) -> None:
    """Take back the vectors of the first shards."""
    for shard in range(count):
        shutil.rmtree(Path(store, f"progress/motion/{shard:05}"))


@pytest.mark.parametrize(
    ("shards", "clips", "workers", "seconds"),
    [(4, 15, 64, 15 * SECONDS / 4), (2, 8, 64, 8 * SECONDS / 2), (2, 8, 1, 8 * SECONDS), (0, 0, 64, 0.0)],
)
def test_no_more_workers_are_counted_than_there_are_shards_left(
    options: Options, shards: int, clips: int, workers: int, seconds: float
) -> None:
    forget_shards(options.store, shards)
    found = estimate.plan(replace(options, workers=workers))
    assert (found.clips_left, found.shards, found.workers) == (clips, 4, workers)
    assert (found.seconds, found.store_bytes) == (seconds, 100 * clips)
    assert found.problems == ()


def test_a_plan_leaves_out_empty_splits_and_counts_one_in_the_singular(options: Options) -> None:
    lines = list(estimate.plan(replace(options, workers=1)).lines())
    assert [line.split(":")[0] for line in lines[:2]] == ["data set     UCF-101", "split 1      5 train, 10 test"]
    assert "time         about 0 s with 1 worker" in lines
    assert "             (from 1 trial clip processed here: x)" in lines
    without = replace(options, splits=None, limit=1, store=f"{options.store}.new")
    lines = list(estimate.plan(without).lines())
    assert lines[0].startswith("data set     UCF-101: 1 clip, 14 classes, in ")
    assert lines[1].endswith(".new: 1 shard, 1 clip left to process")


def test_a_file_in_the_stores_place_is_refused(options: Options, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    expected = f"store '{file}' is a file; give a folder that does not exist yet"
    other = replace(options, store=str(file))
    assert estimate.plan(other).problems == (expected,)
    with pytest.raises(RunError) as caught, open_run(other):
        pass
    assert str(caught.value) == expected
    assert file.read_text() == "mine"


def test_what_preprocess_would_refuse_is_a_problem(options: Options) -> None:
    smoke = load_recipe("smoke").model_dump(mode="json")
    otherwise = {
        "frames.slots is": replace(options, recipe=parse_recipe({**smoke, "frames": {"slots": 2}}, "x")),
        "it holds 15 clips, the source 5": replace(options, limit=5),
        "its 101 class names differ from the 14 of the lists": replace(options, splits=None),
    }
    before = contents(Path(options.store))
    for line, other in otherwise.items():
        found = estimate.plan(other)
        with pytest.raises(RunError) as caught, open_run(other):
            pass
        assert found.problems == (str(caught.value),)
        assert line in str(caught.value)
        assert found.clips_left == found.clips
    assert len(before) > 100
    assert contents(Path(options.store)) == before


def test_something_else_in_the_stores_place_is_a_problem(options: Options, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    found = estimate.plan(replace(options, store=str(tmp_path / "mine"), work_dir=str(tmp_path / "w")))
    assert len(found.problems) == 1
    assert "the location holds something else; choose a new one" in found.problems[0]


def broken(source: Path, count: int) -> Path:
    """A class folder with so many files that only their names call videos."""
    (source / "broken").mkdir(parents=True)
    for number in range(count):
        (source / f"broken/{number:02}.avi").write_text(f"no video {number}")
    return source


def test_a_set_of_broken_files_is_a_problem_with_the_reasons(tmp_path: Path) -> None:
    found = estimate.plan(Options(str(broken(tmp_path / "source", 60)), str(tmp_path / "s.zarr"), recipe="smoke"))
    opened, processed = found.problems
    assert opened.startswith("60 of 60 clips tried cannot be opened (broken/00: it is not a video")
    assert processed.startswith("3 of 3 trial clips would be quarantined (broken/00: transcode: ")
    assert (found.seconds, found.store_bytes, found.work_bytes) == (None, None, None)
    assert "unknown: none of the trial clips could be processed" in "\n".join(found.lines())


def test_a_few_broken_files_among_good_ones_are_found(tmp_path: Path, synth_data: Path) -> None:
    source = broken(tmp_path / "source", 2)
    shutil.copytree(synth_data / "UCF-101", source, dirs_exist_ok=True)
    options = Options(str(source), str(tmp_path / "s.zarr"), recipe="smoke")
    found = estimate.plan(options)
    problem = next(line for line in found.problems if "opened" in line)
    assert problem.startswith("2 of 14 clips tried cannot be opened (broken/00: it is not a video")
    assert found.seconds is not None
    assert found.seconds > 0
    allowed = estimate.plan(replace(options, max_quarantined=0.5))
    assert allowed.problems == ()
    assert problem in allowed.warnings


def test_the_plan_counts_what_is_passed_over_and_the_clips_of_each_part(
    options: Options, data: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(data / "UCF-101" / "Archery", source / "Archery")
    (source / "Archery/.hidden.avi").touch()
    (source / "Archery/notes.txt").touch()
    (tmp_path / "lists").mkdir()
    (clip,) = (source / "Archery").glob("v_*.avi")
    (tmp_path / "lists/val.txt").write_text(f"Archery/{clip.name} 0\n")
    found = estimate.plan(
        replace(options, source=str(source), store=str(tmp_path / "s.zarr"), splits=str(tmp_path / "lists"))
    )
    assert found.splits == {1: (0, 0, 1), 2: (0, 0, 0), 3: (0, 0, 0)}
    assert [(one["kind"], one["count"], one["examples"]) for one in found.as_json()["passed_over"]] == [
        ("suffix", 1, ("Archery/notes.txt",)),
        ("hidden", 1, ("Archery/.hidden.avi",)),
    ]
    lines = list(found.lines())
    assert "split 1      0 train, 0 test, 1 validation" in lines
    assert "warning      1 passed over, hidden: 'Archery/.hidden.avi'" in lines
    row = {"what": "passed over", "count": 1, "detail": "hidden: 'Archery/.hidden.avi'"}
    assert row in outcome.table(summarise(options.store), found.passed_over)
