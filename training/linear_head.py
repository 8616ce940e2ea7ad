"""A linear head on frozen features: logistic regression, with its regularisation selected on training clips."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from data_specs.extras import missing_extra
from training.options import Failed, Refused

STRENGTHS = tuple(10.0**power for power in range(-5, 1))
"""The candidate values of C (the inverse regularisation strength)."""
INNER_FOLDS = 3  # of the training clips, to select C
MOST_STEPS = 5000  # of the solver
MOST_FOR_NEWTON = 500  # number of weights up to which, for two classes, Newton's method is faster than L-BFGS
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Sides = tuple[Ints, Ints]
"""The positions of the training clips and of the test clips."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The predicted classes of the tested clips, int64 (tested,), and the C selected on the training clips.

    ``chances`` float64 (tested, classes): the probability of each class, 0 for one without training clips.
    """

    predicted: Ints
    strength: float
    chances: Floats


def check_installed() -> None:
    """`Refused`, with the command that installs it, if scikit-learn is missing."""
    if find_spec("sklearn") is None:
        raise Refused(f"{missing_extra(ModuleNotFoundError(name='sklearn'))}")


def check_classes(labels: Ints, class_names: tuple[str, ...]) -> None:
    """`Refused` if all clips have the same class."""
    found = np.unique(labels)
    if len(found) < 2:
        raise Refused(
            f"--store: all {len(labels)} clips have the same class ({class_names[found[0]]!r}); a probe needs two"
        )


def folds_of(labels: Ints, groups: Ints, folds: int, seed: int) -> list[Sides]:
    """The sides of each fold: disjoint by group, classes balanced as far as groups allow, shuffled by the seed.

    With as many folds as groups, each fold tests one group. `Refused` if there are fewer groups than folds.
    """
    from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, StratifiedGroupKFold

    count = len(np.unique(groups))
    if count < folds:
        if count < 2:
            raise Refused(f"--folds {folds}: all clips form one group; folds need two, by other --groups or --group-by")
        raise Refused(f"--folds {folds}: the clips form {count} groups; give at most {count}")
    if folds == count:
        return list(LeaveOneGroupOut().split(labels, labels, groups))
    few = np.bincount(labels).max() < folds  # too few clips in every class: scikit-learn cannot balance them
    splitter = (GroupKFold if few else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # for classes with fewer clips than folds
        return [sides for sides in splitter.split(labels, labels, groups) if len(sides[1])]


def predict(features: Floats, labels: Ints, groups: Ints, sides: Sides, seed: int) -> Prediction:
    """Train a head on one side and predict the other.

    ``features`` (n, d), ``labels`` and ``groups`` (n,) are those of all clips. Features are standardised with the
    statistics of the training clips. C is the value of `STRENGTHS` with the lowest log-loss in folds of the training
    clips that are disjoint by group; the smallest of equal ones. `Failed` if the training clips have a single class or
    group.
    """
    train, test = sides
    known, asked = _rotated(*_standardised(features[train], features[test]))
    inner = _inner_folds(labels[train], groups[train], seed)
    losses = np.zeros(len(STRENGTHS))
    for fit, held in inner:
        losses += _losses(known[fit], labels[train][fit], known[held], labels[train][held])
    strength = STRENGTHS[int(losses.argmin())]
    model = _model(strength, known, labels[train]).fit(known, labels[train])
    chances = np.zeros((len(test), int(labels.max()) + 1))
    chances[:, model.classes_] = model.predict_proba(asked)
    return Prediction(np.asarray(model.predict(asked), np.int64), strength, chances)


def _model(strength: float, known: Floats, labels: Ints) -> Any:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) == 2 and known.shape[1] <= MOST_FOR_NEWTON:
        return LogisticRegression(C=strength, solver="newton-cholesky", max_iter=MOST_STEPS)
    return LogisticRegression(C=strength, max_iter=MOST_STEPS, warm_start=True)


def _standardised(known: Floats, asked: Floats) -> tuple[Floats, Floats]:
    centre, spread = known.mean(axis=0), known.std(axis=0)
    spread[spread < 1e-12] = 1.0  # for a constant feature
    return (known - centre) / spread, (asked - centre) / spread


def _rotated(known: Floats, asked: Floats) -> tuple[Floats, Floats]:
    """Both sides in coordinates of the span of the training clips, which contains the regularised head.

    This changes no prediction, and speeds up the fit if there are more features than clips.
    """
    if known.shape[1] <= known.shape[0]:
        return known, asked
    axes, triangle = np.linalg.qr(known.T)
    return triangle.T, asked @ axes


def _inner_folds(labels: Ints, groups: Ints, seed: int) -> list[Sides]:
    count = len(np.unique(groups))
    if len(np.unique(labels)) < 2 or count < 2:
        what = "class" if count > 1 else "group"
        raise Failed(f"the training clips of a fold have a single {what}; give more --folds, or other groups")
    folds = folds_of(labels, groups, min(INNER_FOLDS, count), seed)
    if usable := [sides for sides in folds if len(np.unique(labels[sides[0]])) > 1]:
        return usable
    raise Failed("no part of the training clips of a fold has two classes in several groups; C cannot be chosen")


def _losses(known: Floats, labels: Ints, held: Floats, truth: Ints) -> Floats:
    """The log-loss of the held-out clips for each C, without clips of a class that is missing in training."""
    losses = []
    model = _model(STRENGTHS[0], known, labels)
    for strength in STRENGTHS:
        model.set_params(C=strength).fit(known, labels)  # L-BFGS starts from the solution for the previous C
        columns = np.searchsorted(model.classes_, truth).clip(max=len(model.classes_) - 1)
        common = model.classes_[columns] == truth
        chances = model.predict_log_proba(held)[np.arange(len(truth)), columns]
        losses.append(-float(chances[common].clip(min=-50).sum()))
    return np.array(losses)
