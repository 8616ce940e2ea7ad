"""The boxes of the method `actor` on real clips: against those of another implementation, and what finding them costs.

`expected_boxes.json` was made from METHOD.md by somebody else, on H.264 files of the default encode; black bars, which
it does not know, are not looked for. The cost is that of the map and the box, in units of decoding the same file for
its motion vectors.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from data_specs.annotation_files import read_annotations
from data_specs.annotations import actor_boxes
from mocrop_core import ACTOR, Box, KeyFrames, choose_actor_box, in_pixels, key_frame_textures
from mocrop_core.coverage import shares_kept
from pipelines.media import decoder
from tests.benchmarks.compiled_loop import compared, inputs
from tests.benchmarks.footage import encoded
from tests.benchmarks.measuring import REPETITIONS, Result, interleaved, least, most, ratios, spent_here
from tests.places import DATA

EXPECTED_CENTRE = (0.5, 0.25)
"""The centre prior of the expected boxes; the shipped one is wider: docs/method.md."""
FOLDERS = {"ucf-101": "UCF-101", "weizmann": "weizmann", "davis": "davis"}
ANNOTATIONS = {"ucf-101": "ucf101_24.json", "weizmann": "weizmann.json", "davis": "davis.json"}
LINES = {"ucf-101": "320 × 240", "davis": "854 × 480"}  # of the sets whose cost is measured
COST = 0.5
KEPT, OVERLAP = 0.005, 0.98


@dataclass(frozen=True)
class Clip:
    """What the method takes of a clip, and the file it comes from."""

    id: str
    path: Path
    vectors: npt.NDArray[Any]
    num_frames: int
    keys: KeyFrames
    frame_size: tuple[int, int]

    def box(self, area: float) -> Box:
        """The box of that share of the frame."""
        method = replace(ACTOR, crop_ratio=area, centre=EXPECTED_CENTRE)
        return choose_actor_box([self.vectors], self.num_frames, self.keys, self.frame_size, method).box


def expected() -> dict[str, Any]:
    """The file of expected boxes."""
    found: dict[str, Any] = json.loads((DATA / "expected_boxes.json").read_text())
    return found


def clips_of(name: str, ids: list[str], folder: Path) -> list[Clip]:
    """Clips of a set, transcoded into a folder as the stage does it, and read."""
    sources = [DATA / FOLDERS[name] / f"{id}.avi" for id in ids]
    return [read(id, path) for id, path in zip(ids, encoded(sources, folder), strict=True)]


def read(id: str, path: Path) -> Clip:
    """The vectors and key frames of an H.264 file."""
    blocks: list[npt.NDArray[Any]] = []
    motion = decoder.extract(path, blocks.append)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONKEY"
        pictures = [frame.to_ndarray()[: frame.height].astype(np.uint8) for frame in container.decode(stream)]
    keys = KeyFrames(motion.key_frames, key_frame_textures(np.stack(pictures)))
    vectors = in_pixels(np.concatenate(blocks), motion.motion_scale)
    return Clip(id, path, vectors, motion.num_frames, keys, motion.frame_size)


def overlap(one: Box, other: Box) -> float:
    """The area of two boxes' intersection, as a share of their union's."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    common = max(width, 0) * max(height, 0)
    return common / (one.area + other.area - common)


def agreement(name: str, clips: list[Clip]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """What is kept of the actors, and the overlap with the expected boxes: (clips, areas) each."""
    known, annotations = expected(), read_annotations(DATA / "annotations" / ANNOTATIONS[name])
    kept, overlaps = [], []
    for clip in clips:
        actors = actor_boxes(annotations[clip.id], clip.num_frames, clip.frame_size)
        boxes = [clip.box(area) for area in known["areas"]]
        wanted = known["boxes"][name][clip.id]["boxes"].values()
        kept.append(shares_kept(actors.box, np.array([box.corners for box in boxes])).mean(axis=1))
        overlaps.append([overlap(box, Box(*corners)) for box, corners in zip(boxes, wanted, strict=True)])
    return np.array(kept), np.array(overlaps)


def run(quick: bool = False) -> list[Result]:
    """Each set's boxes beside the expected ones, and the cost of finding them at two frame sizes."""
    known, results = expected(), []
    for name in FOLDERS:
        ids = list(known["boxes"][name])[: 1 if quick else None]
        if quick and name == "davis":
            continue  # its frames take seconds to encode
        with tempfile.TemporaryDirectory() as folder:
            clips = clips_of(name, ids, Path(folder))
            kept, overlaps = agreement(name, clips)
            results += _agreement(name, kept, overlaps, None if quick else known["kept_mean"][name]["actor"])
            if name in LINES:
                results.append(_cost(name, clips, 2 if quick else REPETITIONS))
            if name == "ucf-101":
                first = clips[0]
                arrays = inputs(first.vectors, first.num_frames, first.keys, first.frame_size)
                results += compared(arrays, 2 if quick else REPETITIONS)
    return results


def _agreement(
    name: str, kept: npt.NDArray[Any], overlaps: npt.NDArray[Any], means: list[float] | None
) -> list[Result]:
    """A line for the boxes; for whole sets, of which the mean is known, one for what is kept of the actors."""
    details = {"clips": len(kept), "kept": [round(float(value), 4) for value in kept.mean(axis=0)]}
    line = f"{name}: median overlap with the expected boxes"
    results = [Result(line, "IoU", (float(np.median(overlaps)),), least(OVERLAP), details=details)]
    if means is not None:
        off = float(np.abs(kept.mean(axis=0) - means).max())
        line = f"{name}: share of the actor kept, furthest from the expected mean of any area"
        results.append(Result(line, "share", (off,), most(KEPT), details={**details, "expected": means}))
    return results


def _cost(name: str, clips: list[Clip], repetitions: int) -> Result:
    """The map and the box of clips, in units of decoding them for their vectors."""

    def each(work: Callable[[Clip], object]) -> Callable[[], float]:
        def all_of_them() -> None:
            for clip in clips:
                work(clip)

        return lambda: spent_here(all_of_them)

    arms = {
        "box": each(lambda clip: clip.box(0.5)),
        "decode": each(lambda clip: decoder.extract(clip.path, lambda block: None)),
    }
    samples = interleaved(arms, repetitions)
    frames = sum(clip.num_frames for clip in clips)
    micro = {arm: round(float(np.median(values)) / frames * 1e6) for arm, values in samples.items()}
    line = f"actor at {LINES[name]}: map and box, of decoding for vectors"
    return Result(line, "times", ratios(samples["box"], samples["decode"]), most(COST), details=micro)
