"""What x264's preset changes: `python -m tests.benchmarks.encoder_presets`.

Clips are transcoded as the stage does it, with each of some settings: CPU time of the stage, bytes of the H.264 file,
PSNR of its key frames (those that a store caches) against the source's, and how much of the annotated actors the boxes
of the method `actor` keep. docs/reference/boxes.md is made from the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_specs.annotation_files import read_annotations
from data_specs.annotations import Annotation, actor_boxes
from mocrop_core import ACTOR
from mocrop_core.coverage import shares_kept
from pipelines.media import decoder
from pipelines.media.encoder import EncodeSettings, transcode
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.one_video.boxes import choose
from pipelines.one_video.motion import Scan, scanned
from tests.benchmarks.box_coverage import AREAS, SETS
from tests.benchmarks.measuring import interleaved, machine, spent
from tests.places import DATA

RESULT = Path(__file__).parent / "results" / "encoder_presets.json"
SETTINGS = {
    "medium, CRF 23": EncodeSettings(preset="medium", crf=23),
    "veryfast, CRF 23": EncodeSettings(preset="veryfast", crf=23),
    "veryfast, CRF 21": EncodeSettings(preset="veryfast", crf=21),
}
NAMES = ("UCF-101", "DAVIS")
REPETITIONS = 1  # of an encoding; the least CPU time counts


@dataclass(frozen=True, slots=True)
class Encoded:
    """What came of a clip: CPU seconds, bytes, PSNR (dB), frames, and the shares of the actor kept, by area."""

    cpu_s: float
    bytes: int
    psnr: float
    frames: int
    kept: list[float] | None


def encoded(source: Path, actors: Annotation | None) -> dict[str, Encoded]:
    """What comes of a clip with each of the settings."""
    ffmpeg = find_ffmpeg()
    with tempfile.TemporaryDirectory() as folder:
        targets = {name: Path(folder, f"{number}.mp4") for number, name in enumerate(SETTINGS)}

        def transcoding(name: str) -> float:
            return spent(lambda: transcode(str(source), str(targets[name]), SETTINGS[name], ffmpeg, 600.0))

        seconds = interleaved({name: partial(transcoding, name) for name in SETTINGS}, REPETITIONS)
        return {name: _measured(source, target, min(seconds[name]), actors) for name, target in targets.items()}


def _measured(source: Path, target: Path, seconds: float, actors: Annotation | None) -> Encoded:
    with scanned(target) as scan:
        boxes = None if actors is None else kept(scan, actors)
        psnr = key_frame_psnr(source, target, scan.keys.frames)
        return Encoded(seconds, target.stat().st_size, psnr, scan.motion.num_frames, boxes)


def kept(scan: Scan, actors: Annotation) -> list[float]:
    """The mean share of the actor in the box of each area."""
    boxes = [choose(scan, replace(ACTOR, crop_ratio=area / 100)).box.corners for area in AREAS]
    known = actor_boxes(actors, scan.motion.num_frames, scan.motion.frame_size)
    means: list[float] = shares_kept(known.box, np.array(boxes, float)).mean(axis=1).tolist()
    return means


def key_frame_psnr(source: Path, target: Path, keys: Sequence[int]) -> float:
    """The peak signal-to-noise ratio of a file's key frames in RGB against the same frames of its source, mean, dB."""
    found = []
    pairs = zip(decoder.rgb_frames(source, keys), decoder.rgb_frames(target, keys, keys), strict=True)
    for (_, original), (_, coded) in pairs:
        height, width = coded.shape[:2]
        error = float(((coded.astype(np.float32) - original[:height, :width]) ** 2).mean())
        found.append(10 * np.log10(255**2 / error))
    return float(np.mean(found))


def measure(name: str, limit: int | None = None) -> dict[str, Any]:
    """What each of the settings gives on the clips of a set."""
    clips = SETS[name]
    known = read_annotations(DATA / clips.annotations)
    sources = sorted((DATA / clips.source).glob("*/*.avi"))[:limit]
    found = [encoded(source, known.get(f"{source.parent.name}/{source.stem}")) for source in sources]
    first = [one[next(iter(SETTINGS))] for one in found]
    return {
        "clips": len(sources),
        "annotated": sum(one.kept is not None for one in first),
        "frames": sum(one.frames for one in first),
        "settings": {name: _of_setting([one[name] for one in found], first) for name in SETTINGS},
    }


def _of_setting(clips: list[Encoded], first: list[Encoded]) -> dict[str, Any]:
    """The means over clips, and by clip the ratios to the first of the settings."""
    frames = sum(one.frames for one in clips)
    shares = [one.kept for one in clips if one.kept is not None]
    return {
        "cpu_ms_a_frame": round(1000 * sum(one.cpu_s for one in clips) / frames, 3),
        "bytes_a_frame": round(sum(one.bytes for one in clips) / frames),
        "psnr_db": round(statistics.fmean(one.psnr for one in clips), 3),
        "kept": np.mean(shares, axis=0).round(6).tolist() if shares else None,
        "cpu_ratio": _spread([a.cpu_s / b.cpu_s for a, b in zip(clips, first, strict=True)]),
        "bytes_ratio": _spread([a.bytes / b.bytes for a, b in zip(clips, first, strict=True)]),
        "psnr_difference": _spread([a.psnr - b.psnr for a, b in zip(clips, first, strict=True)]),
    }


def _spread(values: list[float]) -> list[float]:
    """Median, lowest and highest."""
    return [round(value, 4) for value in (statistics.median(values), min(values), max(values))]


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.encoder_presets")
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON file to write")
    parser.add_argument("--only", action="append", choices=NAMES, help="this set; may be given again")
    parser.add_argument("--limit", type=int, help="so many clips of a set")
    given = parser.parse_args(words)
    before = machine()
    record = {
        "command": "python -m tests.benchmarks.encoder_presets",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": before,
        "areas": list(AREAS),
        "sets": {name: measure(name, given.limit) for name in given.only or NAMES},
    }
    given.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
