"""`mocrop preprocess` as a user runs it, Prefect, Dask, Zarr and all, against the bare parts of the same work.

The bare parts are ffmpeg's own transcode with the same settings, PyAV's decoding with vectors and of the key frames,
Pillow's resize and the codecs' compression, over the same clips in as many processes as the flow has workers, without
what Python takes to start. Both are counted in CPU seconds, with all child processes.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from PIL import Image

from data_specs.recipes import Encode, Recipe, load_recipe
from data_specs.stored import open_store
from mocrop_core.frames import spread
from pipelines.media import decoder
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.runs.options import Options
from tests.benchmarks.footage import many, real_clips, run_alone
from tests.benchmarks.measuring import (
    REPETITIONS,
    Result,
    Usage,
    answer,
    called,
    cpu_seconds,
    interleaved,
    least,
    most,
    ratios,
    run_command,
)

ROWS, WORKERS = 400, 2  # so many that the flow's start is some 5 % of the work, and five repetitions take 15 minutes
UCF_CLIPS = 13_320
VIEW_GAIN = 8.0
NEW_VIEW = '\n[[views]]\nname = "half"\nkind = "motion"\npreset = "paper-v1"\ngrid = [6, 8]\ncrop_ratio = 0.5\n'

_MOTION_VECTOR = np.dtype(
    "<i4,u1,u1,<i2,<i2,<i2,<i2,<u2,<u8,<i4,<i4,<u2,<u2,<u4"  # libavutil/motion_vector.h with its padding
).newbyteorder("<")
_COLUMNS = {"x": "f5", "y": "f6", "w": "f1", "h": "f2", "dx": "f9", "dy": "f10"}


def bare_parts(clips: list[str], folder: str, views: dict[str, list[list[int]]], recipe: str) -> dict[str, float]:
    """Do the bare work of these clips, and say what CPU time each part took.

    ``views`` has the boxes of each clip, by its path: one crop a box is made of each frame. Files go into ``folder``.
    """
    settings = load_recipe(recipe)
    spent = dict.fromkeys(("transcode", "vectors", "key frames", "resize", "compress"), 0.0)
    for number, clip in enumerate(clips):
        target = Path(folder, f"{number}.mp4")
        began = cpu_seconds()
        transcode(clip, target, settings)
        spent["transcode"] += cpu_seconds() - began
        clock = _Clock(spent)
        frames, keys, vectors = with_vectors(target)
        clock.to("vectors")
        pictures = key_pictures(target, [keys[i] for i in spread(len(keys), settings.frames.slots)], keys)
        clock.to("key frames")
        crops = [resized(picture, box, settings.frames.size) for box in views[clip] for picture in pictures]
        clock.to("resize")
        compressed(crops, frames, vectors)
        clock.to("compress")
    return spent


class _Clock:
    """Adds the CPU time since the last call to a part."""

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent, self.began = spent, time.process_time()

    def to(self, part: str) -> None:
        now = time.process_time()
        self.spent[part] += now - self.began
        self.began = now


def transcode(source: str, target: Path, recipe: Recipe) -> None:
    """ffmpeg's own transcode with a recipe's settings, on one thread."""
    subprocess.run(transcoding(source, target, recipe), check=True, stdin=subprocess.DEVNULL)


def transcoding(source: str, target: Path, recipe: Recipe) -> list[str]:
    """The command of `transcode`."""
    assert isinstance(recipe.transcode, Encode)
    encode = recipe.transcode
    return [
        find_ffmpeg().path, "-v", "error", "-nostdin", "-y", "-threads", "1", "-i", source, "-map", "0:v:0",
        "-fps_mode", "passthrough", "-c:v", "libx264", "-preset", encode.preset, "-crf", f"{encode.crf}",
        "-g", f"{encode.gop}", "-bf", "0", "-refs", "1", "-sc_threshold", "0", "-pix_fmt", "yuv420p",
        "-threads", "1", str(target),
    ]  # fmt: skip


def with_vectors(path: Path) -> tuple[list[int], list[int], np.ndarray[Any, Any]]:
    """PyAV's decoding with vectors: the frame number of each piece, the key frames, FFmpeg's own records."""
    numbers, keys, pieces = [], [], []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"flags2": "+export_mvs", "skip_loop_filter": "all"}
        for number, frame in enumerate(container.decode(stream)):
            if frame.key_frame:
                keys.append(number)
            side_data = SideDataContainer(frame)  # type: ignore[call-arg]  # a compiled class without a signature
            if (vectors := side_data.get(SideData.MOTION_VECTORS)) is not None:
                pieces.append(bytes(vectors))
                numbers += [number] * (len(pieces[-1]) // _MOTION_VECTOR.itemsize)
    return numbers, keys, np.frombuffer(b"".join(pieces), _MOTION_VECTOR)


def key_pictures(path: Path, wanted: list[int], keys: list[int]) -> list[np.ndarray[Any, Any]]:
    """PyAV's decoding of the key frames, and the colour conversion of those that are wanted."""
    chosen, reformatter = set(wanted), VideoReformatter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"skip_frame": "nokey"}
        return [
            reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            for number, frame in zip(keys, container.decode(stream), strict=True)
            if number in chosen
        ]


