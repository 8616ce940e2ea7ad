"""Clips that a decoder crashes or hangs on: the process dies, the clip is found and quarantined, all others done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data_specs.recipes import parse_recipe
from data_specs.stored import open_store
from pipelines.execution.dask_cluster import dask_client
from pipelines.runs.run import Options
from pipelines.stages.shard_task import STAGES
from pipelines.store.records import summarise
from tests.saboteurs import CLIPS, SMALL, contents, copy_clips, do_on_dask
from tests.soak import record

WIDE = parse_recipe({**SMALL.model_dump(mode="json"), "shard_clips": 3}, "wide")


@pytest.fixture
def options(ucf_clips: Path, tmp_path: Path) -> Options:
    """Six real clips in two shards."""
    return Options(str(copy_clips(ucf_clips, tmp_path / "source")), str(tmp_path / "store.zarr"), recipe=WIDE)


def run(options: Options, sabotage: str, monkeypatch: pytest.MonkeyPatch, workers: int = 2) -> dict[str, str]:
    """Do a run whose workers are sabotaged; what it quarantined. Each stage of each shard must be reported once."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "sabotage"))
    monkeypatch.setenv("MOCROP_SABOTAGE", sabotage)
    with dask_client(workers=workers) as client:
        reports = do_on_dask(options, client)
    assert sorted((report.stage, report.shard) for report in reports) == sorted(
        (stage, shard) for stage in STAGES for shard in range(2)
    )
    summary = summarise(options.store)
    assert summary.done + len(summary.quarantined) == 6
    return summary.quarantined


def test_clips_that_end_their_worker_are_found_and_quarantined_and_all_others_done(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage = "extract dies v_ApplyLipstick\nextract dies v_Archery\nrgb_frames dies v_Shotput"
    expected = {CLIPS[1]: "motion: worker died", CLIPS[2]: "motion: worker died", CLIPS[4]: "clips: worker died"}
    assert run(options, sabotage, monkeypatch) == expected
    logs = sorted(Path(f"{options.store}.work", "logs").glob("process-died-*.log"))
    texts = [log.read_text() for log in logs]
    assert len(texts) == 2, "one for each shard that a process died on"
    for text in texts:
        assert "ended with clip" in text
        assert "by SIGSEGV" in text
        assert "Fatal Python error: Segmentation fault" in text
        assert "in sabotaged" in text
    store = open_store(options.store)
    assert not store.view("full").array("frames")[store.row(CLIPS[4])].any()
    assert store.view("full").array("frames")[store.row(CLIPS[3])].any()


@pytest.mark.soak
def test_who_died_when_changes_no_byte(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage = "extract dies v_ApplyLipstick\nrgb_frames dies v_Shotput"
    run(options, sabotage, monkeypatch)
    other = replace(options, store=f"{options.store}.other")
    run(other, sabotage, monkeypatch, workers=1)
    assert contents(Path(other.store)) == contents(Path(options.store))
    record("clips that end their workers, with 2 workers and with 1", deadly=2, clips=6, same_bytes=True)


def test_a_clip_that_ends_its_worker_once_is_done(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(options, "extract dies-once v_Archery", monkeypatch) == {}


def test_a_hang_inside_a_library_ends_with_the_clips_time_limit(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = parse_recipe({**WIDE.model_dump(mode="json"), "time_limit": 6.0}, "hasty")
    found = run(replace(options, recipe=hasty), "extract hangs v_Biking", monkeypatch)
    assert found == {CLIPS[3]: "motion: took longer than 6 s and was stopped"}
