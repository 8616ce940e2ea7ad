"""Test weights on the cached crops of a store: ``python -m training.test --store STORE --weights FILE``."""

from __future__ import annotations

import argparse
import faulthandler
import json
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.progress import track

from data_specs.resources import usable_cores
from data_specs.stored import open_store, shown
from training.backbones import Backbone, build, for_motion
from training.checkpoint_checks import arguments_of
from training.checkpoints import replaced, settings_of
from training.clip_scores import write_scores
from training.clips import Clips, read_clips
from training.evaluation import EvalResult, evaluate, write_confusion
from training.flops import gflops
from training.motion import FlowMaps, MotionInput, add_stream_flags, check_stream, motion_input
from training.options import (
    OneLineParser,
    Refused,
    add_data_flags,
    add_machine_flags,
    check_output,
    check_view,
    checked_store,
    chosen_view,
    exit_status,
    expanded_path,
    input_size,
    parse,
    whole,
)
from training.weights import load_strictly, read_file, sha256_of, state_of

EXAMPLES = """examples:
  a mocrop checkpoint      python -m training.test --store ucf101.zarr --weights runs/train/model.pt --test-mode mocrop
  with all controls        python -m training.test --store ucf101.zarr --weights runs/train/model.pt \\
                             --view full centre random mocrop --input-size 192 224
  the reference's weights  python -m training.test --store ucf101.zarr --weights Res50_best.pth.tar --arch resnet50
  the table of results     python -m training.results results
"""
TRAINED = ("view", "input_size", "split", "seed", "select", "store_fingerprint")
"""Training arguments that a result names besides its settings."""
PACKAGES = ("mocrop", "torchvision", "timm", "numpy")


def parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    p = OneLineParser(prog="python -m training.test", description=__doc__.splitlines()[0], epilog=EXAMPLES)
    add_data_flags(p)
    add_stream_flags(p, default=None, help="rgb or motion; default: the stream of the training, or rgb")
    p.add_argument("--test-mode", choices=("normal", "mocrop"), help="normal: view full; mocrop: view mocrop")
    p.add_argument(
        "--view", nargs="+", help="views to test on; default: that of --test-mode, else that of the training, or full"
    )
    p.add_argument("--test-segments", type=whole(1), default=8, help="centre frames per clip whose logits are averaged")
    p.add_argument(
        "--input-size",
        type=input_size,
        nargs="+",
        help="side lengths of the input, px; default: that of the training, or 224",
    )
    p.add_argument(
        "--weights",
        "--model-path",
        type=expanded_path,
        required=True,
        help="checkpoint of mocrop, timm, torchvision or the reference",
    )
    p.add_argument("--arch", help="backbone; needed for checkpoints that mocrop did not write")
    p.add_argument("-b", "--batch-size", type=whole(1), default=16, help="clips per step and process")
    p.add_argument(
        "--output-dir", type=expanded_path, default="results", help="folder for results as JSON and confusion matrices"
    )
    p.add_argument("--json", action="store_true", help="print the results as JSON")
    add_machine_flags(p)
    return p


