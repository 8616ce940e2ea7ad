"""Train a backbone on the cached crops of a store: ``python -m training.train --store STORE``.

Several GPUs: ``torchrun --nproc-per-node N -m training.train …``; ``-b`` is the batch size per process, in clips.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from rich.progress import track
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR
from torch.utils.tensorboard import SummaryWriter

from data_specs.fingerprints import fingerprint
from data_specs.resources import usable_cores
from data_specs.stored import open_store, shown
from training.backbones import Backbone, build, check_arch, clip_logits, for_motion, takes_channels
from training.checkpoint_checks import arguments_of, check_state
from training.checkpoints import (
    VERSION,
    best_epoch,
    check_same,
    random_states,
    replaced,
    save,
    save_model,
    set_random_states,
    write_csv,
)
from training.clips import Clips, Part, read_clips
from training.evaluation import evaluate
from training.motion import FlowMaps, check_stream, motion_input
from training.options import (
    Failed,
    Refused,
    check_output,
    check_view,
    checked_store,
    chosen_view,
    exit_status,
    parse,
)
from training.stream import ClipStream, batches_of_training, plan_of_training
from training.train_flags import STREAM_FLAGS, parser
from training.weights import State, load_for_finetuning, load_strictly, read_file, state_of


@dataclass
class Training:
    """The state of a training, and its data."""

    backbone: Backbone
    optimizer: Optimizer
    schedule: LRScheduler
    mixup: Mixup | None
    criterion: nn.Module
    clips: Clips
    maps: FlowMaps | None
    eval_maps: FlowMaps | None
    accelerator: Accelerator
    epoch: int
    history: list[dict[str, Any]]


def train(args: argparse.Namespace) -> Path:
    """Train with these arguments; return the path of the checkpoint to report."""
    view = chosen_view(args.train_mode, args.view, "--train-mode")
    check_arch(args.arch)
    check_view(args.store, view, args.crop_ratio, args.mv_h, args.mv_w)
    clips = read_clips(args.store, view, args.split, "train")
    evaluated: Part = "val" if args.select == "val" else "test"  # the other list is never looked at
    eval_clips = read_clips(args.store, view, args.split, evaluated) if args.eval_freq else None
    accelerator = Accelerator(mixed_precision="bf16" if args.amp else "no", cpu=args.cpu)
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch ignores the CPU quota of a container
    settings = checked_settings(args, view, clips, eval_clips, accelerator)
    maps = flow_maps(args, (clips, eval_clips), accelerator.num_processes)
    state = set_up(args, clips, accelerator)
    state.maps, state.eval_maps = maps
    stream = ClipStream(clips, maps=state.maps, threads=args.workers, pin=accelerator.device.type == "cuda")
    if args.resume is not None:
        restore(state, Path(args.resume or Path(args.output_dir) / "last.pt"), settings)
        check_what_is_left(state, args, settings)
    accelerator.print(
        f"{args.arch}, view {view} at {args.input_size} px, split {args.split}: {len(clips)} training clips, "
        f"{accelerator.num_processes} x {accelerator.device}, "
        + (f"epochs {state.epoch + 1} to {args.epochs}" if state.epoch < args.epochs else "no epochs left")
    )
    if state.maps is not None and state.epoch < args.epochs:
        prepare_maps(state.maps, stream.threads, accelerator)
    board = SummaryWriter(args.output_dir, purge_step=state.epoch + 1) if accelerator.is_main_process else None
    with checked_store():
        while state.epoch < args.epochs:
            row = {"epoch": state.epoch + 1, "lr": state.schedule.get_last_lr()[0], **train_epoch(state, stream, args)}
            state.schedule.step()
            state.epoch += 1
            if eval_clips is not None and (state.epoch % args.eval_freq == 0 or state.epoch == args.epochs):
                row |= eval_epoch(state, eval_clips, args)
            state.history.append(row)
            record(state, args, settings, board)
    if board is not None:
        board.close()
    return Path(args.output_dir) / "model.pt"


def checked_settings(
    args: argparse.Namespace, view: str, clips: Clips, eval_clips: Clips | None, accelerator: Accelerator
) -> dict[str, Any]:
    """Return the resolved arguments, as saved in checkpoints; `Refused` if they conflict."""
    check_output(args.output_dir)
    check_stream(args)
    if args.first_conv is not None and args.stream != "motion":
        raise Refused(f"--first-conv {args.first_conv}: is for the motion stream; give --stream motion, or omit it")
    if args.first_conv == "mean" and not args.pretrained and not args.init_weights:
        raise Refused("--first-conv mean: there are no RGB weights; omit --no-pretrained, or give --first-conv scratch")
    output = Path(args.output_dir)
    if args.resume is None and (output / "last.pt").exists():
        raise Refused(
            f"--output-dir {str(output)!r} contains a training; give --resume to continue it, or another folder"
        )
    if args.mixup and args.batch_size % 2:
        raise Refused(f"--batch-size {args.batch_size}: mixup pairs clips; give an even number, or --mixup 0")
    if args.select != "last" and not args.eval_freq:
        raise Refused(f"--select {args.select}: needs the {args.select} list; give --eval-freq 1 or more")
    batches_of_training(plan_of_training(clips, 1, 0, 0).order, args.batch_size, 0, accelerator.num_processes)
    store = open_store(args.store)
    motion = motion_input(vars(args))
    flags = {key: value for key, value in vars(args).items() if motion or key not in STREAM_FLAGS}
    return {
        **flags,
        **(motion.settings if motion else {}),
        "view": view,
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "classes": list(clips.class_names),
        "train_clips": len(clips),
        "store_fingerprint": store.fingerprint,
        "view_fingerprint": store.view(view).fingerprint,
        "data_fingerprint": fingerprint(store.build, clips.fingerprint, eval_clips and eval_clips.fingerprint),
    }


def set_up(args: argparse.Namespace, clips: Clips, accelerator: Accelerator) -> Training:
    """Build the network, the optimiser and the schedule."""
    set_seed(args.seed)
    classes = len(clips.class_names)
    fresh = args.init_weights or args.resume is not None
    backbone = build(args.arch, classes, args.input_size, pretrained=args.pretrained and not fresh)
    if args.init_weights and args.resume is None:
        state = state_of(read_file(args.init_weights, "--init-weights"))
        backbone = initialised(backbone, state, args)
    elif motion := motion_input(vars(args)):
        mean = args.first_conv != "scratch" and args.pretrained and not fresh
        backbone = for_motion(backbone, motion, mean_filters=mean)
    model = backbone.model
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    kinds: dict[str, Any] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
    momentum = {"momentum": 0.9} if args.optimizer == "sgd" else {}
    optimizer = kinds[args.optimizer](model.parameters(), lr=args.lr, weight_decay=args.weight_decay, **momentum)
    schedule: LRScheduler = (
        MultiStepLR(optimizer, args.lr_steps, args.lr_decay)
        if args.schedule == "step"
        else CosineAnnealingLR(optimizer, args.epochs)
    )
    if args.compile:
        model.compile()
    model, optimizer = accelerator.prepare(model, optimizer)
    set_seed(args.seed, device_specific=True)
    mixup = None
    if args.mixup:
        mixup = Mixup(mixup_alpha=args.mixup, label_smoothing=args.label_smoothing, num_classes=classes)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.0 if mixup else args.label_smoothing)
    backbone = replace(backbone, model=model)
    return Training(backbone, optimizer, schedule, mixup, criterion, clips, None, None, accelerator, 0, [])


def initialised(backbone: Backbone, state: State, args: argparse.Namespace) -> Backbone:
    """Load ``--init-weights`` into the network; for the motion stream they may be of an RGB network or of its own."""
    where, motion = f"--init-weights {shown(args.init_weights)!r}", motion_input(vars(args))
    if motion is not None and takes_channels(backbone.model, state, motion.channels):
        backbone, motion = for_motion(backbone, motion, mean_filters=True), None
    load_for_finetuning(backbone.model, state, where)
    return for_motion(backbone, motion, mean_filters=args.first_conv != "scratch") if motion else backbone


def flow_maps(args: argparse.Namespace, lists: Iterable[Clips | None], processes: int) -> list[FlowMaps | None]:
    """Return the flow maps of the lists of clips; None for all of them if the stream is RGB, and for no list."""
    motion, keep = motion_input(vars(args)), FlowMaps.memory() // processes
    return [
        None if motion is None or clips is None else FlowMaps(clips, motion, args.input_size, keep=keep)
        for clips in lists
    ]


def prepare_maps(maps: FlowMaps, threads: int, accelerator: Accelerator) -> None:
    """Make the flow maps of the training, and print how many clips have some in memory, and how many are at rest."""
    maps.prepare(threads, lambda shards, total: with_bar(shards, total, "flow maps", accelerator))
    clips, size = maps.kept
    rest = f", {maps.without_vectors} clips have no vectors" if maps.without_vectors else ""
    accelerator.print(f"{maps.motion}: maps of {clips} of {len(maps.clips)} clips in memory, {size / 1e6:.0f} MB{rest}")


def train_epoch(state: Training, stream: ClipStream, args: argparse.Namespace) -> dict[str, float]:
    """Train one epoch; return mean loss, clips per second over all processes, share of time spent waiting for data."""
    accelerator, backbone = state.accelerator, state.backbone
    stream.plan = plan_of_training(state.clips, args.num_segments, args.seed, state.epoch, args.augment)
    stream.batches = batches_of_training(
        stream.plan.order, args.batch_size, accelerator.process_index, accelerator.num_processes
    )
    backbone.model.train()
    total, waited = torch.zeros((), device=accelerator.device), 0.0
    began = asked = time.perf_counter()
    for step, batch in enumerate(with_bar(stream, len(stream), f"epoch {state.epoch + 1}", accelerator), 1):
        waited += time.perf_counter() - asked
        batch = batch.to(accelerator.device)
        images = backbone.input(batch.frames, batch.draws, args.input_size)
        images, labels = state.mixup(images, batch.labels) if state.mixup else (images, batch.labels)
        with accelerator.autocast():
            loss = state.criterion(clip_logits(backbone.model, images), labels)
        accelerator.backward(loss)
        state.optimizer.step()
        state.optimizer.zero_grad()
        total += loss.detach()
        if args.print_freq and step % args.print_freq == 0:
            accelerator.print(f"epoch {state.epoch + 1}, step {step} of {len(stream)}: loss {total.item() / step:.4f}")
        asked = time.perf_counter()
    losses = accelerator.gather(total.unsqueeze(0))
    check_finite(losses, backbone.model, state.epoch + 1)
    seconds = time.perf_counter() - began
    clips = len(stream) * args.batch_size * accelerator.num_processes
    return {
        "train_loss": losses.mean().item() / len(stream),
        "clips_per_s": round(clips / seconds, 2),
        "data_wait": round(waited / seconds, 4),
    }


def check_finite(losses: Tensor, model: nn.Module, epoch: int) -> None:
    """Raise `Failed` if the losses or the weights of an epoch are not finite; the epoch is not saved."""
    lost = not bool(losses.isfinite().all())
    if lost or not all(bool(weights.isfinite().all()) for weights in model.state_dict().values()):
        raise Failed(
            f"epoch {epoch}: {'the loss is' if lost else 'weights are'} not finite; give a lower --lr and --resume, or "
            "other initial weights; the checkpoints are of earlier epochs"
        )


def eval_epoch(state: Training, clips: Clips, args: argparse.Namespace) -> dict[str, float]:
    """Evaluate on the test or validation list, for the curves; it selects a checkpoint only with ``--select``."""
    scores = evaluate(
        state.backbone,
        clips,
        state.accelerator,
        segments=args.val_segments,
        input_size=args.input_size,
        batch_size=args.batch_size,
        threads=args.workers,
        maps=state.eval_maps,
    )
    figures = {"loss": scores.loss, "top1": scores.top(1), "top5": scores.top(5)}
    return {f"{clips.part}_{name}": value for name, value in figures.items()}


def with_bar(items: Iterable[Any], total: int, what: str, accelerator: Accelerator) -> Iterable[Any]:
    """Iterate with a progress bar if stderr is a terminal."""
    bar = accelerator.is_main_process and sys.stderr.isatty()
    return track(items, what, total=total, transient=True) if bar else items


def record(state: Training, args: argparse.Namespace, settings: dict[str, Any], board: SummaryWriter | None) -> None:
    """Write the checkpoint, metrics.csv and TensorBoard events of this epoch; print its metrics."""
    accelerator, row, output = state.accelerator, state.history[-1], Path(args.output_dir)
    states = gather_object([random_states()])
    if board is None:
        return
    content = {
        "mocrop_checkpoint": VERSION,
        "model": accelerator.unwrap_model(state.backbone.model).state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "schedule": state.schedule.state_dict(),
        "epoch": state.epoch,
        "random_states": states,
        "args": settings,
        "history": state.history,
    }
    replaced(output / "metrics.csv", lambda part: write_csv(part, state.history))
    if state.epoch == args.epochs if args.select == "last" else best_epoch(state.history, args.select) == state.epoch:
        save_model(output, content)
    for name, value in row.items():
        board.add_scalar(name, value, row["epoch"])
    board.flush()
    save(output / "last.pt", content)  # written last, so that no file lacks an epoch that last.pt has
    figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    accelerator.print(f"epoch {row['epoch']} of {args.epochs}: {figures}")


def check_what_is_left(state: Training, args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Raise `Refused` if ``--epochs`` is below the number of finished epochs, or if the best one is missing.

    If it equals that number, the last epoch is saved as ``model.pt`` unless it already is.
    """
    output = Path(args.output_dir)
    model = output / "model.pt"
    if args.epochs < state.epoch:
        raise Refused(
            f"--epochs {args.epochs}: {state.epoch} epochs are done; give --epochs {state.epoch} to save the last "
            "one as model.pt, or more to continue"
        )
    if args.select != "last":
        best = best_epoch(state.history, args.select)
        if best and not model.is_file():
            raise Refused(
                f"--output-dir {args.output_dir!r}: the best epoch so far, {best}, is missing; copy model.pt from "
                "the folder where the training started"
            )
    elif args.epochs == state.epoch and state.accelerator.is_main_process:
        if model.is_file() and read_file(model, "--output-dir").get("epoch") == state.epoch:
            return
        weights = state.accelerator.unwrap_model(state.backbone.model).state_dict()
        save_model(output, {"mocrop_checkpoint": VERSION, "model": weights, "epoch": state.epoch, "args": settings})


def restore(state: Training, path: Path, settings: dict[str, Any]) -> None:
    """Restore the state of a checkpoint; `Refused` if its training was started with other arguments."""
    found, where = read_file(path, "--resume"), f"--resume {shown(str(path))!r}"
    if not {"mocrop_checkpoint", "optimizer", "random_states"} <= found.keys():
        raise Refused(f"{where}: no training to resume; give --init-weights to start from weights alone")
    trained = arguments_of(found, where)
    check_same(trained, settings)
    check_state(found, state.optimizer, state.schedule.state_dict(), where)
    settings["init_weights"] = trained.get("init_weights")
    load_strictly(state.accelerator.unwrap_model(state.backbone.model), state_of(found), where)
    state.optimizer.load_state_dict(found["optimizer"])
    state.schedule.load_state_dict(found["schedule"])
    state.epoch, state.history = found["epoch"], found["history"]
    set_random_states(found["random_states"][state.accelerator.process_index])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    return exit_status(lambda: train(parse(parser(), argv)))


if __name__ == "__main__":
    faulthandler.enable()  # shows where, if a mapped shard is truncated
    sys.exit(main())
