"""Multiply-adds of backbones: ``python -m training.flops``. Counted with fvcore, like the published numbers."""

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
from training.backbones import TORCHVISION, build, for_motion
from training.motion import MotionInput
from training.options import OneLineParser, Refused, exit_status, expanded_path, input_size, whole

EXAMPLES = """examples:
  the published table        python -m training.flops
  a clip of 8 frames         python -m training.flops --arch resnet50 --test-segments 8
  with choosing its box      python -m training.flops --arch resnet50 --test-segments 8 --store ucf101.zarr
"""
PIXEL_WORK = 5
"""Multiply-adds per input value: four for bilinear interpolation, one for normalisation."""


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    p = OneLineParser(prog="python -m training.flops", description=__doc__.splitlines()[0], epilog=EXAMPLES)
    p.add_argument(
        "--arch",
        nargs="+",
        default=list(TORCHVISION),
        help="backbones: torchvision names from the reference, or timm names",
    )
    p.add_argument("--input-size", nargs="+", type=input_size, default=[224, 192], help="side lengths of the input, px")
    p.add_argument("--classes", type=whole(2), default=101, help="outputs of the last layer")
    p.add_argument("--test-segments", type=whole(1), help="also count a clip of this many frames")
    p.add_argument(
        "--store",
        type=expanded_path,
        help="also count choosing the box, on average over the clips of this store; needs --test-segments",
    )
    p.add_argument("--view", default="mocrop", help="view of --store")
    p.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    return p


@lru_cache
def gflops(arch: str, input_size: int, num_classes: int = 101, motion: MotionInput | None = None) -> float:
    """Return the 1e9 multiply-adds of a backbone for one frame of ``input_size`` px, or one stack of flow maps.

    As published for MoCrop: fvcore's count, with normalisation and pooling, but without activations and additions.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns about fvcore's imports
        from fvcore.nn.flop_count import FlopCountAnalysis
    # the weights do not matter: on the meta device, torchvision skips their slow initialisation
    with torch.device("meta" if arch in TORCHVISION else "cpu"):
        backbone = build(arch, num_classes, input_size, pretrained=False)
        if motion is not None:
            for_motion(backbone, motion, mean_filters=True)
        model = backbone.model.eval()
    if arch in TORCHVISION:
        model.to_empty(device="cpu")
        for tensor in model.state_dict(keep_vars=False).values():
            tensor.zero_()
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    count = FlopCountAnalysis(model, torch.zeros(1, motion.channels if motion else 3, input_size, input_size))
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return float(count.total()) / 1e9


def box_gflops(location: str, name: str) -> float:
    """Return the mean 1e9 multiply-adds of choosing a clip's box in a view; 0 for a view without motion.

    Ours: three per vector for its length and threshold, one per sampled vector (at most all of them), one per cell of
    each candidate rectangle. Decoding is not included: it is bit manipulation.
    """
    store = open_store(location)
    view = store.view(name)
    if "grid" not in view.params:
        return 0.0
    counts = []
    for shard in range(store.num_shards):
        reader = VectorReader(store.zarr, shard)
        rows = min(store.recipe.clips_per_shard, len(store.ids) - shard * store.recipe.clips_per_shard)
        counts += [reader.count(clip) for clip in range(rows)]
    (rows, columns), params = view.params["grid"], view.params
    sizes = candidate_sizes((rows, columns), params["crop_ratio"], params["tolerance"])
    search = sum(h * w * (rows - h + 1) * (columns - w + 1) for h, w in sizes)
    return (4 * float(np.mean(counts)) + search) / 1e9


def table_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each backbone and size."""
    if args.store and not args.test_segments:
        raise Refused("--store: the box is chosen once per clip; give --test-segments, the frames per clip")
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
        heads += f"{f'a clip of {args.test_segments}':>16}{'of which other':>20}"
    print(heads)
    for row in rows:
        line = f"{row['arch']:22}{row['input_size']:9}{row['gflops']:9.2f}"
        if args.test_segments:
            line += f"{row['clip_gflops']:16.2f}{row['clip_preprocessing_gflops']:20.4f}"
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return exit_status(lambda: work(parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