def test(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Test with these arguments; write and return the results."""
    checkpoint = read_file(args.weights)
    trained = arguments_of(checkpoint, f"--weights {shown(args.weights)!r}")
    views = tested_views(args, trained)
    arch = args.arch or trained.get("arch")
    if arch is None:
        raise Refused("--arch: the checkpoint does not name its backbone; give it")
    check_output(args.output_dir)
    for view in views:
        check_view(args.store, view, args.crop_ratio, args.mv_h, args.mv_w)
    check_origin(args, trained)
    motion = tested_stream(args, trained)
    lists = [read_clips(args.store, view, args.split, "test") for view in views]
    cases = {
        size: [(clips, None if motion is None else FlowMaps(clips, motion, size, keep=0)) for clips in lists]
        for size in args.input_size or [trained.get("input_size", 224)]
    }
    accelerator = Accelerator(mixed_precision="bf16" if args.amp else "no", cpu=args.cpu)
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch ignores the CPU quota of a container
    results = []
    with checked_store():
        for size, tests in cases.items():
            backbone = loaded(args, arch, size, checkpoint, accelerator, motion)
            for clips, maps in tests:
                result, scores = test_view(args, clips, size, arch, backbone, accelerator, maps)
                result["trained"] = {
                    **{key: trained.get(key) for key in TRAINED},
                    "epoch": checkpoint.get("epoch"),
                    "settings": settings_of(trained),
                }
                results.append(result)
                if accelerator.is_main_process:
                    write(args, result, scores)
    if views != ["full"] and not args.view and not args.test_mode:
        accelerator.print(f"tested on the view of the training, {views[0]}; --view tests others", file=sys.stderr)
    if args.json:
        accelerator.print(json.dumps(results, indent=1))
    return results


def tested_views(args: argparse.Namespace, trained: Mapping[str, Any]) -> list[str]:
    """The views of ``--view`` or ``--test-mode``, else that of the training; ``full`` for weights of other programs."""
    default = None if args.test_mode else trained.get("view")
    return [chosen_view(args.test_mode, view, "--test-mode") for view in args.view or [default]]


def check_origin(args: argparse.Namespace, trained: Mapping[str, Any]) -> None:
    """Raise `Refused` for weights of other classes, or weights trained on the clips to test."""
    names = open_store(args.store).class_names
    if trained and trained["classes"] != names:
        raise Refused(
            f"--weights {shown(args.weights)!r}: trained on {len(trained['classes'])} classes ({trained['classes'][0]} "
            f"first), the store has {len(names)} ({names[0]} first)"
        )
    if trained and trained["split"] != args.split:
        raise Refused(
            f"--split {args.split}: these weights were trained on split {trained['split']}, whose train list has clips "
            f"of that test list; give --split {trained['split']}"
        )


def tested_stream(args: argparse.Namespace, trained: Mapping[str, Any]) -> MotionInput | None:
    """Return what the motion stream is to see, None for the RGB stream; `Refused` for another one than was trained."""
    own = {"stream": "rgb", **(motion.settings if (motion := motion_input(trained)) else {})}
    if trained:
        for name, trained_with in own.items():
            value = getattr(args, name)
            if value not in (None, trained_with):
                flag = f"--{name.replace('_', '-')}"
                raise Refused(f"{flag} {value}: these weights were trained with {trained_with}; omit the flag")
        args.stream = own["stream"]
    check_stream(args)
    return motion or motion_input(vars(args))


def loaded(
    args: argparse.Namespace,
    arch: str,
    size: int,
    checkpoint: Mapping[str, Any],
    accelerator: Accelerator,
    motion: MotionInput | None,
) -> Backbone:
    """Build the network with the checkpoint's weights, on the device."""
    backbone = build(arch, len(open_store(args.store).class_names), size, pretrained=False)
    if motion is not None:
        backbone = for_motion(backbone, motion, mean_filters=True)
    load_strictly(backbone.model, state_of(checkpoint), f"--weights {shown(args.weights)!r}")
    memory = torch.channels_last if args.channels_last else torch.contiguous_format
    backbone.model.to(accelerator.device, memory_format=memory).eval()  # type: ignore[call-overload]
    if args.compile:
        backbone.model.compile()
    return backbone


def test_view(
    args: argparse.Namespace,
    clips: Clips,
    size: int,
    arch: str,
    backbone: Backbone,
    accelerator: Accelerator,
    maps: FlowMaps | None,
) -> tuple[dict[str, Any], EvalResult]:
    """Test the view of these clips at one size, on ``maps`` if it is not on frames; return the result and its scores.

    Each map is read once, so that none need be kept.
    """
    view, store, motion = clips.view, open_store(args.store), None if maps is None else maps.motion
    bar = accelerator.is_main_process and sys.stderr.isatty()

    def tracked(batches: Iterable[Any], total: int) -> Iterable[Any]:
        return track(batches, f"{view} at {size} px", total=total, transient=True) if bar else batches

    frame = gflops(arch, size, len(clips.class_names), motion) if accelerator.is_main_process else 0.0
    began = time.perf_counter()
    scores = evaluate(
        backbone,
        clips,
        accelerator,
        segments=args.test_segments,
        input_size=size,
        batch_size=args.batch_size,
        threads=args.workers,
        maps=maps,
        track=tracked,
    )
    seconds = time.perf_counter() - began
    digest = sha256_of(args.weights)
    tested = f"{size}px-{args.test_segments}frames-split{args.split}{'-bf16' if args.amp else ''}"
    stream = "" if motion is None else f"-motion{motion.frames}{'' if motion.remove_camera else '-camera'}"
    name = f"{arch.replace('/', '_')}-{view}{stream}-{tested}-{digest[:8]}"
    if not args.json:
        accelerator.print(summary(arch if motion is None else f"{arch}, {motion}", view, size, args, scores))
    result: dict[str, Any] = {
        "mocrop_result": 1,
        "name": name,
        "stream": str(motion or "rgb"),
        "scores": f"{name}.scores.safetensors",
        "arch": arch,
        "dataset": store.attrs.get("dataset"),
        "store": shown(args.store),
        "store_fingerprint": store.fingerprint,
        "split": args.split,
        "view": view,
        "view_params": store.view(view).params,
        "view_fingerprint": store.view(view).fingerprint,
        "input_size": size,
        "segments": args.test_segments,
        "clips": len(clips),
        **({} if maps is None else {"clips_without_vectors": maps.without_vectors}),
        **figures_of(scores),
        "gflops": frame,
        "clip_gflops": frame * args.test_segments,
        "checkpoint": {"path": shown(args.weights), "sha256": digest},
        "amp": args.amp,
        "device": device_name(accelerator),
        "processes": accelerator.num_processes,
        "clips_per_s": round(len(clips) / seconds, 2),
        "software": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in PACKAGES},
        },
    }
    return result, scores


