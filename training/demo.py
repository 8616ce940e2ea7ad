"""Two short trainings on a CPU, on whole frames and on MoCrop's boxes, each tested on every view.

``python -m training.demo STORE --out DIR`` trains from scratch, at one size, with one or more seeds. It shows that the
pipeline works. Of the reference's augmentations, both trainings use only flips: in the synthetic set, figures differ in
colour and position, which the other augmentations would blur.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_specs.stored import open_store
from training import results, test, train
from training.clips import read_clips
from training.options import OneLineParser, exit_status, expanded_path, input_size, parse, whole

TRAINED_ON = ("full", "mocrop")


def run_demo(
    store: str,
    out: Path,
    *,
    arch: str = "lcnet_050",
    epochs: int = 30,
    size: int = 96,
    seeds: Sequence[int] = (0,),
    on_line: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Train on the views ``full`` and ``mocrop`` of a store, test both on all of its views; return the results.

    The batch size is 16, or the length of a shorter train list. Checkpoints and metrics are written below ``out``/runs,
    results to ``out``/results. A finished training is not repeated; an interrupted one is resumed.
    """
    found: list[dict[str, Any]] = []
    batch = min(16, len(read_clips(store, "full", 1, "train")))
    for seed in seeds:
        for view in TRAINED_ON:
            folder = out / "runs" / f"{view}-seed{seed}"
            on_line(f"training {arch} on the view {view!r} at {size} px from scratch, {epochs} epochs, seed {seed}")
            asked = [
                *("--store", store, "--view", view, "--arch", arch, "--no-pretrained", "--input-size", str(size)),
                *("--epochs", str(epochs), "--schedule", "cosine", "--lr", "3e-3", "--weight-decay", "0.05"),
                *("--batch-size", str(batch), "--mixup", "0", "--augment", "flip", "--eval-freq", "0", "--cpu"),
                *("--seed", str(seed), "--output-dir", str(folder)),
            ]
            if (folder / "last.pt").exists():
                asked.append("--resume")
            weights = train.train(parse(train.parser(), asked))
            asked = [
                *("--store", store, "--weights", str(weights), "--view", *open_store(store).views, "--cpu"),
                *("--output-dir", str(out / "results")),
            ]
            found += test.test(parse(test.parser(), asked))
    on_line(results.as_text(results.table(found)))
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    p = OneLineParser(prog="python -m training.demo", description=__doc__.splitlines()[0])
    p.add_argument("store", type=expanded_path, metavar="STORE", help="store with the views full and mocrop")
    p.add_argument("--out", type=expanded_path, default="demo", help="folder for trainings and results")
    p.add_argument("--arch", default="lcnet_050", help="backbone, trained from scratch")
    p.add_argument("--epochs", type=whole(1), default=30, help="passes over the train list")
    p.add_argument("--input-size", type=input_size, default=96, help="side of the input, px")
    p.add_argument("--seed", type=whole(0), nargs="+", default=[0], help="random seeds, one training each")
    return p


def work(args: argparse.Namespace) -> None:
    """Run the demo and print the paths of its results."""
    out = Path(args.out)
    run_demo(args.store, out, arch=args.arch, epochs=args.epochs, size=args.input_size, seeds=args.seed)
    print(f"curves: tensorboard --logdir {out / 'runs'}; results and confusion matrices: {out / 'results'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return exit_status(lambda: work(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
