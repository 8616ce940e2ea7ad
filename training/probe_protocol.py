"""On which clips the heads of a probe are trained, and on which they are tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.clips import Clips
from training.groups import groups_by_pattern, groups_of_file, groups_of_ucf
from training.linear_head import Ints, Sides, folds_of
from training.options import Refused

SHUFFLES = 5  # of folds, if not asked for more


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """In each shuffle, the sides of each fold, as positions among n clips; each clip is tested at most once a shuffle.

    ``groups`` int64 (n,): the group of each clip, by number; ``grouped_by`` says what made them; ``split`` is 0 for
    folds.
    """

    shuffles: Sequence[Sequence[Sides]]
    groups: Ints
    grouped_by: str
    split: int

    @property
    def tested(self) -> Ints:
        """The positions of the clips that are tested, in order."""
        return np.unique(np.concatenate([test for _, test in self.shuffles[0]]))

    @property
    def fields(self) -> dict[str, Any]:
        """What a result says of it, as JSON values."""
        folds = len(self.shuffles[0])
        tested = self.tested
        return {
            "split": self.split or None,
            "folds": None if self.split else folds,
            "shuffles": len(self.shuffles),
            "clips_tested": len(tested),
            "groups_tested": len(np.unique(self.groups[tested])),
            "grouped_by": self.grouped_by,
        }

    def __str__(self) -> str:
        fields = self.fields
        times = f" shuffled {fields['shuffles']} times" if fields["shuffles"] > 1 else ""
        kind = f"split {self.split}" if self.split else f"{fields['folds']} folds{times}"
        return f"{kind}, {fields['clips_tested']} clips in {fields['groups_tested']} groups ({self.grouped_by})"


def protocol_of_split(
    clips: Clips, split: int, train: Ints, test: Ints, pattern: str | None, file: str | None
) -> Protocol:
    """Train on the train list of a split and test on its test list; ``train`` and ``test`` are rows of the store.

    Groups are asked for as in `protocol_of_folds`; without any, each clip is a group of its own.
    """
    groups, grouped_by = _groups(clips, pattern, file) or (np.arange(len(clips)), "each clip is one")
    sides = np.searchsorted(clips.rows, train), np.searchsorted(clips.rows, test)
    return Protocol([[sides]], groups, grouped_by, split)


def protocol_of_folds(
    clips: Clips, folds: int, shuffles: int | None, pattern: str | None, file: str | None, seed: int
) -> Protocol:
    """Folds of all clips, disjoint by group, in several shuffles; one where each group is a fold.

    Groups are what ``pattern`` finds in ids, or what the CSV ``file`` says, or those that names of UCF-101 have.
    `Refused` where nothing says what the groups are, or there are fewer groups than folds.
    """
    found = _groups(clips, pattern, file)
    if found is None:
        raise Refused(
            f"--folds {folds}: which clips belong together? give --groups FILE or --group-by REGEX "
            "('.+' makes each clip a group of its own)"
        )
    groups, grouped_by = found
    one_out = folds == len(np.unique(groups))
    if one_out and shuffles not in (None, 1):
        raise Refused(f"--repeats {shuffles}: each of the {folds} groups is a fold, in every shuffle; leave it out")
    count = 1 if one_out else shuffles or SHUFFLES
    return Protocol([folds_of(clips.labels, groups, folds, seed + k) for k in range(count)], groups, grouped_by, 0)


def _groups(clips: Clips, pattern: str | None, file: str | None) -> tuple[Ints, str] | None:
    """The group of each clip, by number, and what made them; None where nothing says it."""
    if pattern is not None and file is not None:
        raise Refused(f"--group-by {pattern!r}: give it or --groups, not both")
    names: list[str] | None
    if pattern is not None:
        names, grouped_by = groups_by_pattern(clips.ids, pattern), f"--group-by {pattern}"
    elif file is not None:
        names, grouped_by = groups_of_file(clips.ids, file), "--groups"
    else:
        names, grouped_by = groups_of_ucf(clips.ids), "names of UCF-101"
    if names is None:
        return None
    return np.unique(names, return_inverse=True)[1].astype(np.int64), grouped_by
