"""The width of the centre prior of the method `actor`, by leave-one-group-out over the stores of `make boxes`.

    python -m tests.benchmarks.box_prior build/boxes

For each group of clips, the width that keeps most of the actors of all other groups (the sum over sets and areas) is
applied to the clips left out. Printed: how often each width was chosen, and the mean share kept, held out and for the
first width.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_specs.stored import open_store
from mocrop_core import ACTOR
from pipelines.evaluation.groups import groups_of
from tests.benchmarks.box_coverage import AREAS, SETS
from tests.benchmarks.box_steps import annotated
from tests.places import DATA

FIRST = (0.5, 0.25)
WIDTHS = (FIRST, (0.5, 0.35), (0.5, 0.4), (0.5, 0.5), (0.7, 0.35), (1.0, 0.5), (1.0, 1.0), (100.0, 100.0))
"""Standard deviations of the weights around the middle, as shares of the picture's height and width."""


def main(stores: Path) -> None:
    """Print the choices and the shares."""
    kept, groups = {}, {}
    for name, clips in SETS.items():
        found = annotated(open_store(stores / f"{name}.zarr"), DATA / clips.annotations)
        groups[name] = np.array(groups_of(list(found), clips.group_by).names)
        methods = [[replace(ACTOR, crop_ratio=area / 100, centre=width) for area in AREAS] for width in WIDTHS]
        kept[name] = np.array([[[clip.kept(one) for clip in found.values()] for one in some] for some in methods])
    chosen: Counter[tuple[float, float]] = Counter()
    for name, of in groups.items():
        held_out = np.empty_like(kept[name][0])
        for group in np.unique(of):
            rest = {**{each: slice(None) for each in kept}, name: of != group}
            sums = sum(kept[each][:, :, rest[each]].mean(axis=2).sum(axis=1) for each in kept)
            best = int(np.argmax(sums))
            chosen[WIDTHS[best]] += 1
            held_out[:, of == group] = kept[name][best][:, of == group]
        for what, shares in (("held out", held_out), (f"{FIRST}", kept[name][0])):
            print(f"{name:9} {what:12} {' / '.join(f'{share:.3f}' for share in shares.mean(axis=1))}")
    print("chosen:", ", ".join(f"{width} {count} times" for width, count in chosen.most_common()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
