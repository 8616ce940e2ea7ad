"""What the benchmarks measure on: the real clips, under as many names as rows are wanted, and a long video of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipelines.media import encoder, ffmpeg_binary
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.shard_task import process_shard
from pipelines.stages.tasks import STAGES
from tests.places import DATA

SMALL_FRAMES = 24


def real_clips() -> list[Path]:
    """The real clips; an error that says where they are looked for if there are none."""
    found = sorted((DATA / "UCF-101").glob("*/*.avi"))
    if not found:
        raise FileNotFoundError(f"no clips under {DATA / 'UCF-101'}; set MOCROP_TEST_DATA")
    return found


def many(clips: Sequence[Path], rows: int, folder: Path) -> Path:
    """A data set of ``rows`` clips in ``folder``: the same few under other names, as hard links where that can be."""
    for row in range(rows):
        turn, clip = row // len(clips), clips[row % len(clips)]
        target = folder / clip.parent.name / f"{clip.stem}_r{turn:04d}{clip.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(clip, target)
        except OSError:
            shutil.copyfile(clip, target)
    return folder


def encoded(clips: Sequence[Path], folder: Path, preset: str = "medium") -> list[Path]:
    """The clips as the transcode stage makes them."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / f"{clip.stem}.mp4" for clip in clips]
    for clip, target in zip(clips, targets, strict=True):
        settings = encoder.EncodeSettings(preset=preset)
        encoder.transcode(str(clip), str(target), settings, ffmpeg_binary.find_ffmpeg(), 600.0)
    return targets


def small(clips: Sequence[Path], folder: Path) -> list[Path]:
    """The first second of each clip at 96 × 72 px, in H.264 with motion vectors: little to do for each row."""
    targets = [folder / clip.parent.name / f"{clip.stem}.mp4" for clip in clips]
    for clip, target in zip(clips, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        _ffmpeg("-i", clip, "-frames:v", SMALL_FRAMES, "-vf", "scale=96:72", "-an", "-c:v", "libx264", "-g", 12,
                "-bf", 0, "-refs", 1, "-pix_fmt", "yuv420p", "-threads", 1, target)  # fmt: skip
    return targets


def long_video(clips: Sequence[Path], minutes: float, folder: Path) -> Path:
    """One video of that length, the clips one after the other again and again: 320 × 240 px, 25 frames/s, GOP 12."""
    parts = encoded(clips, folder / "parts", "veryfast")
    once, listed = folder / "once.mp4", folder / "parts.txt"
    listed.write_text("".join(f"file '{part.resolve()}'\n" for part in parts))
    _ffmpeg("-f", "concat", "-safe", 0, "-i", listed, "-vf", "scale=320:240", "-r", 25, "-c:v", "libx264",
            "-preset", "veryfast", "-g", 12, "-bf", 0, "-refs", 1, "-sc_threshold", 0, once)  # fmt: skip
    target = folder / "video" / "Long" / "v_Long_g01_c01.mp4"
    target.parent.mkdir(parents=True)
    _ffmpeg("-stream_loop", -1, "-i", once, "-t", minutes * 60, "-c", "copy", target)
    return target


def _ffmpeg(*words: object) -> None:
    command = [ffmpeg_binary.find_ffmpeg().path, "-v", "error", "-nostdin", "-y", *map(str, words)]
    subprocess.run(command, check=True, capture_output=True)


def run_alone(options: Options) -> None:
    """Do a run in this process, without Prefect and Dask."""
    with open_run(options) as run:
        for stage in STAGES:
            for plan in run.pending(stage):
                process_shard(plan, run.recipe)
