"""Comparisons of tested runs: folds pooled, seeds averaged, paired by clip."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import compare
from training.clip_scores import write_scores
from training.evaluation import scores_of

NAMES = ("left", "right")
LABELS = {f"scene{k // 3}/clip{k:02}": k % 2 for k in range(12)}
IDS = list(LABELS)
HALVES = {1: IDS[:6], 2: IDS[6:]}
PARAMS = {
    "full": {"kind": "full"},
    "centre": {"kind": "centre", "crop_ratio": 0.25},
    "actor": {"kind": "motion", "crop_ratio": 0.25},
}


def write(folder: Path, view: str, wrong: set[int], *, split: int = 1, seed: int = 0, **other: Any) -> Path:
    """A result of a test of a split, in which the clips of these numbers got the other class; return its path."""
    ids = [id for id in HALVES[split] if id not in other.get("missing", ())]
    right = [LABELS[id] ^ (IDS.index(id) in wrong) for id in ids]
    scores = scores_of(np.eye(2, dtype=np.float32)[right], np.array([LABELS[id] for id in ids]), NAMES, tuple(ids))
    name = f"{view}-{split}-{seed}-{other.get('stream', 'rgb')}{other.get('again', '')}"
    result = {
        "mocrop_result": 1,
        "name": name,
        "scores": f"{name}.scores.safetensors",
        "arch": "resnet50",
        "dataset": other.get("dataset", "fights"),
        "split": split,
        "clips": len(ids),
        "segments": 8,
        "view": view,
        "view_params": PARAMS[view],
        "view_fingerprint": "0" * 32,
        "input_size": 128,
        "stream": other.get("stream", "rgb"),
        "top1": scores.top(1),
        "gflops": 1.0,
        "amp": False,
        "trained": {
            "view": other.get("trained", view),
            "input_size": 128,
            "seed": seed,
            "settings": {"epochs": other.get("epochs", 5), "train_clips": split},
        },
        "checkpoint": {"sha256": name},
    }
    write_scores(folder / f"{name}.scores.safetensors", scores)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result))
    return path


def rows(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of the comparison by view and stream."""
    assert compare.main([str(folder), "--group-by", "(scene.)", "--format", "json", *flags]) == 0
    return {(row["view"], row["stream"]): row for row in json.loads(capsys.readouterr().out)}


def folds(folder: Path, view: str, *wrong: set[int], **other: Any) -> None:
    """The results of both splits of one view: those of seed 0, of seed 1 and so on have these clips wrong."""
    for seed, mine in enumerate(wrong):
        for split in HALVES:
            write(folder, view, mine, split=split, seed=seed, **other)


def test_folds_are_pooled_and_seeds_averaged_in_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folds(tmp_path, "full", {0, 1, 2, 3, 6, 9}, {0, 1, 2, 6, 7, 9})
    folds(tmp_path, "centre", {0, 1, 2, 3}, {0, 1, 2, 3})
    folds(tmp_path, "actor", {0}, {0, 11})
    found = rows(tmp_path, capsys)
    full, centre, actor = (found[view, "rgb"] for view in PARAMS)
    assert (full["top1"], full["deviation"], full["from_full"]) == (50.0, 0.0, None)
    assert actor["top1"] == pytest.approx(100 * (11 + 10) / 24)
    assert actor["deviation"] == pytest.approx(100 / 12 / 2**0.5)
    assert actor["from_full"]["points"] == pytest.approx(actor["top1"] - 50)
    assert actor["from_full"]["low"] <= actor["from_full"]["points"] <= actor["from_full"]["high"]
    assert (actor["centre"], actor["from_centre"]["points"]) == ("centre", pytest.approx(actor["top1"] - 200 / 3))
    # right with both seeds: actor in 1, 2, 3, 6, 7 and 9 where full is not, full in 11 where actor is not
    assert actor["from_full"]["p"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert centre["from_full"]["points"] == pytest.approx(100 / 6)
    assert compare.main([str(tmp_path), "--group-by", "(scene.)"]) == 0
    assert "12 clips in 4 groups (--group-by (scene.)); 2 seeds per row" in capsys.readouterr().out


def test_the_interval_is_that_of_whole_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folds(tmp_path, "full", set(range(6)))  # two of the four scenes are wrong, and two right
    (row,) = rows(tmp_path, capsys).values()
    assert (row["low"], row["high"]) == (0.0, 100.0)
    assert compare.main([str(tmp_path), "--group-by", ".+", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert 10 < row["low"] < 30
    assert 70 < row["high"] < 90


def test_streams_are_compared_with_rgb_and_other_trainings_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds(tmp_path, "full", {0, 1, 2})
    folds(tmp_path, "full", {0, 1}, stream="motion (5 frames, camera removed)")
    folds(tmp_path, "full", {0}, stream="fused: 1 x rgb + 1 x motion (5 frames, camera removed)")
    folds(tmp_path, "actor", {0, 1, 2, 3}, trained="full")
    found = rows(tmp_path, capsys)
    assert list(found) == [
        ("full", "rgb"),
        ("actor, trained on full", "rgb"),
        ("full", "motion"),
        ("full", "fused"),
    ]
    changes = [row["from_rgb"] and row["from_rgb"]["points"] for row in found.values()]
    assert changes == [None, None, pytest.approx(100 / 12), pytest.approx(200 / 12)]


BAD: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: write(folder, "full", set(), again="again"), "seed tests 'scene0/clip00', too; give a folder"),
    (lambda folder: write(folder, "full", set(), seed=1), "seed 1 was tested on 6 of 12 clips, not on 'scene2/clip06'"),
    (lambda folder: write(folder, "actor", set(), split=2), "view actor at 128 px, seed 0 was tested on 6 of 12 clips"),
    (lambda folder: write(folder, "full", set(), seed=1, epochs=9), "trained otherwise than"),
    (lambda folder: write(folder, "actor", set(), dataset="else"), "its dataset is 'fights', that of"),
    (lambda folder: shutil.rmtree(folder), "no such folder; python -m training.test writes results"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_what_cannot_be_compared_is_refused_in_one_line(
    spoil: Callable[[Path], object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folds(tmp_path, "full", {0})
    spoil(tmp_path)
    assert compare.main([str(tmp_path), "--group-by", "(scene.)"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_clips_without_groups_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folds(tmp_path, "full", {0})
    assert compare.main([str(tmp_path)]) == 2
    assert "the groups of these clips are unknown; give --groups FILE or --group-by" in capsys.readouterr().err
