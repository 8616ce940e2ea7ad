"""Compare tested runs on the same clips, with 95 % intervals: ``python -m training.compare DIR``.

The clips of all splits below DIR are pooled, so that the tests of folds count as one, and seeds are averaged. Views and
streams are then compared as in `training.probe`: with ``full``, with the centre view of the same area and with RGB, in
a paired bootstrap over groups and with McNemar's exact test. The intervals show how the accuracy would vary with other
test clips; the deviation, how it varies with the seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training import tables
from training.evaluation import EvalResult
from training.fuse import scores_beside
from training.linear_head import Ints
from training.options import OneLineParser, Refused, exit_status, expanded_path, whole
from training.probe_protocol import Protocol, groups_of
from training.probe_table import FUSED, MOTION, RGB, Key, as_table, rows_of
from training.results import read_results, variant_of

EXAMPLES = """examples:
  UCF-101                  python -m training.compare results
  groups of a clip table   python -m training.compare results --groups clips.csv
  one person out           python -m training.compare results --group-by '/([a-z]+)_'
"""
ALIKE = ("dataset", "segments", "amp")
"""Fields in which all results must agree."""
STREAMS = (RGB, MOTION, FUSED)
DATA = {"train_clips", "view_fingerprint"}
"""Training arguments in which the results of folds may differ."""


@dataclass(slots=True)
class Pool:
    """The results of one view, size and stream: by seed the class predicted for each clip, by id.

    ``first`` is one of them, and ``settings`` what all must share.
    """

    first: Path
    settings: tuple[object, ...]
    predicted: dict[int, dict[str, int]] = field(default_factory=dict)


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    p = OneLineParser(prog="python -m training.compare", description=__doc__.splitlines()[0], epilog=EXAMPLES)
    p.add_argument("folder", type=expanded_path, metavar="DIR", help="folder with the results of training.test")
    p.add_argument("--groups", type=expanded_path, metavar="FILE", help="CSV with the columns path and group")
    p.add_argument(
        "--group-by",
        metavar="REGEX",
        help="regular expression; the match of its parentheses in a clip's id is the clip's group; default: UCF-101's "
        "groups",
    )
    p.add_argument("--seed", type=whole(0), default=0, help="random seed of the bootstrap")
    p.add_argument("--format", choices=tuple(tables.FORMATS), default="text", help="format of the table")
    return p


def compare(args: argparse.Namespace) -> None:
    """Print the table of the results below a folder."""
    results = read_results(Path(args.folder))
    check_alike(results)
    pools, labels = pooled({path: (result, scores_beside(path, result)) for path, result in results.items()})
    ids = sorted(labels)
    groups = groups_of(ids, (), args.group_by, args.groups)
    if groups is None:
        raise Refused(
            "--groups: the groups of these clips are unknown; give --groups FILE or --group-by REGEX ('.+' makes each "
            "clip a group of its own)"
        )
    everything = np.arange(len(ids))
    protocol = Protocol([[(everything[:0], everything)]], *groups, 0)
    params = {result["view"]: result["view_params"] for result in results.values()}
    predicted = {key: predictions(key, pool, ids) for key, pool in pools.items()}
    rows = rows_of(predicted, np.array([labels[id] for id in ids]), protocol, params, args.seed)
    print(tables.FORMATS[args.format](as_table(rows)))
    if args.format in ("text", "markdown"):
        seeds = sorted({len(pool.predicted) for pool in pools.values()})
        number = f"{len(ids)} clips in {protocol.fields['groups_tested']} groups ({protocol.grouped_by})"
        print(f"\n{number}; {' or '.join(map(str, seeds))} seed{'s' if seeds[-1] > 1 else ''} per row")


def check_alike(results: Mapping[Path, Mapping[str, Any]]) -> None:
    """Raise `Refused` unless all results are of one data set, tested in the same way."""
    (first, one), *others = results.items()
    for path, result in others:
        for name in ALIKE:
            if result[name] != one[name]:
                raise Refused(
                    f"RESULT {str(path)!r}: its {name} is {result[name]!r}, that of {str(first)!r} is {one[name]!r}; "
                    "give a folder with results of one kind"
                )


def key_of(result: Mapping[str, Any]) -> Key:
    """The view, with that of the training if it is another, the size and the stream of a result."""
    trained = result["trained"].get("view")
    view = result["view"] if trained in (None, result["view"]) else f"{result['view']}, trained on {trained}"
    stream = result.get("stream", RGB)
    kind = RGB if stream == RGB else FUSED if stream.startswith(FUSED) else MOTION
    return view, result["input_size"], kind


def pooled(found: Mapping[Path, tuple[dict[str, Any], EvalResult]]) -> tuple[dict[Key, Pool], dict[str, int]]:
    """The results by view, size and stream, and the label of each clip; `Refused` for some that cannot be pooled."""
    pools: dict[Key, Pool] = {}
    labels: dict[str, int] = {}
    names = next(iter(found.values()))[1].class_names
    for path, (result, scores) in found.items():
        where, settings = f"RESULT {str(path)!r}", settings_of(result)
        pool = pools.setdefault(key_of(result), Pool(path, settings))
        if pool.settings != settings:
            raise Refused(f"{where}: trained otherwise than {str(pool.first)!r}; training.results shows how")
        predicted = pool.predicted.setdefault(result["trained"].get("seed") or 0, {})
        for id, label, answer in zip(scores.ids, scores.labels.tolist(), scores.predicted.tolist(), strict=True):
            if id in predicted:
                raise Refused(
                    f"{where}: another result of the same view, size, stream and seed tests {id!r}, too; give a folder "
                    "with one of them"
                )
            if scores.class_names != names or labels.setdefault(id, label) != label:
                raise Refused(f"{where}: its classes or labels are not those of the other results")
            predicted[id] = answer
    return dict(
        sorted(pools.items(), key=lambda item: (item[0][1] or 0, STREAMS.index(item[0][2]), item[0][0] != "full"))
    ), labels


def settings_of(result: Mapping[str, Any]) -> tuple[object, ...]:
    """What the results of one view, size and stream must share, besides their data."""
    variant = variant_of(result)
    settings = tuple(pair for pair in variant.settings if pair[0] not in DATA)
    return variant.arch, variant.stream, variant.trained_size, variant.epoch, settings


def predictions(key: Key, pool: Pool, ids: Sequence[str]) -> Ints:
    """The predicted classes of all clips, int64 (seeds, clips); `Refused` if a seed does not test all of them."""
    view, size, stream = key
    for seed, predicted in pool.predicted.items():
        if missing := [id for id in ids if id not in predicted]:
            raise Refused(
                f"DIR: {stream}, view {view} at {size} px, seed {seed} was tested on {len(predicted)} of {len(ids)} "
                f"clips, not on {missing[0]!r}; test every view, stream and seed on the same splits"
            )
    return np.array([[predicted[id] for id in ids] for predicted in pool.predicted.values()], np.int64)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return exit_status(lambda: compare(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
