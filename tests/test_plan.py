"""The dry run: what is left, what it takes, and whether the run itself would be refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from data_specs.recipes import load_recipe, parse_recipe
from pipelines import plan
from pipelines.preprocess import Options, RunError, open_run
from tests.saboteurs import contents

SECONDS = 8.0  # of a clip


@pytest.fixture
def options(ucf_options: Options, own_ucf_store: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """The finished store of the real clips, 4 in a shard, asked for again; no clip is done to measure its cost."""
    monkeypatch.setattr(plan, "measured", lambda *_: (("x",), plan.Cost(SECONDS, 100.0, 10.0)))
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
    found = plan.plan(replace(options, workers=workers))
    assert (found.clips_left, found.shards, found.workers) == (clips, 4, workers)
    assert (found.seconds, found.store_bytes) == (seconds, 100 * clips)
    assert found.problems == ()


def test_what_preprocess_would_refuse_is_a_problem(options: Options) -> None:
    smoke = load_recipe("smoke").model_dump(mode="json")
    otherwise = {
        "frames.slots is": replace(options, recipe=parse_recipe({**smoke, "frames": {"slots": 2}}, "x")),
        "it holds 15 clips, the source 5": replace(options, limit=5),
        "it has 101 class names, these lists other ones (14)": replace(options, splits=None),
    }
    before = contents(Path(options.store))
    for line, other in otherwise.items():
        found = plan.plan(other)
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
    found = plan.plan(replace(options, store=str(tmp_path / "mine"), work_dir=str(tmp_path / "w")))
    assert len(found.problems) == 1
    assert "something else is there; give a new place" in found.problems[0]
