"""Two short trainings on a CPU, of whole frames and of MoCrop's boxes, each tested on every view.

``python -m training.demo STORE --out DIR``: from scratch, at one size, with one seed (or several). It shows that the
chain works; the accuracies are printed as measured. Of the reference's augmentations both trainings use flips alone: in
the synthetic set colour and place tell the figures apart, and the others would blur that.
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
    """Train on the views ``full`` and ``mocrop`` of a store, test both on all of its views; the results.

    A step takes 16 clips, or all where the train list has fewer.
    Checkpoints and metrics go below ``out``/runs, results to ``out``/results. A training that is there and whole is not
    done again; one that was interrupted goes on.
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
    """The command line."""
    p = OneLineParser(prog="python -m training.demo", description=__doc__.splitlines()[0])
    p.add_argument("store", type=expanded_path, metavar="STORE", help="a store with the views full and mocrop")
    p.add_argument("--out", type=expanded_path, default="demo", help="folder for trainings and results")
    p.add_argument("--arch", default="lcnet_050", help="backbone, trained from scratch")
    p.add_argument("--epochs", type=whole(1), default=30, help="passes over the train list")
    p.add_argument("--input-size", type=input_size, default=96, help="side of the input, px")
    p.add_argument("--seed", type=whole(0), nargs="+", default=[0], help="of the trainings, one after the other")
    return p


def work(args: argparse.Namespace) -> None:
    """Run the demo, and say where to look next."""
    out = Path(args.out)
    run_demo(args.store, out, arch=args.arch, epochs=args.epochs, size=args.input_size, seeds=args.seed)
    print(f"curves: tensorboard --logdir {out / 'runs'}; results and confusion matrices: {out / 'results'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status."""
    return exit_status(lambda: work(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
