"""The table of results, fed with the published figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training import results, tables
from training.results import read_results, table

FIGURES = {  # arXiv 2509.18473, table 1: baseline, MoCrop at 192 px, the same weights at 224 px; GFLOPs at 224, 192
    "resnet50": (80.1, 82.5, 83.6, 4.11, 3.02),
    "mobilenet_v3_large": (78.3, 79.3, 80.2, 0.22, 0.17),
    "efficientnet_b1": (82.1, 83.6, 84.5, 0.59, 0.43),
    "swin_b": (87.3, 87.2, 87.5, 15.47, 12.64),
}


def result(arch: str, trained: tuple[str, int], tested: tuple[str, int], top1: float, **other: Any) -> dict[str, Any]:
    """A result as python -m training.test writes it, of the parts that the table needs."""
    gflops = FIGURES[arch][3 if tested[1] == 224 else 4]
    seed, select = other.get("seed", 0), other.get("select", "last")
    return {
        "mocrop_result": 1,
        "arch": arch,
        "dataset": "UCF-101",
        "split": other.get("split", 1),
        "clips": 3783,
        "segments": 8,
        "view": tested[0],
        "input_size": tested[1],
        "top1": top1,
        "gflops": gflops,
        "amp": other.get("amp", False),
        "view_fingerprint": other.get("boxes", f"{tested[0]:*<32}"),
        "trained": {
            "view": trained[0],
            "input_size": trained[1],
            "seed": seed,
            "select": select,
            "settings": {"lr": 0.001, "epochs": 100, "view_fingerprint": f"{trained[0]:*<32}"}
            | other.get("settings", {}),
        },
        "checkpoint": {"sha256": f"{arch}-{trained}-{seed}-{select}-{other.get('settings')}-{other.get('run')}"},
    }


def published() -> list[dict[str, Any]]:
    """The published table as results."""
    found = []
    for arch, (baseline, small, large, _, _) in FIGURES.items():
        found.append(result(arch, ("mocrop", 192), ("mocrop", 224), large))
        found.append(result(arch, ("full", 224), ("full", 224), baseline))
        found.append(result(arch, ("mocrop", 192), ("mocrop", 192), small))
    return found


def test_the_published_figures_give_the_published_table() -> None:
    lines = [row.cells()[:6] for row in table(published())]
    assert lines[:3] == [
        ["ResNet-50", "Baseline (224px)", "80.1", "4.11", "-", "-"],
        ["ResNet-50", "+ MoCrop (Efficiency, 192px)", "82.5", "3.02", "+2.4", "-26.5"],
        ["ResNet-50", "+ MoCrop (Attention, 224px), trained at 192px", "83.6", "4.11", "+3.5", "+0.0"],
    ]
    changes = [line[4:] for line in lines if line[1].startswith("+ MoCrop (Eff")]
    assert changes == [["+2.4", "-26.5"], ["+1.0", "-22.7"], ["+1.5", "-27.1"], ["-0.1", "-18.3"]]
    assert [line[0] for line in lines[::3]] == ["ResNet-50", "MobileNet-V3", "EfficientNet-B1", "Swin-B"]


def test_seeds_give_mean_and_standard_deviation() -> None:
    seeds = [
        result("resnet50", ("full", 224), ("full", 224), top1, seed=k) for k, top1 in enumerate((80.0, 81.0, 82.0))
    ]
    (row,) = table(seeds)
    assert (row.top1, row.deviation, row.seeds) == (81.0, 1.0, 3)
    assert "81.0 ± 1.0" in row.cells()


def test_a_seed_that_was_trained_twice_counts_once() -> None:
    full = ("full", 224)
    (row,) = table(
        [
            result("resnet50", full, full, 80.0, seed=0),
            result("resnet50", full, full, 82.0, seed=0, run="again"),
            result("resnet50", full, full, 83.0, seed=1),
        ]
    )
    assert (row.top1, row.seeds) == (82.0, 2)
    assert row.deviation == pytest.approx(2**0.5)
    foreign = [result("resnet50", full, full, top1, seed=None, run=top1) for top1 in (70.0, 72.0)]
    assert [row.seeds for row in table(foreign)] == [2]


FULL = ("full", 224)


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ({"settings": {"lr": 0.01}}, "lr 0.01"),
        ({"settings": {"epochs": 30}}, "epochs 30"),
        ({"settings": {"view_fingerprint": "0123456789" * 3}}, "trained on boxes of full 01234567"),
        ({"boxes": "abcdefghij" * 3}, "boxes of full abcdefgh"),
        ({"amp": True}, "tested in bf16"),
    ],
)
def test_other_settings_are_another_row_that_says_so(other: dict[str, Any], shown: str) -> None:
    rows = table([result("resnet50", FULL, FULL, 80.0), result("resnet50", FULL, FULL, 60.0, seed=1, **other)])
    assert {(row.top1, row.seeds) for row in rows} == {(80.0, 1), (60.0, 1)}
    (changed,) = [row.title for row in rows if row.top1 == 60]
    assert changed == f"Baseline (224px), {shown}"
    assert len({row.title for row in rows}) == 2


def test_differences_are_from_the_baseline_of_the_same_settings_in_any_order() -> None:
    slow = {"lr": 0.01}
    found = [
        result("resnet50", FULL, FULL, 80.0),
        result("resnet50", FULL, FULL, 70.0, settings=slow),
        result("resnet50", FULL, FULL, 60.0, settings=slow, boxes="other" * 7),
        result("resnet50", ("mocrop", 224), ("mocrop", 224), 82.0),
        result("resnet50", ("mocrop", 224), ("mocrop", 224), 79.0, settings=slow),
        result("resnet50", ("mocrop", 224), ("mocrop", 224), 78.0, settings={"lr": 0.1}),
    ]
    rows = table(found)
    assert rows == table(found[::-1])
    mocrop = {row.top1: row.accuracy_change for row in rows if row.title.startswith("+ MoCrop")}
    assert mocrop == {82.0: 2.0, 79.0: 19.0, 78.0: None}


def test_controls_are_named_for_what_they_are_and_come_last() -> None:
    controls = [
        result("resnet50", ("mocrop", 192), ("full", 224), 81.0),
        result("resnet50", ("full", 192), ("full", 224), 81.5),
        result("resnet50", ("full", 224), ("centre", 224), 79.0),
    ]
    rows = [row.cells() for row in table([*controls, *published()])][:6]
    assert [row[1] for row in rows[3:]] == [
        "control: full (224px), trained on full at 192px",
        "control: centre (224px), trained on full at 224px",
        "control: full (224px), trained on mocrop at 192px",
    ]
    assert rows[3][4:6] == ["+1.4", "+0.0"]


def test_every_row_names_how_its_epoch_was_chosen_and_never_mixes_two_ways() -> None:
    mixed = [
        result("resnet50", ("full", 224), ("full", 224), 80.0),
        result("resnet50", ("full", 224), ("full", 224), 85.0, select="test"),
        result("resnet50", ("full", 224), ("full", 224), 70.0, select=None),
    ]
    rows = table(mixed)
    assert {(row.variant.epoch, row.top1, row.seeds) for row in rows} == {
        ("last", 80.0, 1),
        ("best on test list", 85.0, 1),
        ("unknown", 70.0, 1),
    }
    for form in tables.FORMATS.values():
        assert "best on test list" in form(results.as_table(rows))


def test_splits_do_not_mix_and_without_a_baseline_there_are_no_differences() -> None:
    rows = table([*published(), result("resnet50", ("mocrop", 192), ("mocrop", 192), 99.0, split=2)])
    (other,) = [row for row in rows if row.variant.split == 2]
    assert other.cells()[4:6] == ["-", "-"]
    assert other.accuracy_change is None


def test_results_are_found_in_folders_and_a_checkpoint_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("a", "b/c"):
        (tmp_path / place).mkdir(parents=True)
        for number, content in enumerate([*published(), {"something": "else"}, [1]]):
            (tmp_path / place / f"{number}.json").write_text(json.dumps(content))
    assert len(read_results(tmp_path)) == 12
    for form, mark in (
        ("text", "Baseline"),
        ("markdown", "| ResNet-50 | Baseline (224px) |"),
        ("csv", "ResNet-50,Base"),
        ("json", '"arch": "resnet50"'),
    ):
        assert results.main([str(tmp_path), "--format", form]) == 0
        assert mark in capsys.readouterr().out


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main([str(tmp_path)]) == 2
    assert results.main([str(tmp_path / "none")]) == 2
    whole = published()[0]
    torn = [{key: whole[key] for key in whole if key != gone} for gone in whole if gone != "mocrop_result"]
    for content in ("{", *map(json.dumps, torn)):
        (tmp_path / "torn.json").write_text(content)
        assert results.main([str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) > 10
    assert all(error.startswith("error: ") for error in errors)
    assert "torn.json' is not a complete result (KeyError: 'arch'); run training.test again" in errors[3]
    assert "training.test --output-dir" in errors[0]