def figures_of(scores: EvalResult) -> dict[str, Any]:
    """Return the figures of a result, as JSON values."""
    by_class = scores.per_class()
    return {
        "top1": round(scores.top(1), 4),
        "top5": round(scores.top(5), 4),
        "loss": round(scores.loss, 6),
        "mean_class_top1": round(sum(row["top1"] for row in by_class.values()) / len(by_class), 4),
        "per_class": by_class,
    }


def summary(arch: str, view: str, size: int, args: argparse.Namespace, scores: EvalResult) -> str:
    """Summarise a result in one line."""
    return (
        f"{arch}, view {view} at {size} px, split {args.split}, {args.test_segments} frames: "
        f"top-1 {scores.top(1):.2f} %, top-5 {scores.top(5):.2f} % of {len(scores.labels)} clips"
    )


def device_name(accelerator: Accelerator) -> str:
    """Return the name of the GPU, or of the CPU."""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def write(args: argparse.Namespace, result: dict[str, Any], scores: EvalResult) -> None:
    """Write a result with its scores and its confusion matrix into ``--output-dir``."""
    folder = Path(args.output_dir)
    write_scores(folder / result["scores"], scores)
    write_result(folder, result)
    title = f"{result['arch']}, view {result['view']}, {result['input_size']} px: top-1 {scores.top(1):.1f} %"
    write_confusion(folder / f"{result['name']}.confusion", scores, title)


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write a result as JSON."""
    text = json.dumps(result, indent=1) + "\n"
    replaced(folder / f"{result['name']}.json", lambda part: part.write_text(text, encoding="utf-8"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return exit_status(lambda: test(parse(parser(), argv)))


if __name__ == "__main__":
    faulthandler.enable()  # shows where, if a mapped shard is truncated
    sys.exit(main())
