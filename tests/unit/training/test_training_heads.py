"""Linear heads, groups of clips, and paired comparisons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.groups import groups_by_pattern, groups_of_file, groups_of_ucf
from training.linear_head import STRENGTHS, folds_of, predict
from training.options import Failed, Refused
from training.paired import interval, mcnemar, resampled_means


def blobs(count: int, features: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and groups of two clips; the classes overlap."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) // 2 % classes
    values = rng.normal(size=(count, features))
    values[:, :classes] += 1.5 * np.eye(classes)[labels]
    return values, labels, np.arange(count) // 2


@pytest.mark.parametrize("features", [5, 400])
def test_a_head_is_scikit_learns_on_standardised_features(features: int) -> None:
    """Also with more features than clips, where it is fitted in the space that the training clips span."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, labels, groups = blobs(90, features)
    compared = 0
    for sides in folds_of(labels, groups, 3, seed=0):
        train, test = sides
        found = predict(values, labels, groups, sides, seed=0)
        theirs = make_pipeline(StandardScaler(), LogisticRegression(C=found.strength, max_iter=5000, tol=1e-8))
        expected = theirs.fit(values[train], labels[train])
        sure = np.ptp(np.sort(expected.predict_proba(values[test]), axis=1)[:, -2:], axis=1) > 1e-2
        assert (found.predicted == expected.predict(values[test]))[sure].all()
        assert sure.mean() > 0.5
        compared += 1
    assert compared == 3


def test_the_tested_clips_decide_nothing() -> None:
    """Neither their labels nor, but for their own predictions, their features."""
    values, labels, groups = blobs(60, 100)
    sides = folds_of(labels, groups, 4, seed=0)[0]
    honest = predict(values, labels, groups, sides, seed=0)
    others, wrong = values.copy(), labels.copy()
    others[sides[1][1:]] *= 1000
    wrong[sides[1]] = 0
    found = predict(others, wrong, groups, sides, seed=0)
    assert found.strength == honest.strength
    assert found.predicted[0] == honest.predicted[0]


def test_c_is_small_for_noise_and_larger_where_there_is_something_to_learn() -> None:
    values, labels, groups = blobs(120, 60)
    clear = values.copy()
    clear[:, :3] += 6 * np.eye(3)[labels]
    noise = np.random.default_rng(1).normal(size=values.shape)
    sides = folds_of(labels, groups, 3, seed=0)[0]
    learnt, idle = (predict(each, labels, groups, sides, seed=0).strength for each in (clear, noise))
    assert STRENGTHS[0] <= idle < learnt


def test_folds_keep_groups_together_and_are_as_many_as_asked_for() -> None:
    _, labels, groups = blobs(60, 3)
    for folds in (2, 5, 30):
        sides = folds_of(labels, groups, folds, seed=1)
        assert len(sides) == folds
        assert sorted(np.concatenate([test for _, test in sides])) == list(range(60))
        assert not any(set(groups[train]) & set(groups[test]) for train, test in sides)
    assert all(len(np.unique(groups[test])) == 1 for _, test in sides)  # as many folds as groups
    with pytest.raises(Refused, match="--folds 31: the clips form 30 groups; give at most 30"):
        folds_of(labels, groups, 31, seed=1)


def test_a_side_of_one_class_is_a_failure_that_says_so() -> None:
    values, labels, groups = blobs(40, 3, classes=2)
    with pytest.raises(Failed, match="have a single class"):
        predict(values, labels, groups, (np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)), seed=0)
    with pytest.raises(Failed, match="have a single group"):
        predict(values, labels, np.zeros(40, np.int64), (np.arange(20), np.arange(20, 40)), seed=0)


def test_groups_come_from_ids_or_a_file(tmp_path: Path) -> None:
    ids = ("bend/ira_bend", "run/ira_run.2", "run/daria_run")
    assert groups_by_pattern(ids, "/([a-z]+)_") == ["ira", "ira", "daria"]
    assert groups_by_pattern(ids, "^[a-z]+") == ["bend", "run", "run"]
    assert groups_by_pattern(ids, "^(.).*(.)$") == ["b/d", "r/2", "r/n"]
    table = tmp_path / "groups.csv"
    table.write_text(
        "path,label,group\nrun/daria_run.avi,run,d\nbend/ira_bend.avi,bend,i\nrun/ira_run.2.avi,run,i\nx,y,z\n"
    )
    assert groups_of_file(ids, str(table)) == ["i", "i", "d"]
    table.write_text("id,path,group\nrun/ira_run.2,elsewhere.avi,i\n,run/daria_run.avi,d\nbend/ira_bend,x.avi,i\n")
    assert groups_of_file(ids, str(table)) == ["i", "i", "d"]
    assert groups_of_ucf(ids) is None
    assert groups_of_ucf(("A/v_A_g01_c02", "A/v_A_g01_c03")) == ["A/v_A_g01"] * 2


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("path,label\na/b.mp4,1\n", "its columns are path, label; it needs path and group"),
        ("path,group\na/b.mp4,1\n", "no group of 1 clips of the store ('a/c' first)"),
        ("path,group\na/b.mp4,1\na/c.mp4,\n", "no group of 1 clips of the store ('a/c' first)"),
        ("path,group\na/b.mp4,1\na/b.avi,2\na/c.mp4,1\n", "two groups of 'a/b': '1' and '2'"),
        (b"path,group\n\xff\xfe,1\n", "not a CSV file in UTF-8"),
        ("", "its columns are none"),
    ],
)
def test_a_file_that_gives_no_groups_is_refused(content: str | bytes, what: str, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refused) as refused:
        groups_of_file(("a/b", "a/c"), str(table))
    assert what in str(refused.value)


def test_mcnemars_p_is_that_of_the_exact_binomial_test() -> None:
    from scipy.stats import binomtest

    checked = 0
    for gained in range(0, 12, 3):
        for lost in range(0, 40, 7):
            right = np.array([1.0] * gained + [0.2] * lost + [0.9, 0.0])  # shares of shuffles
            other = np.array([0.4] * gained + [0.6] * lost + [0.6, 0.5])
            expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
            assert mcnemar(right, other) == pytest.approx(expected)
            checked += 1
    assert checked == 24


def test_the_interval_of_a_paired_difference_is_that_of_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    first = (rng.random(400) < 0.7).astype(float)
    second = np.where(rng.random(400) < 0.9, first, 1 - first)
    means = resampled_means(np.stack([first, second], axis=1), np.arange(400), seed=0)
    low, high = interval(means[:, 0] - means[:, 1])
    error = 1.96 * (first - second).std() / 20
    assert low == pytest.approx((first - second).mean() - error, abs=0.006)
    assert high == pytest.approx((first - second).mean() + error, abs=0.006)


def test_clips_of_a_group_are_drawn_together() -> None:
    """A group of ten equal clips says as much as one: the interval is that of a tenth of the clips."""
    values = (np.random.default_rng(0).random(30) < 0.5).astype(float)[:, None]
    alone = resampled_means(values, np.arange(30), seed=0)
    together = resampled_means(np.repeat(values, 10, axis=0), np.repeat(np.arange(30), 10), seed=0)
    assert interval(together[:, 0]) == pytest.approx(interval(alone[:, 0]), abs=1e-12)
    assert (resampled_means(values, np.arange(30), seed=1) != alone).any()
