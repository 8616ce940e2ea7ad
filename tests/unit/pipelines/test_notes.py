"""Notes: what was passed over, chosen or repaired in a clip is counted and shown everywhere."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from data_specs.recipes import parse_recipe
from data_specs.records import MotionRow, TranscodeRow
from data_specs.schema import NOTES
from data_specs.stored import open_store
from pipelines.cli.app import app
from pipelines.errors import ClipError, RunError
from pipelines.media.encoder import write_video
from pipelines.runs import outcome
from pipelines.runs.options import Options
from pipelines.stages.h264_cache import check_missing
from pipelines.store.summary import summarise
from tests.conftest import run_stages
from tests.integration.test_report_file import report_of

SMALL = {"name": "small", "shard_clips": 2, "transcode": {"preset": "ultrafast"}, "frames": {"slots": 2, "size": 32}}
KEEP = parse_recipe({**SMALL, "transcode": "keep", "max_missing": 1}, "keep")


def noise(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (frames, 48, 64, 3)).astype(np.uint8)


def spoil(path: Path, *numbers: int) -> None:
    """Overwrite packets of a file, so that their decoder refuses them."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        place, size = packets[number]
        data[place : place + size] = b"\xff" * size
    path.write_bytes(data)


@pytest.fixture(scope="module")
def damaged_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of 12 frames, read as they are; five have packets that cannot be decoded."""
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "source" / "Hop").mkdir(parents=True)
    write_video(folder / "whole.mp4", noise(12), 25, "libx264", g=4)
    for number in range(6):
        clip = folder / "source" / "Hop" / f"h{number}.mp4"
        shutil.copy(folder / "whole.mp4", clip)
        spoil(clip, *range(5, 5 + number))
    run_stages(Options(str(folder / "source"), str(folder / "s.zarr"), recipe=KEEP))
    return folder / "s.zarr"


DAMAGE = {f"Hop/h{n}": f"{n} {'packet' if n == 1 else 'packets'} could not be decoded" for n in range(1, 6)}


def test_a_note_stands_in_the_clips_record_and_in_the_summary(damaged_store: Path) -> None:
    summary = summarise(str(damaged_store))
    assert summary.done == 6
    assert summary.notes["damage"] == DAMAGE
    rows = {
        id: row for record in open_store(damaged_store).records(MotionRow).values() for id, row in record.clips.items()
    }
    assert rows["Hop/h0"].notes == {}
    assert rows["Hop/h1"].notes["damage"] == DAMAGE["Hop/h1"]


def test_status_counts_the_notes_with_examples_and_lists_them_all_as_json(damaged_store: Path) -> None:
    lines = CliRunner().invoke(app, ["status", str(damaged_store)]).stdout.splitlines()
    place = lines.index(f"  damage: 5 clips, {NOTES['damage']}")
    assert lines[place + 1 : place + 5] == [
        *(f"    Hop/h{n}: {DAMAGE[f'Hop/h{n}']}" for n in (1, 2, 3)),
        "    and 2 more; --json lists them all",
    ]
    said = json.loads(CliRunner().invoke(app, ["status", str(damaged_store), "--json"]).stdout)
    assert said["notes"]["damage"] == DAMAGE


LACKING = {
    "Hop/h3": "9 of 12 frames decoded: more are missing than max_missing 0.2 allows",
    "Hop/h4": "8 of 12 frames decoded: more are missing than max_missing 0.2 allows",
    "Hop/h5": "7 of 12 frames decoded: more are missing than max_missing 0.2 allows",
}


@pytest.mark.parametrize(("transcode", "stage"), [("keep", "motion"), ({"preset": "ultrafast"}, "transcode")])
def test_a_clip_that_lacks_more_than_max_missing_is_quarantined_with_both_numbers(
    damaged_store: Path, tmp_path: Path, transcode: object, stage: str
) -> None:
    recipe = parse_recipe({**SMALL, "transcode": transcode}, "small")
    options = Options(str(damaged_store.parent / "source"), str(tmp_path / "s.zarr"), recipe=recipe, max_missing=0.2)
    summary, _ = run_stages(options)
    assert summary.quarantined == {id: f"{stage}: {reason}" for id, reason in LACKING.items()}
    assert summary.notes == {
        "damage": {id: DAMAGE[id] for id in ("Hop/h1", "Hop/h2")},
        "missing": {"Hop/h2": "10 of 12 frames decoded"},
    }
    assert run_stages(options) == (summary, [])
    with pytest.raises(RunError, match=r"max_missing is 0\.2 in the store, 0\.5 requested"):
        run_stages(replace(options, max_missing=0.5))


def test_missing_frames_without_a_note_quarantine_a_clip_too() -> None:
    """As a note beside an H.264 file may say that someone else has written."""
    row = TranscodeRow("0" * 32, 9, h264="1" * 32, h264_bytes=9, frames=5, missing=7)
    with pytest.raises(ClipError, match=r"^7 frames are missing: more are missing than max_missing 0\.25 allows$"):
        check_missing(row, parse_recipe(SMALL, "small"))


def test_prefects_table_and_its_last_line_count_the_notes(damaged_store: Path) -> None:
    summary = summarise(str(damaged_store))
    (row,) = (row for row in outcome.table(summary) if row["what"] == "note damage")
    assert row["count"] == 5
    assert "Hop/h3: 3 packets could not be decoded" in row["detail"]
    assert f"; {NOTES['damage']}: 5" in outcome.in_one_line(summary)


def test_the_report_lists_the_notes(damaged_store: Path, tmp_path: Path) -> None:
    (note,) = (one for one in report_of(damaged_store, tmp_path)["head"]["notes"] if one["about"] == NOTES["damage"])
    assert note["count"] == 5
    assert note["clips"] == [[n, DAMAGE[f"Hop/h{n}"]] for n in range(1, 6)]


def test_where_nothing_was_noted_nothing_is_said(ucf_store: Path, tmp_path: Path) -> None:
    summary = summarise(str(ucf_store))
    assert summary.notes == {}
    assert outcome.in_one_line(summary) == "15 clips: 15 done, 0 quarantined, 0 pending"
    assert not [row for row in outcome.table(summary) if row["what"].startswith("note")]
    assert len(CliRunner().invoke(app, ["status", str(ucf_store)]).stdout.splitlines()) == 5
    assert report_of(ucf_store, tmp_path, clips=0)["head"]["notes"] == []
