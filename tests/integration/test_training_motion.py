"""The motion stream from the command line on the real clips: training, testing, fusion, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from safetensors.numpy import load_file, save_file

from data_specs.stored import open_store
from pipelines.runs.options import Options
from tests.conftest import run_stages
from training import fuse, results
from training import test as testing
from training import train as training
from training.backbones import build
from training.clip_scores import read_scores
from training.weights import read_file

SMALL = ["--arch", "test_resnet", "--input-size", "32", "--cpu", "--split", "1"]
MOTION = ["--stream", "motion", "--flow-frames", "3"]
ONCE = [*SMALL, "--no-pretrained", "-b", "4", "--epochs", "1", "--eval-freq", "0", "--mixup", "0"]


def train(store: Path, out: Path, *flags: str) -> int:
    return training.main(["--store", str(store), "--output-dir", str(out), *flags])


def result_of_test(store: Path, out: Path, weights: Path, *flags: str) -> Path:
    """The file of the one result of a test."""
    words = ["--store", str(store), "--output-dir", str(out), "--weights", str(weights), "--cpu", *flags]
    assert testing.main(words) == 0
    (path,) = out.glob("*px*.json")
    return path


@pytest.fixture(scope="module")
def weights(ucf_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of an epoch of each stream."""
    out = tmp_path_factory.mktemp("streams")
    assert train(ucf_store, out / "rgb", *ONCE) == 0
    assert train(ucf_store, out / "motion", *ONCE, *MOTION, "--no-remove-camera") == 0
    return {name: out / name / "model.pt" for name in ("rgb", "motion")}


