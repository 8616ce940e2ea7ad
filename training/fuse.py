"""Average the scores of two or more tested runs (late fusion): ``python -m training.fuse RESULT RESULT``.

The scores of a clip are the softmax of its logits; their weighted mean is the fused score. Choose weights on clips that
are not tested here, such as a validation list: weights chosen on the test list flatter the result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_specs.fingerprints import fingerprint
from training import tables
from training.clip_scores import read_scores, write_scores
from training.evaluation import EvalResult, scores_of, write_confusion
from training.options import OneLineParser, Refused, check_output, exit_status, expanded_path, share
from training.results import as_table, read_result, table
from training.test import figures_of, write_result

EXAMPLES = """examples:
  two streams, equally     python -m training.fuse results/rgb.json results/motion.json
  RGB counts twice         python -m training.fuse results/rgb.json results/motion.json --weights 2 1
"""
ALIKE = ("dataset", "split")
"""Fields in which results must agree, besides their clips, labels and classes."""


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    p = OneLineParser(prog="python -m training.fuse", description=__doc__.splitlines()[0], epilog=EXAMPLES)
    p.add_argument("results", nargs="+", type=expanded_path, metavar="RESULT", help="results of training.test (JSON)")
    p.add_argument(
        "--weights", nargs="+", type=share(0, 1e6), metavar="W", help="weight of each result; default: all the same"
    )
    p.add_argument("--output-dir", type=expanded_path, default="results", help="folder for the fused result")
    p.add_argument("--format", choices=tuple(tables.FORMATS), default="text", help="format of the table")
    return p


def fuse(args: argparse.Namespace) -> dict[str, Any]:
    """Fuse as the arguments say, print the table of the results and the fused one; write and return the latter."""
    paths = [Path(path) for path in args.results]
    if len(paths) < 2:
        raise Refused(f"RESULT {args.results[0]!r}: one result; give two or more to fuse")
    weights = args.weights or [1.0] * len(paths)
    if len(weights) != len(paths) or not sum(weights):
        raise Refused(
            f"--weights {' '.join(f'{w:g}' for w in weights)}: give one per result ({len(paths)}), and one above 0"
        )
    check_output(args.output_dir)
    results = [read_result(path) for path in paths]
    scores = [scores_beside(path, result) for path, result in zip(paths, results, strict=True)]
    check_alike(args.results, results, scores)
    fused = fused_scores(scores, weights)
    result = fused_result(results, weights, fused)
    folder = Path(args.output_dir)
    write_scores(folder / result["scores"], fused)
    write_result(folder, result)
    print(tables.FORMATS[args.format](as_table(table([*results, result]))))
    title = f"fusion of {len(paths)} results: top-1 {fused.top(1):.1f} %"
    write_confusion(folder / f"{result['name']}.confusion", fused, title)
    return result


def scores_beside(path: Path, result: dict[str, Any]) -> EvalResult:
    """Read the scores that a result names; `Refused` for one without, as of an older version."""
    name = result.get("scores")
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise Refused(f"RESULT {str(path)!r}: it names no scores of its clips; run python -m training.test again")
    return read_scores(path.with_name(name))


def check_alike(names: Sequence[str], results: Sequence[dict[str, Any]], scores: Sequence[EvalResult]) -> None:
    """Raise `Refused` unless all results are of the same clips, labels and classes."""
    first = scores[0]
    for name, result, other in zip(names[1:], results[1:], scores[1:], strict=True):
        where = f"RESULT {name!r}: "
        for field in ALIKE:
            if result[field] != results[0][field]:
                raise Refused(f"{where}its {field} is {result[field]!r}, that of {names[0]!r} is {results[0][field]!r}")
        if other.class_names != first.class_names:
            raise Refused(f"{where}it has other classes than {names[0]!r}")
        if other.ids != first.ids:
            only = sorted(set(other.ids) ^ set(first.ids)) or ["in another order"]
            raise Refused(
                f"{where}it is of other clips than {names[0]!r} ({len(other.ids)} and {len(first.ids)}; {only[0]!r} is "
                "in one alone); test both on one list"
            )
        if not np.array_equal(other.labels, first.labels):
            raise Refused(f"{where}its clips have other labels than in {names[0]!r}; test both on one list")


def fused_scores(scores: Sequence[EvalResult], weights: Sequence[float]) -> EvalResult:
    """Return the weighted mean of the softmax of each result's logits, as log-probabilities."""
    chances = [torch.from_numpy(each.logits).double().softmax(dim=1) for each in scores]
    total = sum(weight * each for weight, each in zip(weights, chances, strict=True)) / sum(weights)
    assert isinstance(total, torch.Tensor)
    logits = total.clamp(min=1e-30).log().float().numpy()
    return scores_of(logits, scores[0].labels, scores[0].class_names, scores[0].ids)


def fused_result(results: Sequence[dict[str, Any]], weights: Sequence[float], fused: EvalResult) -> dict[str, Any]:
    """Return the fused result: that of the first run, with the figures, the cost and the origin of all."""
    parts = [
        {"name": result["name"], "stream": result.get("stream", "rgb"), "top1": result["top1"], "weight": weight}
        for result, weight in zip(results, weights, strict=True)
    ]
    digest = fingerprint([result["checkpoint"]["sha256"] for result in results], list(weights), parts)
    streams = " + ".join(f"{part['weight']:g} x {part['stream']}" for part in parts)
    name = f"fused-{digest[:16]}"
    views, archs = (list(dict.fromkeys(str(result[key]) for result in results)) for key in ("view", "arch"))
    return {
        **results[0],
        "name": name,
        "stream": f"fused: {streams}",
        "scores": f"{name}.scores.safetensors",
        "fused": parts,
        "arch": " + ".join(archs),
        "view": " + ".join(views),
        **figures_of(fused),
        "gflops": sum(result["gflops"] for result in results),
        "clip_gflops": sum(result["clip_gflops"] for result in results),
        "checkpoint": {"path": " + ".join(result["checkpoint"]["path"] for result in results), "sha256": digest},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return exit_status(lambda: fuse(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
