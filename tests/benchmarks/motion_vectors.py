"""The motion stage's reading of vectors against its peers, on one core, with the same vectors out of both.

The peer with vectors is motion-vector-extractor (PyPI), told not to decode frames; the bound is PyAV decoding the same
files and doing nothing with the frames. Frames are compared with OpenCV's seeks, as the public MoCrop code reads them:
open, seek, read, close for each frame; and with the kinder way, one open for all of them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import cv2
import numpy as np
import numpy.typing as npt
from mvextractor.videocap import VideoCap

from data_specs.recipes import load_recipe
from mocrop_core.density import density_map
from mocrop_core.frames import sample_segments_test, spread
from mocrop_core.vectors import filter_by_magnitude, in_pixels
from pipelines.media import decoder
from pipelines.media.video_facts import Motion
from pipelines.runs.opening import open_run
from pipelines.runs.options import Options
from pipelines.stages.shard_task import process_shard
from tests.benchmarks.footage import encoded, many, real_clips
from tests.benchmarks.measuring import REPETITIONS, Result, interleaved, least, ratios, spent_here

FRAMES, GRID, THRESHOLD = 8, (6, 8), 1.0
UCF_SHARD = 64  # clips a shard of the whole data set
# motion-vector-extractor's columns: source, w, h, src_x, src_y, dst_x, dst_y, motion_x, motion_y, motion_scale
PEERS_COLUMNS = {"w": 1, "h": 2, "x": 5, "y": 6, "motion_x": 7, "motion_y": 8}
SCALE = 9

Pictures = list[npt.NDArray[np.uint8]]


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on the last of its cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def ours(path: Path) -> tuple[npt.NDArray[Any], Motion]:
    """The vectors as the motion stage gets them."""
    blocks: list[npt.NDArray[Any]] = []
    motion = decoder.extract(path, blocks.append)
    return np.concatenate(blocks), motion


def peers(path: Path) -> list[npt.NDArray[Any]]:
    """The vectors of each frame by motion-vector-extractor, without frames."""
    capture = VideoCap()
    assert capture.open(str(path))
    capture.set_decode_frames(False)
    found: list[Any] = []
    while True:
        there, _, vectors, _ = capture.read()
        if not there:
            capture.release()
            return found
        found.append(vectors)


def decoded(path: Path, **options: str) -> int:
    """PyAV's decoding alone, in one thread."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = options
        return sum(1 for _ in container.decode(stream))


def assert_same_vectors(path: Path) -> int:
    """See that both give the same vectors of a clip, and how many."""
    own, motion = ours(path)
    rows = [np.insert(vectors.reshape(-1, 10), 0, frame, axis=1) for frame, vectors in enumerate(peers(path))]
    assert len(rows) == motion.num_frames
    theirs = np.concatenate(rows)
    assert (theirs[:, 1 + SCALE] == motion.motion_scale).all()
    assert np.array_equal(own["frame"], theirs[:, 0])
    for name, column in PEERS_COLUMNS.items():
        assert np.array_equal(own[name], theirs[:, 1 + column])
    return len(own)


def ours_whole(path: Path, choose: Callable[[Motion], list[int]]) -> tuple[npt.NDArray[Any], Pictures]:
    """Density map and frames by this project."""
    packed, motion = ours(path)
    vectors = in_pixels(packed, motion.motion_scale)
    density = density_map(filter_by_magnitude(vectors, THRESHOLD), motion.frame_size, GRID)
    return density, [picture for _, picture in decoder.rgb_frames(path, choose(motion), motion.key_frames)]


def peers_whole(path: Path, frames: list[int], read: Callable[[Path, Iterable[int]], Pictures]) -> npt.NDArray[Any]:
    """Density map and frames by motion-vector-extractor, numpy and OpenCV."""
    pictures = read(path, frames)
    height, width = pictures[0].shape[:2]
    rows = np.concatenate(peers(path))
    motion = rows[:, 7:9] / rows[:, 9:10]
    fast = rows[np.hypot(motion[:, 0], motion[:, 1]) > THRESHOLD]
    row = np.clip(fast[:, 6], 0, height - 1) * GRID[0] // height
    column = np.clip(fast[:, 5], 0, width - 1) * GRID[1] // width
    return np.bincount(row * GRID[1] + column, minlength=GRID[0] * GRID[1]).reshape(GRID)


def opened_each_time(path: Path, frames: Iterable[int]) -> Pictures:
    """The frames as the public MoCrop code reads them: open, seek, read, close for each."""
    return [picture for frame in frames for picture in opened_once(path, [frame])]


def opened_once(path: Path, frames: Iterable[int]) -> Pictures:
    """The frames by one open, then seek and read for each."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    pictures: list[Any] = []
    for frame in frames:
        capture.set(cv2.CAP_PROP_POS_FRAMES, frame)
        there, picture = capture.read()
        assert there
        pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    capture.release()
    return pictures


def key_frames(motion: Motion) -> list[int]:
    """Up to eight of a clip's key frames, evenly spread: what a store keeps."""
    return [motion.key_frames[i] for i in spread(len(motion.key_frames), FRAMES)]


def segment_centres(motion: Motion) -> list[int]:
    """The centres of eight segments: what the public code tests on."""
    return list(sample_segments_test(motion.num_frames, FRAMES).tolist())


