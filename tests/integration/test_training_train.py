"""Training and testing from the command line on the real clips: numbers, checkpoints, refusals."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_specs.recipes import load_recipe, parse_recipe
from data_specs.stored import open_store
from pipelines.runs.options import Options
from tests.benchmarks import loader_training
from tests.conftest import run_stages
from tests.support.rewriting import rewrite
from training import test as testing
from training import train as training
from training.backbones import build
from training.evaluation import evaluate, scores_of
from training.options import exit_status
from training.weights import read_file

SMALL = ["--arch", "test_resnet", "--no-pretrained", "--input-size", "32", "--cpu", "--split", "2"]
ONCE = [*SMALL, "-b", "4", "--epochs", "1"]


def train(store: Path, out: Path, *flags: str) -> int:
    return training.main(["--store", str(store), "--output-dir", str(out), *flags])


def run_test(store: Path, out: Path, weights: Path, *flags: str) -> int:
    return testing.main(["--store", str(store), "--output-dir", str(out), "--weights", str(weights), "--cpu", *flags])


def results_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.fixture(scope="module")
def trained(ucf_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two epochs on the view mocrop of split 2."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert train(ucf_store, out, *SMALL, "-b", "4", "--epochs", "2", "--train-mode", "mocrop", "--print-freq", "1") == 0
    return out


def test_a_training_leaves_checkpoints_a_table_and_curves(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"lr", "train_loss", "clips_per_s", "data_wait", "test_loss", "test_top1", "test_top5"} <= set(rows[0])
    last, chosen = read_file(trained / "last.pt"), read_file(trained / "model.pt")
    assert {"model", "optimizer", "schedule", "epoch", "random_states", "args", "history"} <= set(last)
    assert last["epoch"] == chosen["epoch"] == 2
    assert (chosen["args"]["view"], chosen["args"]["select"]) == ("mocrop", "last")
    assert all(torch.equal(value, chosen["model"][key]) for key, value in last["model"].items())
    assert list(trained.glob("events.out.tfevents.*"))
    assert not list(trained.glob(".*part*"))


def test_a_picture_that_cannot_be_drawn_loses_no_result(
    ucf_store: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(testing, "write_confusion", full_disk)
    flags = ["--split", "2", "--view", "mocrop", "--input-size", "32"]
    assert run_test(ucf_store, tmp_path, trained / "model.pt", *flags) == 1
    (result,) = results_in(tmp_path)
    assert result["view"] == "mocrop"


def test_a_test_of_all_views_and_sizes_writes_results_and_confusion(
    ucf_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = ["centre", "mocrop"]
    flags = ["--split", "2", "--view", *views, "--input-size", "32", "48", "--test-segments", "25"]
    assert run_test(ucf_store, tmp_path, trained / "model.pt", *flags) == 0
    found = results_in(tmp_path)
    assert {(row["view"], row["input_size"]) for row in found} == {(view, size) for view in views for size in (32, 48)}
    for row in found:
        assert row["clips"] == sum(own["clips"] for own in row["per_class"].values()) == 1
        assert row["segments"] == 25
        assert row["trained"]["view"] == "mocrop"
        assert row["trained"]["select"] == "last"
        settings = row["trained"]["settings"]
        assert (settings["lr"], settings["epochs"], settings["train_clips"]) == (0.001, 2, 14)
        assert not {"seed", "workers", "cpu", "output_dir", "store", "eval_freq"} & settings.keys()
        assert len(row["checkpoint"]["sha256"]) == 64
        assert row["store_fingerprint"]
        assert row["view_params"]["kind"]
        assert row["software"]["torch"] == torch.__version__
        table = list(csv.reader((tmp_path / f"{row['name']}.confusion.csv").open()))
        assert len(table) == 102
        assert sum(int(cell) for line in table[1:] for cell in line[1:]) == 1
        assert (tmp_path / f"{row['name']}.confusion.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("top-1") == 4
    flags = ["--split", "2", "--view", "mocrop", "--input-size", "32", "--test-segments", "8"]
    assert run_test(ucf_store, tmp_path, trained / "model.pt", *flags) == 0
    assert sorted(row["segments"] for row in results_in(tmp_path)) == [8] + [25] * 4


def test_a_test_without_a_view_is_on_that_of_the_training_and_says_so(
    ucf_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain.pt"
    torch.save(read_file(trained / "model.pt")["model"], plain)
    foreign = ["--arch", "test_resnet", "--input-size", "32"]
    for name, weights, flags, view, note in (
        ("own", trained / "model.pt", [], "mocrop", "tested on the view of the training, mocrop; --view tests others"),
        ("mode", trained / "model.pt", ["--test-mode", "normal"], "full", ""),
        ("named", trained / "model.pt", ["--view", "centre"], "centre", ""),
        ("foreign", plain, foreign, "full", ""),
    ):
        assert run_test(ucf_store, tmp_path / name, weights, "--split", "2", "--json", *flags) == 0
        said = capsys.readouterr()
        (result,) = json.loads(said.out)
        assert result["view"] == view
        assert said.err.strip() == note


def test_a_store_that_is_lost_during_a_run_fails_it_in_one_line(
    own_ucf_store: Path,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def losing(work: Any) -> Any:
        def then_lost(*args: Any, **options: Any) -> Any:
            result = work(*args, **options)
            own_ucf_store.rename(own_ucf_store.with_suffix(".lost"))
            return result

        return then_lost

    monkeypatch.setattr(training, "train_epoch", losing(training.train_epoch))
    monkeypatch.setattr(testing, "loaded", losing(testing.loaded))
    flags = [own_ucf_store, tmp_path / "run"]
    for run in (
        lambda: train(*flags, *ONCE),
        lambda: run_test(*flags, trained / "model.pt", "--split", "2"),
    ):
        capsys.readouterr()
        assert run() == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: store {str(own_ucf_store)!r}"), error
        own_ucf_store.with_suffix(".lost").rename(own_ucf_store)


def test_a_test_is_the_same_whatever_the_batch_the_threads_and_the_random_state(
    ucf_store: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untouched = []

    def state() -> list[Any]:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]  # type: ignore[index, union-attr]

    def watched(*args: Any, **options: Any) -> Any:
        before = state()
        scores = evaluate(*args, **options)
        untouched.append(state() == before)
        return scores

    monkeypatch.setattr(testing, "evaluate", watched)
    for number, flags in enumerate((["-b", "1", "-j", "1"], ["-b", "7", "-j", "3"])):
        torch.manual_seed(number)
        np.random.seed(number)
        out = tmp_path / str(number)
        model = trained / "model.pt"
        assert run_test(ucf_store, out, model, "--split", "2", *flags, "--test-mode", "mocrop") == 0
    first, second = (results_in(tmp_path / str(number))[0] for number in (0, 1))
    assert untouched == [True, True]
    assert first["top1"] == second["top1"]
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-5)


def test_scores_count_ranks_and_ties_go_to_the_lower_label() -> None:
    logits = np.array([[3, 2, 1, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5, 6], [1, 1, 0, 0, 0, 0, 0]], np.float32)
    scores = scores_of(logits, np.array([0, 1, 1]), tuple("abcdefg"))
    assert scores.predicted.tolist() == [0, 6, 0]
    assert scores.ranks.tolist() == [0, 5, 1]
    assert (scores.top(1), scores.top(5)) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
    assert scores.per_class() == {"a": {"clips": 1, "top1": 100.0}, "b": {"clips": 2, "top1": 0.0}}
    assert scores.confusion()[1].tolist() == [1, 0, 0, 0, 0, 0, 1]


RESUMED = [  # dropout and mixup draw from torch and numpy, momentum and decay change along the way
    *("--arch", "mobilenet_v3_large", "--no-pretrained", "--input-size", "32", "--cpu", "--split", "2", "-b", "4"),
    *("--epochs", "3", "--optimizer", "sgd", "--lr-steps", "2", "--eval-freq", "2", "--label-smoothing", "0.1"),
]


def train_until_killed(store: Path, out: Path, *flags: str) -> None:
    """A training whose process is killed in its second epoch, before it writes the last of its files."""
    save = training.save

    def save_once(path: Path, content: Any) -> None:
        if path.name == "last.pt" and path.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        save(path, content)

    training.save = save_once
    train(store, out, *flags)


def test_a_training_killed_and_resumed_ends_with_the_same_weights(ucf_store: Path, tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    assert train(ucf_store, unbroken, *RESUMED) == 0
    # forked, as the libraries take seconds to import
    child = multiprocessing.get_context("fork").Process(target=train_until_killed, args=(ucf_store, broken, *RESUMED))
    child.start()
    child.join(600)
    assert child.exitcode == -signal.SIGKILL
    assert read_file(broken / "last.pt")["epoch"] == 1
    assert "\n2," in (broken / "metrics.csv").read_text(), "all but the last file of the second epoch were written"
    assert train(ucf_store, broken, *RESUMED, "--resume") == 0
    first, second = read_file(unbroken / "model.pt"), read_file(broken / "model.pt")
    assert first["epoch"] == second["epoch"] == 3
    assert first["model"].keys() == second["model"].keys()
    for key, value in first["model"].items():
        assert torch.equal(value, second["model"][key]), key
    columns = ("epoch", "lr", "train_loss", "test_loss", "test_top1")
    tables = [list(csv.DictReader((folder / "metrics.csv").open())) for folder in (unbroken, broken)]
    assert [[row[name] for name in columns] for row in tables[0]] == [
        [row[name] for name in columns] for row in tables[1]
    ]


def test_a_resume_from_other_arguments_is_refused_with_the_differences(
    ucf_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    mode = ["--train-mode", "mocrop", "-b", "4", "--epochs", "2"]
    assert train(ucf_store, out, *SMALL, *mode, "--seed", "5", "--lr", "0.5", "--resume") == 2
    error = capsys.readouterr().err
    assert "lr was 0.001, is 0.5; seed was 0, is 5" in error
    assert train(ucf_store, out, *SMALL, *mode) == 2
    assert "contains a training; give --resume" in capsys.readouterr().err
    assert train(ucf_store, tmp_path / "none", *SMALL, *mode, "--resume") == 2
    assert "no such file" in capsys.readouterr().err
    assert train(ucf_store, out, *SMALL, *mode, "--resume", str(out / "model.pt")) == 2
    assert "no training to resume" in capsys.readouterr().err
    # more epochs are no other training with step decay
    assert train(ucf_store, out, *SMALL, *mode[:-1], "3", "--resume") == 0
    assert read_file(out / "model.pt")["epoch"] == 3
    curves = EventAccumulator(str(out)).Reload()
    for name in ("train_loss", "test_top1", "lr"):
        assert [event.step for event in curves.Scalars(name)] == [1, 2, 3]
    # nor is the same view by its own name, or with what is known of it
    view = ["--view", "mocrop", "--crop-ratio", "0.75", "--mv-h", "6", "-b", "4", "--epochs", "4", "--resume"]
    assert train(ucf_store, out, *SMALL, *view) == 0
    assert read_file(out / "model.pt")["epoch"] == 4


@pytest.fixture
def own_synth_store(synth_data: Path, synth_store: Path, tmp_path: Path) -> Path:
    """A copy of the synthetic store, with its H.264 files, to do with as one likes."""
    for suffix in ("", ".work"):
        shutil.copytree(f"{synth_store}{suffix}", tmp_path / f"synth.zarr{suffix}")
    return tmp_path / "synth.zarr"


SYNTH = ["--arch", "test_resnet", "--no-pretrained", "--input-size", "32", "--cpu", "-b", "4", "--view", "mocrop"]


def test_a_view_added_to_the_store_does_not_stand_in_the_way_of_a_resume(
    own_synth_store: Path, synth_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(own_synth_store, out, *SYNTH, "--epochs", "1") == 0
    before = open_store(own_synth_store).fingerprint
    smoke = load_recipe("smoke").model_dump(mode="json")
    smoke["views"].append({"kind": "motion", "name": "second", "preset": "paper-v2"})
    wider = parse_recipe(smoke, "wider")
    run_stages(Options(str(synth_data / "UCF-101"), str(own_synth_store), str(synth_data / "ucfTrainTestlist"), wider))
    assert open_store(own_synth_store).views[-1] == "second"
    assert open_store(own_synth_store).fingerprint != before
    assert train(own_synth_store, out, *SYNTH, "--epochs", "2", "--resume") == 0
    assert read_file(out / "model.pt")["epoch"] == 2
    # other clips are another training, also where only the test list is shorter
    group = zarr.open_group(own_synth_store, mode="r+")
    split = group["split"][:]
    split[np.flatnonzero(split[:, 0] == 2)[0], 0] = 0
    group["split"][:] = split
    capsys.readouterr()
    assert train(own_synth_store, out, *SYNTH, "--epochs", "3", "--resume") == 2
    error = capsys.readouterr().err
    assert error == "error: --resume: started with other arguments: the lists of the store have other clips\n"


def test_fewer_epochs_than_are_done_are_refused_and_just_as_many_give_a_model(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(synth_store, out, *SYNTH, "--epochs", "2", "--eval-freq", "0") == 0
    whole = (out / "model.pt").read_bytes()
    (out / "model.pt").unlink()
    capsys.readouterr()
    assert train(synth_store, out, *SYNTH, "--epochs", "1", "--eval-freq", "0", "--resume") == 2
    printed = capsys.readouterr()
    assert printed.err == (
        "error: --epochs 1: 2 epochs are done; give --epochs 2 to save the last one as model.pt, or more to continue\n"
    )
    assert printed.out == ""
    assert not (out / "model.pt").exists()
    assert train(synth_store, out, *SYNTH, "--epochs", "2", "--eval-freq", "0", "--resume") == 0
    assert "no epochs left" in capsys.readouterr().out
    last, model = read_file(out / "last.pt"), read_file(out / "model.pt")
    assert model["epoch"] == 2
    assert all(torch.equal(value, model["model"][key]) for key, value in last["model"].items())
    (out / "model.pt").write_bytes(whole)
    assert train(synth_store, out, *SYNTH, "--epochs", "2", "--eval-freq", "0", "--resume") == 0
    assert (out / "model.pt").read_bytes() == whole, "results are named by its hash"


def test_a_resume_elsewhere_needs_the_best_epoch_so_far(
    synth_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [*SYNTH, "--select", "test", "--epochs"]
    assert train(synth_store, tmp_path / "a", *flags, "1") == 0
    begun = ["--resume", str(tmp_path / "a" / "last.pt")]
    assert train(synth_store, tmp_path / "b", *flags, "2", *begun) == 2
    assert "the best epoch so far, 1, is missing; copy model.pt from" in capsys.readouterr().err
    shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
    assert train(synth_store, tmp_path / "b", *flags, "2", *begun) == 0
    assert (tmp_path / "b" / "model.pt").is_file()


def test_no_threads_train_as_one_or_many_do(synth_store: Path, tmp_path: Path) -> None:
    for threads in ("0", "2"):
        assert train(synth_store, tmp_path / threads, *SYNTH, "--epochs", "1", "-j", threads) == 0
    first, second = (read_file(tmp_path / threads / "model.pt")["model"] for threads in ("0", "2"))
    assert len(first) > 20
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.soak
def test_two_processes_train_and_test_each_clip_once(ucf_store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    where = ["--store", str(ucf_store), "--output-dir", str(tmp_path / "run")]
    flags = [*SMALL[:-1], "1", "-b", "2", "--epochs", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "training.train", *where, *flags], check=True, env=environment, capture_output=True)
    last = read_file(tmp_path / "run" / "last.pt")
    assert last["args"]["processes"] == len(last["random_states"]) == 2
    assert run_test(ucf_store, tmp_path / "one", tmp_path / "run" / "model.pt") == 0
    (one,) = results_in(tmp_path / "one")
    assert one["clips"] == 10
    assert last["history"][0]["test_loss"] == pytest.approx(one["loss"], abs=1e-5)
    assert last["history"][0]["test_top1"] == one["top1"]


def test_choosing_by_the_test_list_has_to_be_asked_for_and_is_told(ucf_store: Path, tmp_path: Path) -> None:
    assert train(ucf_store, tmp_path / "run", *ONCE, "--select", "test") == 0
    assert run_test(ucf_store, tmp_path / "results", tmp_path / "run" / "model.pt", "--split", "2") == 0
    (result,) = results_in(tmp_path / "results")
    assert result["trained"]["select"] == "test"


def with_validation(store: Path) -> Path:
    """The store with half of the train clips of split 2 as its validation list, and no clip left to test on."""
    table: Any = zarr.open_group(store, mode="r+")["split"]
    lists = table[:]
    train_rows = np.flatnonzero(lists[:, 1] == 1)
    lists[lists[:, 1] == 2, 1] = 0
    lists[train_rows[::2], 1] = 3
    table[:] = lists
    return store


def test_the_epoch_is_chosen_by_the_validation_list_without_a_look_at_the_test_list(
    own_ucf_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, out = with_validation(own_ucf_store), tmp_path / "run"
    flags = [*SMALL, "-b", "2", "--select", "val", "--epochs"]
    assert train(store, out, *flags, "2") == 0
    history = read_file(out / "last.pt")["history"]
    assert [row.keys() & {"val_loss", "val_top1", "val_top5", "test_top1"} for row in history] == [
        {"val_loss", "val_top1", "val_top5"}
    ] * 2
    best = max(history, key=lambda row: row["val_top1"])["epoch"]
    model = read_file(out / "model.pt")
    assert (model["epoch"], model["args"]["select"]) == (best, "val")
    assert train(store, out, *flags, "3", "--resume") == 0
    assert len(read_file(out / "last.pt")["history"]) == 3
    assert train(store, out, *SMALL, "-b", "2", "--epochs", "3", "--resume") == 2
    assert "no clip in the test list of split 2" in capsys.readouterr().err


def test_weights_of_the_reference_are_tested_under_their_name(ucf_store: Path, tmp_path: Path) -> None:
    model = build("mobilenet_v3_large", 101, 32, pretrained=False).model
    torch.save(
        {f"base_model.{key}": value for key, value in model.state_dict().items()}, tmp_path / "MNv3L_best.pth.tar"
    )
    flags = ["--arch", "mobilenet_v3_large", "--input-size", "32", "--test-segments", "2"]
    weights = ["--store", str(ucf_store), "--model-path", str(tmp_path / "MNv3L_best.pth.tar"), "--cpu"]
    assert testing.main([*weights, "--output-dir", str(tmp_path / "out"), *flags]) == 0
    (result,) = results_in(tmp_path / "out")
    assert (result["clips"], result["trained"]["view"]) == (10, None)


REFUSED_TRAININGS: list[tuple[list[str], str]] = [
    (["--split", "4"], "--split: invalid choice: 4"),
    (["--epochs", "0"], "--epochs: '0' is not a whole number from 1 on"),
    (["--crop-ratio", "1.5"], "--crop-ratio: '1.5' is not a number from 0 to 1"),
    (["--arch", "resnet5000"], "--arch resnet5000: unknown"),
    (["--view", "speed"], "view 'speed' is not in .*; there are: full, centre, random, mocrop"),
    (["--train-mode", "mocrop", "--view", "full"], "--train-mode mocrop is the view 'mocrop', but --view is 'full'"),
    (["--train-mode", "mocrop", "--crop-ratio", "0.5"], "--crop-ratio 0.5: view 'mocrop' of this store has 0.75"),
    (["--train-mode", "mocrop", "--mv-h", "9"], "--mv-h 9: view 'mocrop' of this store has 6"),
    (["--train-mode", "mocrop", "--mv-w", "16"], "--mv-w 16: view 'mocrop' of this store has 8"),
    (["--train-mode", "normal", "--mv-h", "6"], "--mv-h 6: view 'full' of this store has no density map"),
    (["--amp"], "--amp: bf16 needs a GPU, and none was found"),
    (["-b", "5"], "--batch-size 5: mixup pairs clips; give an even number, or --mixup 0"),
    (["-b", "64"], "--batch-size 64: 1 x 64 clips per step, the train list has 14; give at most 14"),
    (["--select", "test", "--eval-freq", "0"], "--select test: needs the test list"),
    (["--select", "val", "--eval-freq", "0"], "--select val: needs the val list; give --eval-freq 1 or more"),
    (["--select", "val"], "no clip in the val list of split 2; give mocrop preprocess a clip table with --clips"),
    (["--init-weights", "nothing.pt"], "--init-weights 'nothing.pt': no such file"),
    (["--frames", "3"], "unrecognized arguments: --frames 3"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED_TRAININGS)
def test_a_wrong_call_is_refused_in_one_line(
    ucf_store: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = train(ucf_store, tmp_path / "run", *ONCE, *flags)
    except SystemExit as exit:
        status = int(exit.code or 0)
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_flags_that_agree_with_the_view_are_taken(ucf_store: Path, tmp_path: Path) -> None:
    agree = ["--train-mode", "mocrop", "--crop-ratio", "0.75", "--mv-h", "6", "--mv-w", "8"]
    assert train(ucf_store, tmp_path / "run", *ONCE, *agree, "--eval-freq", "0") == 0
    assert train(ucf_store, tmp_path / "other", *ONCE, "--crop-ratio", "0", "--eval-freq", "0") == 0


def test_wrong_weights_are_refused_in_one_line(
    ucf_store: Path, synth_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained / "model.pt"
    plain = tmp_path / "plain.pt"
    torch.save(read_file(model)["model"], plain)
    for store, weights, flags, message in (
        (ucf_store, model, ["--test-mode", "mocrop", "--crop-ratio", "0.5"], "view 'mocrop' of this store has 0.75"),
        (ucf_store, model, ["--view", "full", "mocrop", "--mv-h", "9"], "--mv-h 9: view 'full' of this store has no"),
        (ucf_store, model, ["--test-mode", "mocrop", "--mv-h", "9"], "--mv-h 9: view 'mocrop' of this store has 6"),
        (ucf_store, model, ["--test-mode", "mocrop", "--mv-w", "3"], "--mv-w 3: view 'mocrop' of this store has 8"),
        (ucf_store, model, ["--split", "1"], "--split 1: these weights were trained on split 2"),
        (synth_store, model, ["--split", "2"], "trained on 101 classes (ApplyEyeMakeup first), the store has 3"),
        (synth_store, plain, ["--arch", "test_resnet"], "it was made for 101 classes, the store has 3"),
        (ucf_store, plain, [], "--arch: the checkpoint does not name its backbone"),
        (ucf_store, plain, ["--arch", "test_vit"], "it is of another architecture"),
        (ucf_store, tmp_path, [], "no such file"),
    ):
        assert run_test(store, tmp_path / "out", weights, *flags) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_frame_ends_the_training_with_its_clip(
    own_ucf_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (own_ucf_store / "views" / "full" / "frames").glob("c.*"):
        content = bytearray(file.read_bytes())
        content[50] ^= 255
        rewrite(file, content)
    assert train(own_ucf_store, tmp_path / "run", *ONCE, "--num-segments", "25") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: clip '")
    assert "frame 0: its checksum does not match its bytes; mocrop verify" in error
    assert not (tmp_path / "run" / "last.pt").exists()


def test_an_output_folder_that_cannot_be_is_refused_before_any_work(
    ucf_store: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert train(ucf_store, tmp_path / "file" / "run", *ONCE) == 2
    assert run_test(ucf_store, tmp_path / "file", trained / "model.pt", "--split", "2") == 2
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    assert train(ucf_store, tmp_path / "run", *ONCE) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        f"error: --output-dir '{tmp_path}/file/run': '{tmp_path}/file' is not a folder; give another folder",
        f"error: --output-dir '{tmp_path}/file': '{tmp_path}/file' is not a folder; give another folder",
        f"error: --output-dir '{tmp_path}/run': '{tmp_path}' is not writable; give another folder",
    ]


@pytest.mark.parametrize("call", ["open", "os.preadv"])
def test_a_file_that_cannot_be_read_ends_the_training_in_one_line(
    call: str, ucf_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(f"training.shard_sources.{call}", broken, raising=False)
    assert train(ucf_store, tmp_path / "run", *ONCE) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: '.*/views/full/frames/c\.\d\.0\.0\.0\.0' cannot be read: Input/output error\n", error)


def test_other_trouble_with_files_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/last.pt")

    assert exit_status(full) == 1
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'runs/last.pt'\n"


def test_a_gpu_without_bf16_is_refused_for_mixed_precision(
    ucf_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GeForce GTX 1080")
    flags = [flag for flag in ONCE if flag != "--cpu"]
    assert train(ucf_store, tmp_path / "run", *flags, "--amp") == 2
    assert capsys.readouterr().err == "error: --amp: GeForce GTX 1080 does not support bf16; omit --amp\n"


@pytest.mark.soak
def test_the_benchmark_of_trainings_gives_each_a_process_of_its_own(
    ucf_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process keeps its first precision: here it is another than the one that the benchmark's trainings ask for."""
    monkeypatch.setattr(loader_training, "built_store", lambda _: ucf_store)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        Accelerator(mixed_precision="bf16", cpu=True)
        loader_training.main(["--quick", "--json", str(tmp_path / "found.json")])
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    rows = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [(row["input_size"], row["precision"]) for row in rows] == [(32, "fp32"), (48, "fp32")]
    assert all(row["clips_per_s"] > 0 for row in rows)


def test_help_shows_every_flag_of_the_contract_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["--arch", "--crop-ratio", "--mv-h", "--mv-w", "--batch-size", "--workers", "--store", "--view", "--split"]
    shared += ["--input-size", "--amp", "--output-dir"]
    own = {
        training.main: "--train-mode --num-segments --val-segments --epochs --optimizer --lr --lr-steps --lr-decay "
        "--weight-decay --print-freq --eval-freq --resume --seed",
        testing.main: "--test-mode --weights --model-path --test-segments",
    }
    for main, flags in own.items():
        with pytest.raises(SystemExit) as exit:
            main(["--help"])
        assert exit.value.code == 0
        text = capsys.readouterr().out
        assert [flag for flag in [*shared, *flags.split()] if flag not in text] == []
        assert "examples:" in text
        assert text.count("(default: ") > 5
