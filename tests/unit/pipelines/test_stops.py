"""What no clip is to blame for stops a run: one line, nothing quarantined, and the same command completes it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from data_specs.recipes import parse_recipe
from pipelines.errors import RunStopped
from pipelines.media import ffmpeg_binary
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import STAGES
from pipelines.store.summary import summarise
from tests.conftest import run_stages
from tests.support.saboteurs import SMALL, contents, copy_clips
from tests.system.test_cli import mocrop

CLIPS = ("Archery/v_Archery_g01_c01", "Biking/v_Biking_g05_c02", "VolleyballSpiking/v_VolleyballSpiking_g01_c01")
ONE_BY_ONE = parse_recipe({**SMALL.model_dump(mode="json"), "shard_clips": 1}, "one by one")


@pytest.fixture
def options(ucf_clips: Path, tmp_path: Path) -> Options:
    """A small run on three real clips, each a shard of its own."""
    source = copy_clips(ucf_clips, tmp_path / "source", CLIPS)
    return Options(str(source), str(tmp_path / "store.zarr"), recipe=ONE_BY_ONE)


def begin(options: Options, stage: str = "transcode", shards: int = 1) -> None:
    """The first shards of a stage, and no more."""
    with open_run(options) as run:
        for plan in run.pending(stage)[:shards]:
            process_shard(plan, run.recipe)


@pytest.fixture(scope="module")
def expected(ucf_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an unbroken run makes."""
    folder = tmp_path_factory.mktemp("whole")
    source = copy_clips(ucf_clips, folder / "source", CLIPS)
    run_stages(Options(str(source), str(folder / "s.zarr"), recipe=ONE_BY_ONE))
    return contents(folder / "s.zarr")


@pytest.mark.soak
def test_a_run_begun_goes_on_once_there_is_a_usable_ffmpeg_again(
    options: Options, expected: dict[str, bytes], tmp_path: Path, prefect_server: dict[str, str]
) -> None:
    begin(options)
    (tmp_path / "one.toml").write_text(
        'shard_clips = 1\n[transcode]\npreset = "ultrafast"\n[frames]\nslots = 4\nsize = 32\n'
    )
    command = ("preprocess", "--source", options.source, "--store", options.store, "--recipe", tmp_path / "one.toml")
    stopped = mocrop(*command, env={**prefect_server, "MOCROP_FFMPEG": "/bin/false"})
    assert stopped.returncode == 1
    lines = [line for line in stopped.stderr.splitlines() if not line.startswith("transcode: 1 of 3 clips")]
    assert len(lines) == 1, stopped.stderr
    assert lines[0].startswith("mocrop: transcode: MOCROP_FFMPEG names a program that cannot")
    found = summarise(options.store)
    assert (found.pending, found.quarantined) == (3, {})
    summary, _ = run_stages(options)
    assert summary.done == 3
    assert contents(Path(options.store)) == expected


def test_an_ffmpeg_that_goes_away_stops_the_run(
    options: Options, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "ffmpeg"
    own.symlink_to(ffmpeg_binary.find_ffmpeg().path)
    monkeypatch.setenv("MOCROP_FFMPEG", str(own))
    begin(options)
    own.unlink()
    with open_run(options) as run:
        plans = run.pending("transcode")
        assert len(plans) == 2
        for plan in plans:
            with pytest.raises(RunStopped, match="ffmpeg no longer exists; fix this and run the same command again"):
                process_shard(plan, run.recipe)
    assert summarise(options.store).quarantined == {}
    monkeypatch.delenv("MOCROP_FFMPEG")
    assert run_stages(options)[0].done == 3
    assert contents(Path(options.store)) == expected


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize(
    "stage",
    ["transcode", pytest.param("motion", marks=pytest.mark.soak), pytest.param("clips", marks=pytest.mark.soak)],
)
def test_a_source_folder_that_goes_away_stops_the_run(
    options: Options, expected: dict[str, bytes], tmp_path: Path, stage: str, emptied: bool
) -> None:
    for earlier in STAGES[: STAGES.index(stage)]:
        begin(options, earlier, 3)
    begin(options, stage)
    with open_run(options) as run:
        plans = run.pending(stage)
        assert len(plans) == 2
        source = Path(options.source).rename(tmp_path / "away")
        if emptied:
            Path(options.source).mkdir()
        for plan in plans:
            with pytest.raises(RunStopped, match=r"source '.*': (No such file or d|the folder is empty now; fix this)"):
                process_shard(plan, run.recipe)
    if emptied:
        Path(options.source).rmdir()
    source.rename(options.source)
    assert summarise(options.store).quarantined == {}
    assert run_stages(options)[0].done == 3
    assert contents(Path(options.store)) == expected


def test_a_single_file_that_goes_away_is_quarantined(options: Options) -> None:
    begin(options)
    with open_run(options) as run:
        plans = run.pending("transcode")
        assert len(plans) == 2
        os.unlink(Path(options.source, plans[0].clips[0].path))
        for plan in plans:
            process_shard(plan, run.recipe)
    assert summarise(options.store).quarantined == {plans[0].clips[0].id: "transcode: no such source file"}


@pytest.mark.parametrize("stage", [pytest.param("motion", marks=pytest.mark.soak), "clips"])
def test_a_source_file_that_changes_meanwhile_is_done_again_from_its_start(
    options: Options, tmp_path: Path, stage: str
) -> None:
    for earlier in STAGES[: STAGES.index(stage)]:
        begin(options, earlier, 3)
    changed = Path(options.source, f"{CLIPS[0]}.avi")
    other = Path(options.source, f"{CLIPS[1]}.avi").read_bytes()[: changed.stat().st_size]
    changed.write_bytes(other.ljust(changed.stat().st_size, b"\0"))  # of the same size
    with open_run(options) as run:
        first, *_ = run.pending(stage)
        with pytest.raises(RunStopped, match=f"the source file of {CLIPS[0]} was changed; run the same command again"):
            process_shard(first, run.recipe)
    summary, done = run_stages(options)
    assert (summary.done, done.count("transcode"), done.count("motion")) == (3, 1, 3 if stage == "motion" else 1)
    whole = replace(options, store=str(tmp_path / "whole.zarr"))
    run_stages(whole)
    assert contents(Path(options.store)) == contents(Path(whole.store))
