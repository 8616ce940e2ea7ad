"""Evaluation of a network on a list of clips: accuracy, loss and confusion matrix."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object

from data_specs.text import csv_cell, printable
from training.backbones import Backbone, clip_logits
from training.checkpoints import replaced
from training.clips import Clips
from training.motion import FlowMaps
from training.options import Failed
from training.stream import Batch, ClipStream, batches_of_test, plan_of_test

MOST_COUNTED, MOST_DRAWN = 4096, 700  # classes: a matrix of 130 MB, a picture of 12,000 px
Track = Callable[[Iterable[Batch], int], Iterable[Batch]]


@dataclass(frozen=True, slots=True, eq=False)
class EvalResult:
    """Predictions for n clips.

    ``logits`` is float32 (n, classes); ``labels`` and ``predicted`` are int64 (n,); ``ranks`` int64 (n,): the number of
    classes with a higher logit than the correct one, so 0 is a hit; ``loss`` is the mean cross-entropy, nats; ``ids``
    has the clips.
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]
    loss: float
    class_names: tuple[str, ...]
    ids: tuple[str, ...] = ()

    def top(self, k: int) -> float:
        """Return the top-k accuracy in %: the share of clips whose class is among the k highest logits."""
        return 100.0 * float((self.ranks < k).mean())

    def per_class(self) -> dict[str, dict[str, Any]]:
        """Return the number of clips and the top-1 accuracy in % of each class that has clips."""
        hits = self.predicted == self.labels
        return {
            name: {"clips": int(mine.sum()), "top1": round(100.0 * float(hits[mine].mean()), 4)}
            for label, name in enumerate(self.class_names)
            if (mine := self.labels == label).any()
        }

    def confusion(self) -> npt.NDArray[np.int64]:
        """Return the confusion matrix: clips of each class (row) by predicted class (column)."""
        counts = np.zeros((len(self.class_names),) * 2, np.int64)
        np.add.at(counts, (self.labels, self.predicted), 1)
        return counts


def scores_of(
    logits: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    class_names: tuple[str, ...],
    ids: tuple[str, ...] = (),
) -> EvalResult:
    """Score logits (n, classes). Of equal logits, the lower label ranks first."""
    order = np.argsort(-logits, axis=1, kind="stable")
    ranks = (order == labels[:, None]).argmax(axis=1)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    return EvalResult(logits, labels, order[:, 0], ranks, float(loss), class_names, ids)


@torch.inference_mode()
def evaluate(
    backbone: Backbone,
    clips: Clips,
    accelerator: Accelerator,
    *,
    segments: int,
    input_size: int,
    batch_size: int,
    threads: int | None,
    maps: FlowMaps | None = None,
    track: Track = lambda batches, _: batches,
) -> EvalResult:
    """Evaluate every clip of the list once, averaging the logits of its frames, or of its flow ``maps``.

    Each rank evaluates every world_size-th clip on the unwrapped model, so the list needs no padding and the result
    does not depend on the number of processes. Nothing is random. `Failed` names a clip whose logits are not finite:
    the weights are damaged, or too large for the precision.
    """
    model = accelerator.unwrap_model(backbone.model)
    was_training = model.training
    model.eval()
    for buffer in model.buffers():  # running means, which differ between processes
        broadcast(buffer)
    stream = ClipStream(clips, maps=maps, threads=threads, pin=accelerator.device.type == "cuda")
    stream.plan = plan_of_test(clips, segments)
    stream.batches = batches_of_test(
        stream.plan.order, batch_size, accelerator.process_index, accelerator.num_processes
    )
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]] = []
    for batch in track(stream, len(stream)):
        batch = batch.to(accelerator.device)
        images = backbone.input(batch.frames, None, input_size)
        with accelerator.autocast():
            logits = clip_logits(model, images)
        found.append((batch.positions, logits.float().cpu().numpy()))
    model.train(was_training)
    everywhere = gather_object(found)
    positions = np.concatenate([mine for mine, _ in everywhere])
    logits_of = np.concatenate([mine for _, mine in everywhere])[np.argsort(positions)]
    finite = np.isfinite(logits_of).all(axis=1)
    if not finite.all():
        raise Failed(
            f"the logits of {int((~finite).sum())} of {len(finite)} clips are not finite "
            f"({clips.ids[finite.argmin()]!r} first): these weights give no result"
        )
    return scores_of(logits_of, clips.labels, clips.class_names, clips.ids)


def write_confusion(path: Path, scores: EvalResult, title: str) -> None:
    """Write the confusion matrix as ``path``.csv, and as ``path``.png for at most ``MOST_DRAWN`` classes.

    Nothing is written for more than ``MOST_COUNTED`` classes.
    """
    if len(scores.class_names) > MOST_COUNTED:
        return
    counts = scores.confusion()
    replaced(path.with_name(f"{path.name}.csv"), lambda part: _write_csv(part, counts, scores.class_names))
    if len(scores.class_names) <= MOST_DRAWN:
        replaced(path.with_name(f"{path.name}.png"), lambda part: _draw(part, counts, scores.class_names, title))


def _write_csv(path: Path, counts: npt.NDArray[np.int64], names: tuple[str, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class \\ predicted", *map(csv_cell, names)])
        writer.writerows([csv_cell(name), *row] for name, row in zip(names, counts.tolist(), strict=True))


def _draw(path: Path, counts: npt.NDArray[np.int64], names: tuple[str, ...], title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side, margin = 1 + 0.14 * len(names), 1.6  # inches
    width, height = side + margin + 0.8, side + margin + 0.4
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    plain = [printable(name) for name in names]
    axes.set_xticks(range(len(names)), plain, rotation=90, fontsize=6, parse_math=False)
    axes.set_yticks(range(len(names)), plain, fontsize=6, parse_math=False)
    axes.set(xlabel="predicted class", ylabel="class")
    axes.set_title(printable(title), parse_math=False)
    bar = figure.add_axes(((margin + side + 0.1) / width, margin / height, 0.1 / width, side / height))
    figure.colorbar(image, cax=bar, label="share of the class's clips")
    FigureCanvasAgg(figure).print_figure(path, format="png", dpi=120)
