"""Clips that a decoder crashes or hangs on: the process dies, the clip is found and quarantined, all others done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data_specs.recipes import parse_recipe
from data_specs.stored import open_store
from pipelines.execution.dask_cluster import dask_client
from pipelines.runs.options import Options
from pipelines.stages.tasks import ONE_PASS, STAGES
from pipelines.store.summary import summarise
from tests.places import SABOTAGE
from tests.support.saboteurs import CLIPS, SMALL, contents, copy_clips, do_on_dask
from tests.support.soak import record

WIDE = parse_recipe({**SMALL.model_dump(mode="json"), "shard_clips": 3}, "wide")


@pytest.fixture
def options(ucf_clips: Path, tmp_path: Path) -> Options:
    """Six real clips in two shards."""
    return Options(str(copy_clips(ucf_clips, tmp_path / "source")), str(tmp_path / "store.zarr"), recipe=WIDE)


def run(options: Options, sabotage: str, monkeypatch: pytest.MonkeyPatch, workers: int = 2) -> dict[str, str]:
    """Do a run whose workers are sabotaged; what it quarantined. Each stage of each shard must be reported once."""
    monkeypatch.setenv("PYTHONPATH", str(SABOTAGE))
    monkeypatch.setenv("MOCROP_SABOTAGE", sabotage)
    with dask_client(workers=workers) as client:
        reports = do_on_dask(options, client)
    passes = (ONE_PASS,) if options.discard_h264 else STAGES
    assert sorted((report.stage, report.shard) for report in reports) == sorted(
        (stage, shard) for stage in passes for shard in range(2)
    )
    summary = summarise(options.store)
    assert summary.done + len(summary.quarantined) == 6
    return summary.quarantined


def test_clips_that_end_or_hang_their_worker_are_found_and_quarantined_and_all_others_done(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in one shard, of which one hangs inside a library; another ends its worker once only, and is done."""
    sabotage = "extract dies v_ApplyLipstick\nextract hangs v_Archery\nextract dies-once v_Biking"
    hasty = parse_recipe({**WIDE.model_dump(mode="json"), "time_limit": 4.0}, "hasty")
    assert run(replace(options, recipe=hasty), sabotage, monkeypatch) == {
        CLIPS[1]: "motion: worker died",
        CLIPS[2]: "motion: took longer than 4 s and was stopped",
    }
    (log,) = Path(f"{options.store}.work", "logs").glob("process-died-*.log")
    text = log.read_text()
    assert "ended while processing clip" in text
    assert "by SIGSEGV" in text
    assert "Fatal Python error: Segmentation fault" in text
    assert "in sabotaged" in text
    store = open_store(options.store)
    assert not store.view("full").array("frames")[store.row(CLIPS[2])].any()
    assert store.view("full").array("frames")[store.row(CLIPS[3])].any()


@pytest.mark.soak
def test_who_died_when_changes_no_byte(options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage = "extract dies v_ApplyLipstick\nrgb_frames dies v_Shotput"
    expected = {CLIPS[1]: "motion: worker died", CLIPS[4]: "clips: worker died"}
    assert run(options, sabotage, monkeypatch) == expected
    other = replace(options, store=f"{options.store}.other")
    run(other, sabotage, monkeypatch, workers=1)
    assert contents(Path(other.store)) == contents(Path(options.store))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    passed = replace(options, store=f"{options.store}.passed", discard_h264=True, scratch=str(scratch))
    assert run(passed, sabotage, monkeypatch) == expected
    assert contents(Path(passed.store)) == contents(Path(options.store))
    assert list(scratch.iterdir()) == []
    record("clips that end their workers, with 2 workers and with 1", deadly=2, clips=6, same_bytes=True)
