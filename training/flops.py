"""Multiply-adds of backbones: ``python -m training.flops``. Counted by fvcore, as the published figures are."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from data_specs.stored import VectorReader, open_store
from mocrop_core.search import candidate_sizes
from training.backbones import TORCHVISION, build
from training.options import OneLineParser, Refused, exit_status, expanded_path, input_size, whole

EXAMPLES = """examples:
  the published table        python -m training.flops
  a clip of 8 frames         python -m training.flops --arch resnet50 --test-segments 8
  and choosing its box       python -m training.flops --arch resnet50 --test-segments 8 --store ucf101.zarr
"""
PIXEL_WORK = 5
"""Multiply-adds of a value of the network's input: four neighbours weighed, one normalisation."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = OneLineParser(prog="python -m training.flops", description=__doc__.splitlines()[0], epilog=EXAMPLES)
    p.add_argument("--arch", nargs="+", default=list(TORCHVISION), help="torchvision's as in the reference, or timm's")
    p.add_argument("--input-size", nargs="+", type=input_size, default=[224, 192], help="sides of the input, px")
    p.add_argument("--classes", type=whole(2), default=101, help="classes of the last layer")
    p.add_argument("--test-segments", type=whole(1), help="count a clip of so many frames too")
    p.add_argument(
        "--store",
        type=expanded_path,
        help="count choosing the box too, for a mean clip of this store; with --test-segments",
    )
    p.add_argument("--view", default="mocrop", help="the view of --store")
    p.add_argument("--json", action="store_true", help="print a list of objects")
    return p


@lru_cache
def gflops(arch: str, input_size: int, num_classes: int = 101) -> float:
    """1e9 multiply-adds of one frame of ``input_size`` px through a backbone.

    As published for MoCrop: fvcore's count, which has normalisation and pooling in it, activations and additions not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about what fvcore does when it is imported
        from fvcore.nn.flop_count import FlopCountAnalysis
    # weights do not count: torchvision's models are made without drawing any, which is most of the time
    with torch.device("meta" if arch in TORCHVISION else "cpu"):
        model = build(arch, num_classes, input_size, pretrained=False).model.eval()
    if arch in TORCHVISION:
        model.to_empty(device="cpu")
        for tensor in model.state_dict(keep_vars=False).values():
            tensor.zero_()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    count = FlopCountAnalysis(model, torch.zeros(1, 3, input_size, input_size))
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return float(count.total()) / 1e9


def box_gflops(location: str, name: str) -> float:
    """1e9 multiply-adds of choosing one clip's box in a view, on average; 0 for a view without motion.

    Ours: three for a vector's length and threshold, one for each sampled vector (at most all), one for each cell of
    each rectangle that is tried. Decoding is bit work and not in it.
    """
    store = open_store(location)
    view = store.view(name)
    if "grid" not in view.params:
        return 0.0
    counts = []
    for shard in range(store.num_shards):
        reader = VectorReader(store.zarr, shard)
        rows = min(store.recipe.shard_clips, len(store.ids) - shard * store.recipe.shard_clips)
        counts += [reader.count(clip) for clip in range(rows)]
    (rows, columns), params = view.params["grid"], view.params
    sizes = candidate_sizes((rows, columns), params["crop_ratio"], params["tolerance"])
    search = sum(h * w * (rows - h + 1) * (columns - w + 1) for h, w in sizes)
    return (4 * float(np.mean(counts)) + search) / 1e9


def table_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each backbone and size."""
    if args.store and not args.test_segments:
        raise Refused("--store: the box is chosen once a clip; give --test-segments, the frames of a clip")
    box = box_gflops(args.store, args.view) if args.store else 0.0
    rows: list[dict[str, Any]] = []
    for arch in args.arch:
        for size in args.input_size:
            row: dict[str, Any] = {"arch": arch, "input_size": size, "gflops": gflops(arch, size, args.classes)}
            if args.test_segments:
                pixels = PIXEL_WORK * 3 * size * size * args.test_segments / 1e9
                row |= {
                    "segments": args.test_segments,
                    "clip_backbone_gflops": row["gflops"] * args.test_segments,
                    "clip_preprocessing_gflops": pixels + box,
                    "clip_gflops": row["gflops"] * args.test_segments + pixels + box,
                }
            rows.append(row)
    return rows


def work(args: argparse.Namespace) -> None:
    """Print the table."""
    rows = table_rows(args)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    heads = f"{'backbone':22}{'input px':>9}{'GFLOPs':>9}"
    if args.test_segments:
        heads += f"{f'a clip of {args.test_segments}':>16}{'of it not backbone':>20}"
    print(heads)
    for row in rows:
        line = f"{row['arch']:22}{row['input_size']:9}{row['gflops']:9.2f}"
        if args.test_segments:
            line += f"{row['clip_gflops']:16.2f}{row['clip_preprocessing_gflops']:20.4f}"
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status."""
    return exit_status(lambda: work(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