def assert_same_whole(path: Path, choose: Callable[[Motion], list[int]]) -> None:
    """See that both give the same density and, but for the rounding of colours, the same frames."""
    density, pictures = ours_whole(path, choose)
    frames = choose(ours(path)[1])
    assert np.array_equal(density, peers_whole(path, frames, opened_once))
    for picture, once, each_time in zip(
        pictures, opened_once(path, frames), opened_each_time(path, frames), strict=True
    ):
        assert np.array_equal(once, each_time)
        assert np.abs(picture.astype(int) - once).mean() < 3


def run(quick: bool = False) -> list[Result]:
    """Vectors alone; then vectors, density and eight frames of a clip."""
    cv2.setNumThreads(1)
    repetitions = 2 if quick else 2 * REPETITIONS + 1
    with tempfile.TemporaryDirectory() as folder, one_core():
        videos = encoded(real_clips()[: 2 if quick else None], Path(folder))
        vectors = sum(map(assert_same_vectors, videos))
        results = _vectors(videos, repetitions, vectors) + _whole(videos, repetitions)
    with tempfile.TemporaryDirectory() as folder, one_core():
        return results + _texture(Path(folder), 2 if quick else None, repetitions if quick else 3 * repetitions)


def _all(work: Callable[[Path], object], videos: list[Path]) -> Callable[[], float]:
    def over() -> None:
        for path in videos:
            work(path)

    return lambda: spent_here(over) / len(videos)


def _milliseconds(samples: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}_ms": round(float(np.median(values)) * 1e3, 2) for name, values in samples.items()}


def _vectors(videos: list[Path], repetitions: int, vectors: int) -> list[Result]:
    arms = {
        "ours": _all(ours, videos),
        "peer": _all(peers, videos),
        "pyav": _all(decoded, videos),
        "pyav_unfiltered": _all(lambda path: decoded(path, skip_loop_filter="all"), videos),
    }
    samples = interleaved(arms, repetitions)
    own = samples["ours"]
    details = {"clips": len(videos), "vectors": vectors, **_milliseconds(samples)}
    same = f"the same {vectors:,} vectors from both"
    return [
        Result("vectors, motion stage", "clips/s", tuple(1 / value for value in own), None, "one core", details),
        Result(
            "vectors, against motion-vector-extractor without frames", "times",
            ratios(samples["peer"], own), least(1.0), same,
        ),
        Result(
            "vectors, against PyAV decoding alone", "times", ratios(samples["pyav"], own), least(0.9),
            "PyAV as it is: with the loop filter",
        ),
        Result(
            "vectors, against PyAV decoding alone without the loop filter", "times",
            ratios(samples["pyav_unfiltered"], own), None, "what the vectors themselves cost",
        ),
    ]  # fmt: skip


def _texture(folder: Path, clips: int | None, repetitions: int) -> list[Result]:
    """The motion stage, which also stores the key frames' texture, against the same stage without any key frames."""
    sources = real_clips()[:clips]
    recipe = load_recipe("ucf101").model_copy(update={"shard_clips": UCF_SHARD})
    options = Options(str(many(sources, len(sources), folder / "source")), str(folder / "clips.zarr"), recipe=recipe)
    extract = decoder.extract

    def without(*args: Any, on_key_frames: object, **named: Any) -> Motion:
        return extract(*args, **named)

    with open_run(options) as run:
        for plan in run.pending("transcode"):
            process_shard(plan, run.recipe)
        plans = list(run.pending("motion"))

        def stage(reads: Callable[..., Motion]) -> float:
            with patch.object(decoder, "extract", reads):
                return spent_here(lambda: [process_shard(plan, run.recipe) for plan in plans]) / len(sources)

        samples = interleaved({"with": lambda: stage(extract), "without": lambda: stage(without)}, repetitions)
    return [
        Result(
            "motion stage with texture, its speed against that without", "times",
            ratios(samples["without"], samples["with"]), least(0.95), "vectors and texture read and stored",
            _milliseconds(samples),
        )
    ]  # fmt: skip


def _whole(videos: list[Path], repetitions: int) -> list[Result]:
    results = []
    for what, choose, target in (
        ("8 key frames", key_frames, least(2.0)),
        ("8 segment centres", segment_centres, None),
    ):
        for path in videos:
            assert_same_whole(path, choose)
        frames = {path: choose(ours(path)[1]) for path in videos}
        arms = {"ours": _all(lambda path, choose=choose: ours_whole(path, choose), videos)}
        for name, read in (("each", opened_each_time), ("once", opened_once)):
            arms[name] = _all(lambda path, frames=frames, read=read: peers_whole(path, frames[path], read), videos)
        samples = interleaved(arms, repetitions)
        milliseconds = _milliseconds(samples)
        for name, way, remark in (
            ("each", "an open for each", "OpenCV as the public code uses it"),
            ("once", "one open", "OpenCV at its kindest"),
        ):
            results.append(
                Result(
                    f"vectors, density, {what}, against motion-vector-extractor and OpenCV, {way}", "times",
                    ratios(samples[name], samples["ours"]), target if name == "each" else None, remark, milliseconds,
                )
            )  # fmt: skip
    return results
