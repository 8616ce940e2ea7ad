"""The flags of ``python -m training.train``."""

from __future__ import annotations

import argparse

from training.motion import add_stream_flags
from training.options import (
    OneLineParser,
    add_data_flags,
    add_machine_flags,
    expanded_path,
    input_size,
    share,
    whole,
)

ABOUT = "Train a backbone on the cached crops of a store: ``python -m training.train --store STORE``."
EXAMPLES = """examples:
  the uncropped baseline    python -m training.train --store ucf101.zarr --arch resnet50 --train-mode normal
  MoCrop at 192 px          python -m training.train --store ucf101.zarr --arch resnet50 --train-mode mocrop \\
                              --input-size 192 --output-dir runs/mocrop-192
  the motion stream         python -m training.train --store ucf101.zarr --arch resnet50 --train-mode mocrop \\
                              --stream motion --input-size 112 --output-dir runs/motion
  resume                    the same command with --resume
  two GPUs                  torchrun --nproc-per-node 2 -m training.train --store ucf101.zarr --amp
"""
STREAM_FLAGS = ("stream", "flow_frames", "remove_camera", "first_conv")
"""Arguments of the motion stream, which checkpoints of the RGB stream do not have."""


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    p = OneLineParser(prog="python -m training.train", description=ABOUT, epilog=EXAMPLES)
    add_data_flags(p)
    add_stream_flags(p)
    p.add_argument("--train-mode", choices=("normal", "mocrop"), help="normal: view full; mocrop: view mocrop")
    p.add_argument("--view", help="view to train and validate on; default: that of --train-mode")
    p.add_argument("--num-segments", type=whole(1), default=3, help="random frames per clip in training")
    p.add_argument("--val-segments", type=whole(1), default=8, help="centre frames per clip in validation")
    model = p.add_argument_group("model")
    model.add_argument(
        "--arch", default="efficientnet_b1", help="backbone: a torchvision name from the reference, or a timm name"
    )
    model.add_argument("--input-size", type=input_size, default=224, help="side length of the network's input, px")
    model.add_argument(
        "--pretrained", action=argparse.BooleanOptionalAction, default=True, help="start from ImageNet weights"
    )
    model.add_argument(
        "--init-weights",
        type=expanded_path,
        help="start from this file instead; its last layer may have other classes",
    )
    model.add_argument(
        "--first-conv",
        choices=("mean", "scratch"),
        help="motion: the first convolution begins as the mean of the RGB filters, or from scratch; default: mean if "
        "there are RGB weights",
    )
    optim = p.add_argument_group("optimisation")
    optim.add_argument("-b", "--batch-size", type=whole(1), default=32, help="clips per step and process")
    optim.add_argument("--epochs", type=whole(1), default=100, help="passes over the train list")
    optim.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), default="adamw", help="sgd: momentum 0.9")
    optim.add_argument("--lr", type=share(0, 1e3), default=1e-3, help="initial learning rate")
    optim.add_argument("--schedule", choices=("step", "cosine"), default="step", help="learning rate schedule")
    optim.add_argument(
        "--lr-steps", type=whole(1), nargs="*", default=[40, 80], help="epochs after which the learning rate decays"
    )
    optim.add_argument("--lr-decay", type=share(0, 1), default=0.1, help="decay factor")
    optim.add_argument("--weight-decay", type=share(0, 1e3), default=1e-4, help="weight decay")
    optim.add_argument(
        "--augment",
        choices=("reference", "flip", "none"),
        default="reference",
        help="reference: crops at four scales, flips, colour jitter",
    )
    optim.add_argument("--mixup", type=share(0, 100), default=0.2, help="mixup alpha; 0: no mixup")
    optim.add_argument(
        "--label-smoothing", type=share(0, 1), default=0.0, help="share of the target spread evenly over all classes"
    )
    _add_run_flags(p)
    add_machine_flags(p)
    return p


def _add_run_flags(p: argparse.ArgumentParser) -> None:
    run = p.add_argument_group("run")
    run.add_argument("--seed", type=whole(0), default=0, help="random seed")
    run.add_argument("--select", choices=("last", "val", "test"), default="last", help="epoch saved as model.pt: the "
                     "last, or the best on the validation list, or on the test list, as in the reference; result "
                     "tables show which")  # fmt: skip
    run.add_argument("--eval-freq", type=whole(0), default=1, help="epochs between evaluations on the test list (with "
                     "--select val, the validation list); 0: never")  # fmt: skip
    run.add_argument("--print-freq", type=whole(0), default=150, help="steps between progress lines; 0: no lines")
    run.add_argument(
        "--output-dir",
        type=expanded_path,
        default="runs/train",
        help="folder for checkpoints, metrics.csv and TensorBoard events",
    )
    run.add_argument(
        "--resume",
        type=expanded_path,
        nargs="?",
        const="",
        metavar="FILE",
        help="resume from FILE, or from OUTPUT_DIR/last.pt",
    )