def resized(picture: np.ndarray[Any, Any], box: Any, size: int) -> np.ndarray[Any, Any]:
    """Pillow's resize of a box."""
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR, tuple(box))
    return np.asarray(image)


def compressed(crops: list[Any], frames: list[int], vectors: np.ndarray[Any, Any]) -> None:
    """Each frame and each column of the vectors through the store's codecs."""
    zstd = Zstd(level=1)
    for crop in crops:
        zstd.encode(crop)
    columns = {"frame": np.array(frames), **{name: vectors[field] for name, field in _COLUMNS.items()}}
    for values in columns.values():
        Blosc("zstd", clevel=3, shuffle=Blosc.SHUFFLE).encode(values.astype(np.uint16))


@dataclass(slots=True)
class _Flow:
    """A run in a folder of its own, by the command with a Prefect home that has been used before.

    ``alone`` does it in this process instead, without Prefect and Dask: to try the benchmark out.
    """

    folder: Path
    source: Path
    recipe: str
    alone: bool = False

    @property
    def store(self) -> Path:
        return self.folder / "flow.zarr"

    def start(self) -> Usage:
        """From the start."""
        for path in (self.store, self.folder / "flow.zarr.work"):
            shutil.rmtree(path, ignore_errors=True)
        return self._done(self.recipe)

    def again(self) -> Usage:
        """The same where nothing is left to do: what starting costs."""
        return self._done(self.recipe)

    def new_view(self) -> Usage:
        """The same store with one more view."""
        text = (Path(__file__).parents[2] / "data_specs" / f"{self.recipe}.toml").read_text()
        path = self.folder / "with_view.toml"
        path.write_text(text + NEW_VIEW)
        return self._done(str(path))

    def _done(self, recipe: str) -> Usage:
        if self.alone:
            cpu, wall = cpu_seconds(), time.perf_counter()
            run_alone(Options(str(self.source), str(self.store), recipe=recipe))
            return Usage(cpu_seconds() - cpu, time.perf_counter() - wall)
        words = ["preprocess", "--source", str(self.source), "--store", str(self.store), "--recipe", str(recipe)]
        mocrop = Path(sysconfig.get_path("scripts"), "mocrop")
        home = {"PREFECT_HOME": str(self.folder / "prefect"), "DO_NOT_TRACK": "1"}
        return run_command([mocrop, *words, "--workers", f"{WORKERS}"], self.folder, **home)


def _bare(source: Path, boxes: dict[str, list[list[int]]], recipe: str, folder: Path) -> dict[str, float]:
    """The bare work in as many processes at once as the flow has workers: CPU seconds of each part."""
    clips = sorted(map(str, source.glob("*/*.avi")))
    processes = []
    for number in range(WORKERS):
        place = folder / f"bare{number}"
        place.mkdir(exist_ok=True)
        own = clips[number::WORKERS]
        views = {clip: boxes[_first_name(clip)] for clip in own}
        processes.append(
            called("tests.benchmarks.whole_flow:bare_parts", clips=own, folder=str(place), views=views, recipe=recipe)
        )
    found = [answer(process) for process in processes]
    return {part: sum(one[part] for one in found) for part in found[0]}


def _first_name(path: str) -> str:
    return Path(path).stem.rpartition("_r")[0]


def _boxes(store: Path) -> dict[str, list[list[int]]]:
    opened = open_store(store)
    tables = [opened.view(view).table("box").tolist() for view in opened.views]
    return {_first_name(id): [table[row] for table in tables] for row, id in enumerate(opened.ids)}


def assert_same_work(flow: _Flow, folder: Path) -> None:
    """See that the bare parts give the vectors and the crops of the store's first row."""
    store, settings = open_store(flow.store), load_recipe(flow.recipe)
    clip = flow.source / f"{store.ids[0]}.avi"
    target = folder / "check.mp4"
    transcode(str(clip), target, settings)
    _, keys, vectors = with_vectors(target)
    blocks: list[Any] = []
    made = next((flow.folder / "flow.zarr.work").rglob(f"{clip.stem}-*.mp4"))
    motion = decoder.extract(made, blocks.append)
    assert list(motion.key_frames) == keys
    assert np.array_equal(np.concatenate(blocks)["motion_x"], vectors["f9"])
    chosen = [keys[i] for i in spread(len(keys), settings.frames.slots)]
    boxes = _boxes(flow.store)[_first_name(str(clip))]
    for view, box in zip(store.views, boxes, strict=True):
        kept = np.asarray(store.view(view).array("frames")[0])
        for stored, picture in zip(kept, key_pictures(target, chosen, keys), strict=False):
            assert np.abs(resized(picture, box, settings.frames.size).astype(int) - stored).mean() < 1