@pytest.fixture(scope="module")
def both(ucf_store: Path, weights: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The results of testing them, RGB first."""
    out = tmp_path_factory.mktemp("tested")
    return [result_of_test(ucf_store, out / name, path) for name, path in weights.items()]


def test_a_checkpoint_of_the_motion_stream_says_what_it_saw_and_is_tested_on_it(
    weights: dict[str, Path], both: list[Path]
) -> None:
    trained = read_file(weights["motion"])
    asked = {"stream": "motion", "flow_frames": 3, "remove_camera": False}
    assert asked.items() <= trained["args"].items()
    assert not asked.keys() & read_file(weights["rgb"])["args"].keys()
    assert any(value.ndim == 4 and value.shape[1] == 6 for value in trained["model"].values())
    rgb, motion = (json.loads(path.read_text()) for path in both)
    assert (rgb["stream"], motion["stream"]) == ("rgb", "motion (3 frames, camera kept)")
    assert motion["clips_without_vectors"] == 0
    assert motion["gflops"] > rgb["gflops"]
    assert rgb["trained"]["settings"].items() <= motion["trained"]["settings"].items()
    for path, result in zip(both, (rgb, motion), strict=True):
        scores = read_scores(path.with_name(result["scores"]))
        assert len(scores.ids) == result["clips"] == len(set(scores.ids))
        assert scores.top(1) == pytest.approx(result["top1"], abs=1e-4)


def test_training_on_motion_repeats_to_the_bit_and_resumes(ucf_store: Path, tmp_path: Path) -> None:
    flags = [*ONCE, *MOTION, "--view", "mocrop"]
    states = []
    for name, workers in (("a", "0"), ("b", "2")):
        assert train(ucf_store, tmp_path / name, *flags, "-j", workers) == 0
        states.append(read_file(tmp_path / name / "model.pt")["model"])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    more = [*flags, "--epochs", "2", "--resume"]
    assert train(ucf_store, tmp_path / "a", *more) == 0
    assert read_file(tmp_path / "a" / "model.pt")["epoch"] == 2


def test_rgb_weights_start_a_motion_stream_with_their_mean_filters(
    ucf_store: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    flags = [*ONCE, *MOTION, "--lr", "0"]
    for name in ("rgb", "motion"):
        assert train(ucf_store, tmp_path / name, *flags, "--init-weights", str(weights[name])) == 0
    started = {name: read_file(tmp_path / name / "model.pt")["model"] for name in weights}
    given = {name: read_file(path)["model"] for name, path in weights.items()}
    key = next(key for key, value in given["rgb"].items() if value.ndim == 4)
    assert torch.allclose(started["rgb"][key], given["rgb"][key].mean(dim=1, keepdim=True).expand(-1, 6, -1, -1) / 2)
    assert torch.equal(started["motion"][key], given["motion"][key])


def test_fusion_averages_the_softmax_of_both_streams(
    ucf_store: Path, both: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*map(str, both), "--weights", "1", "3", "--output-dir", str(tmp_path), "--format", "markdown"]
    assert fuse.main(words) == 0
    table = capsys.readouterr().out
    (path,) = tmp_path.glob("fused-*.json")
    result = json.loads(path.read_text())
    logits = [read_scores(each.with_name(json.loads(each.read_text())["scores"])).logits for each in both]
    chances = [np.exp(each - each.max(1, keepdims=True)) for each in logits]
    chances = [each / each.sum(1, keepdims=True) for each in chances]
    expected = (chances[0] + 3 * chances[1]) / 4
    fused = read_scores(tmp_path / result["scores"])
    assert np.allclose(np.exp(fused.logits), expected, atol=1e-6)
    assert result["top1"] == pytest.approx(100 * (expected.argmax(1) == fused.labels).mean(), abs=1e-4)
    assert [part["weight"] for part in result["fused"]] == [1, 3]
    assert result["gflops"] == sum(json.loads(each.read_text())["gflops"] for each in both)
    lines = table.splitlines()[2:]
    assert [line.split("|")[2].strip().split(":")[0] for line in lines] == [
        "Baseline (32px)",
        "fused",
        "motion (3 frames, camera kept)",
    ]
    assert "1 x rgb + 3 x motion (3 frames, camera kept)" in table
    for each in both:
        (tmp_path / each.name).write_bytes(each.read_bytes())
    assert results.main([str(tmp_path), "--format", "markdown"]) == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--flow-frames", "7"], "--flow-frames 7: is for the motion stream; give --stream motion"),
        (["--no-remove-camera"], "--remove-camera False: is for the motion stream"),
        (["--first-conv", "scratch"], "--first-conv scratch: is for the motion stream"),
        (["--stream", "motion", "--first-conv", "mean"], "--first-conv mean: there are no RGB weights"),
        (["--stream", "motion", "--flow-frames", "0"], "'0' is not a whole number from 1 to 64"),
        (["--stream", "flow"], "invalid choice: 'flow'"),
    ],
)
def test_flags_of_the_motion_stream_are_refused_without_it(
    flags: list[str], message: str, ucf_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: Any = train(ucf_store, tmp_path, *ONCE, *flags)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_test_of_another_stream_than_was_trained_is_refused(
    ucf_store: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        ("rgb", ["--stream", "motion"], "--stream motion: these weights were trained with rgb"),
        ("motion", ["--stream", "rgb"], "--stream rgb: these weights were trained with motion"),
        ("motion", ["--flow-frames", "5"], "--flow-frames 5: these weights were trained with 3"),
        ("motion", ["--remove-camera"], "--remove-camera True: these weights were trained with False"),
        ("rgb", ["--flow-frames", "5"], "--flow-frames 5: is for the motion stream"),
    ]
    for name, flags, message in asked:
        words = ["--store", str(ucf_store), "--weights", str(weights[name]), "--output-dir", str(tmp_path), *flags]
        assert testing.main([*words, "--cpu"]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_store_without_motion_vectors_is_refused_for_the_motion_stream(
    synth_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "keys.toml"
    recipe.write_text(
        'name = "keys"\n[transcode]\ngop = 1\npreset = "ultrafast"\n[frames]\nslots = 2\nsize = 32\n'
        '[[views]]\nkind = "full"\n'
    )
    options = Options(str(synth_data / "UCF-101"), str(tmp_path / "keys.zarr"), str(synth_data / "ucfTrainTestlist"))
    run_stages(replace(options, recipe=str(recipe), limit=4))
    assert train(tmp_path / "keys.zarr", tmp_path / "out", *ONCE, "-b", "2", *MOTION) == 2
    error = capsys.readouterr().err
    assert "has no motion vectors: all frames of its" in error
    assert "give --stream rgb" in error
    assert error.count("\n") == 1


def test_results_of_other_clips_or_without_scores_are_refused(
    both: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rgb, motion = both
    other, scores = tmp_path / "other.json", json.loads(motion.read_text())["scores"]

    def refused(message: str, status: int = 2, **changes: Any) -> None:
        other.write_text(json.dumps({**json.loads(motion.read_text()), **changes}))
        assert fuse.main([str(rgb), str(other), "--output-dir", str(tmp_path / "out")]) == status
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    tensors = load_file(motion.with_name(scores))
    known = read_scores(motion.with_name(scores))

    def rewrite(ids: list[str], names: list[str], **changed: np.ndarray) -> None:
        metadata = {"ids": json.dumps(ids), "class_names": json.dumps(names)}
        save_file({**tensors, **changed}, tmp_path / scores, metadata)

    ids, names = list(known.ids), list(known.class_names)
    refused("are missing; python -m training.test writes them", status=1)
    rewrite([*ids[:-1], "Other/clip"], names)
    refused("it is of other clips than")
    rewrite(ids, [*names[:-1], "Other"])
    refused("it has other classes than")
    rewrite(ids, names, labels=np.roll(tensors["labels"], 1) + 1)
    refused("its clips have other labels than")
    rewrite(ids, names, logits=tensors["logits"][:, :-1])
    refused("are damaged", status=1)
    rewrite(ids, names)
    refused("its split is 3, that of", split=3)
    refused("it names no scores of its clips", scores=None)
    refused("it names no scores of its clips", scores="../scores")
    assert fuse.main([str(rgb), str(other), "--weights", "1", "--output-dir", str(tmp_path)]) == 2
    assert "--weights 1: give one per result (2)" in capsys.readouterr().err
    assert fuse.main([str(rgb), "--output-dir", str(tmp_path)]) == 2
    assert "one result; give two or more" in capsys.readouterr().err
    assert fuse.main([str(rgb), str(tmp_path / "none.json")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_a_test_of_foreign_weights_takes_the_stream_from_the_flags(ucf_store: Path, tmp_path: Path) -> None:
    from training.backbones import for_motion
    from training.motion import MotionInput

    backbone = for_motion(build("test_resnet", 101, 32, pretrained=False), MotionInput(2), mean_filters=False)
    torch.save(backbone.model.state_dict(), tmp_path / "weights.pt")
    path = result_of_test(
        ucf_store, tmp_path / "out", tmp_path / "weights.pt", *SMALL, "--stream", "motion", "--flow-frames", "2"
    )
    assert json.loads(path.read_text())["stream"] == "motion (2 frames, camera removed)"


def test_a_box_outside_the_frame_or_another_frame_size_is_one_line(
    own_ucf_store: Path, weights: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--store", str(own_ucf_store), "--output-dir", str(tmp_path / "out"), "--cpu", "--split", "1"]
    flags += ["--weights", str(weights["motion"])]
    sizes = open_store(own_ucf_store).table("frame_size")
    for changed, message, status in (
        (sizes - 40, "is empty or leaves the frame; mocrop verify", 2),
        (sizes + 40, "its record has another; mocrop verify", 1),
    ):
        zarr.open_group(own_ucf_store, mode="r+")["frame_size"][:] = changed  # type: ignore[index]
        assert testing.main(flags) == status
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
