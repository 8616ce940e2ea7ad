"""The training and test clips of a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.clips import Clips
from training.groups import groups_by_pattern, groups_of_file, groups_of_store, groups_of_ucf
from training.linear_head import Ints, Sides, folds_of
from training.options import Refused

SHUFFLES = 5  # of folds, by default


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """The sides of each fold of each shuffle, as positions among n clips; a clip is tested at most once per shuffle.

    ``groups`` int64 (n,): the group number of each clip; ``grouped_by`` says how groups were defined; ``split`` is 0
    for folds.
    """

    shuffles: Sequence[Sequence[Sides]]
    groups: Ints
    grouped_by: str
    split: int

    @property
    def tested(self) -> Ints:
        """The positions of the tested clips, in order."""
        return np.unique(np.concatenate([test for _, test in self.shuffles[0]]))

    def unlearned(self, labels: Ints) -> int:
        """The number of clips that in some shuffle are tested without a training clip of their class; labels (n,)."""
        sides = [side for shuffle in self.shuffles for side in shuffle]
        return len(np.unique(np.concatenate([test[~np.isin(labels[test], labels[train])] for train, test in sides])))

    @property
    def fields(self) -> dict[str, Any]:
        """The fields of a result that describe it, as JSON values."""
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

    Groups are defined as in `protocol_of_folds`; without any, each clip is a group of its own. `Refused` if all clips
    of the train list have the same class, or the same group.
    """
    groups, grouped_by = groups_of(clips.ids, clips.groups, pattern, file) or (
        np.arange(len(clips)),
        "each clip is one",
    )
    sides = np.searchsorted(clips.rows, train), np.searchsorted(clips.rows, test)
    for what, values in (("class", clips.labels), ("group", groups)):
        if len(np.unique(values[sides[0]])) < 2:
            raise Refused(f"--split {split}: all clips of its train list have the same {what}; a head needs two")
    return Protocol([[sides]], groups, grouped_by, split)


def protocol_of_folds(
    clips: Clips, folds: int, shuffles: int | None, pattern: str | None, file: str | None, seed: int
) -> Protocol:
    """Folds of all clips, disjoint by group, in several shuffles; a single one if each group is a fold.

    Groups come from ``pattern`` in ids or from the CSV ``file``; by default from the store, else from names in the form
    of UCF-101. `Refused` if groups are not defined, or there are fewer groups than folds.
    """
    found = groups_of(clips.ids, clips.groups, pattern, file)
    if found is None:
        raise Refused(
            f"--folds {folds}: the groups of clips are unknown, and the store has none; give --groups FILE or "
            "--group-by REGEX ('.+' makes each clip a group of its own)"
        )
    groups, grouped_by = found
    one_out = folds == len(np.unique(groups))
    if one_out and shuffles not in (None, 1):
        raise Refused(
            f"--repeats {shuffles}: each of the {folds} groups is a fold, so that shuffles make no difference; omit it"
        )
    count = 1 if one_out else shuffles or SHUFFLES
    return Protocol([folds_of(clips.labels, groups, folds, seed + k) for k in range(count)], groups, grouped_by, 0)


def groups_of(
    ids: Sequence[str], of_store: Sequence[str], pattern: str | None, file: str | None
) -> tuple[Ints, str] | None:
    """The group number of each clip, and how groups were defined; None if they are not defined.

    ``of_store``: the group that a store has for each clip, or "".
    """
    if pattern is not None and file is not None:
        raise Refused(f"--group-by {pattern!r}: give either --group-by or --groups")
    names: list[str] | None
    if pattern is not None:
        names, grouped_by = groups_by_pattern(ids, pattern), f"--group-by {pattern}"
    elif file is not None:
        names, grouped_by = groups_of_file(ids, file), "--groups"
    elif found := groups_of_store(ids, of_store):
        names, grouped_by = found
    else:
        names, grouped_by = groups_of_ucf(ids), "names of UCF-101"
    if names is None:
        return None
    return np.unique(names, return_inverse=True)[1].astype(np.int64), grouped_by