def tree_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(quick: bool = False) -> list[Result]:
    """Overhead, start-up, a new view, and what the whole of UCF-101 would take."""
    rows, repetitions, recipe = (3, 1, "smoke") if quick else (ROWS, REPETITIONS, "ucf101")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = real_clips()[: 3 if quick else None]
        flow = _Flow(folder, many(clips, len(clips), folder / "few"), recipe, alone=quick)
        flow.start()  # warms Prefect's home, and says what the boxes are
        boxes = _boxes(flow.store)
        assert_same_work(flow, folder)
        flow.source = many(clips, rows, folder / "source")
        found = _Found(rows)

        def whole() -> float:
            found.wholes.append(flow.start())
            found.sizes.append((tree_bytes(flow.store) / rows, tree_bytes(folder / "flow.zarr.work") / rows))
            found.starts.append(flow.again())
            found.views.append(flow.new_view())
            return found.wholes[-1].cpu_s

        def bare() -> float:
            found.parts.append(_bare(flow.source, boxes, recipe, folder))
            return sum(found.parts[-1].values())

        interleaved({"flow": whole, "bare": bare}, repetitions)
    return _costs(found) + _new_view(found) + _ucf101(found)


@dataclass(slots=True)
class _Found:
    """What each repetition measured over so many rows; ``sizes`` are bytes a clip of the store and the H.264 files."""

    rows: int
    wholes: list[Usage] = field(default_factory=list)
    starts: list[Usage] = field(default_factory=list)
    views: list[Usage] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)

    @property
    def bare(self) -> list[float]:
        """CPU seconds of all bare parts."""
        return [sum(parts.values()) for parts in self.parts]

    def without_start(self, usages: list[Usage], clock: str) -> list[float]:
        """Seconds of runs without those of a start."""
        return [getattr(a, clock) - getattr(b, clock) for a, b in zip(usages, self.starts, strict=True)]


def _cpu(usages: list[Usage]) -> list[float]:
    return [usage.cpu_s for usage in usages]


def _costs(found: _Found) -> list[Result]:
    """CPU time a clip of the flow and of its bare parts, with and without its start."""
    rows = found.rows
    parts = {
        part: round(float(np.median([one[part] for one in found.parts])) / rows * 1e3, 2) for part in found.parts[0]
    }
    flow, without = _cpu(found.wholes), found.without_start(found.wholes, "cpu_s")
    return [
        Result("whole flow, CPU a clip", "ms", tuple(1e3 * value / rows for value in flow), None, f"{rows} rows"),
        Result("its bare parts, CPU a clip", "ms", tuple(1e3 * v / rows for v in found.bare), None, "", {"ms": parts}),
        Result(
            "whole flow against its bare parts", "times", ratios(flow, found.bare), most(1.25),
            f"{rows} rows, three views",
        ),
        Result(
            "whole flow without its start against its bare parts", "times", ratios(without, found.bare), None,
            "what it tends to with more rows",
        ),
        Result("start of the flow, CPU", "s", tuple(_cpu(found.starts)), None, "Prefect, its server, two workers"),
    ]  # fmt: skip


def _new_view(found: _Found) -> list[Result]:
    """A new view on a store against the run from the start: the work alone, at these rows, and at those of UCF-101."""
    name, more = "a new view on a store, against the run from the start", UCF_CLIPS / found.rows
    whole, view = (found.without_start(usages, "wall_s") for usages in (found.wholes, found.views))
    starts = [start.wall_s for start in found.starts]
    at_ucf101 = tuple((s + more * a) / (s + more * b) for s, a, b in zip(starts, whole, view, strict=True))
    here = ratios([one.wall_s for one in found.wholes], [one.wall_s for one in found.views])
    share = 100 * np.median(starts) / np.median([one.wall_s for one in found.views])
    cpu = ratios(found.without_start(found.wholes, "cpu_s"), found.without_start(found.views, "cpu_s"))
    return [
        Result(f"{name}, without starts", "times", ratios(whole, view), least(VIEW_GAIN), "wall time of the work"),
        Result(f"{name}, {UCF_CLIPS:,} clips as ours", "times", at_ucf101, least(VIEW_GAIN), "wall time, with starts"),
        Result(
            f"{name}, {found.rows} rows", "times", here, None,
            f"wall time, with starts; no target: the start is {share:.0f} % of so small a new view",
        ),
        Result(f"{name}, without starts, CPU", "times", cpu),
    ]  # fmt: skip


def _ucf101(found: _Found) -> list[Result]:
    """Time and size of the whole data set, if its clips were as ours."""
    seconds = found.without_start(found.wholes, "wall_s")
    hours = tuple(value / found.rows * UCF_CLIPS / 3600 for value in seconds)
    basis = f"{UCF_CLIPS:,} clips as ours, {WORKERS} workers: (wall time − that of a start) / {found.rows} rows"
    walls = {
        name: [round(usage.wall_s, 2) for usage in usages]
        for name, usages in (("from the start", found.wholes), ("start alone", found.starts))
    }
    results = [Result("UCF-101 whole, projected time", "h", hours, None, basis, {"wall_s": walls})]
    for number, what in enumerate(("store", "H.264 files")):
        sizes = [size[number] for size in found.sizes]
        remark = f"{np.median(sizes) / 1e6:.3g} MB a clip"
        results.append(
            Result(f"UCF-101 whole, projected {what}", "GiB", tuple(UCF_CLIPS * s / 2**30 for s in sizes), None, remark)
        )
    return results
