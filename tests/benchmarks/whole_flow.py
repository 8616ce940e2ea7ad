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
from dataclasses import dataclass
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
from data_specs.schema import MOTION_COLUMNS
from data_specs.stored import open_store
from mocrop_core.frames import spread
from pipelines import video
from pipelines.ffmpeg import find_ffmpeg
from pipelines.preprocess import Options
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

ROWS, WORKERS = 200, 2
UCF_CLIPS = 13_320
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
            if (vectors := SideDataContainer(frame).get(SideData.MOTION_VECTORS)) is not None:
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


def resized(picture: np.ndarray[Any, Any], box: list[int], size: int) -> np.ndarray[Any, Any]:
    """Pillow's resize of a box."""
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR, tuple(box))
    return np.asarray(image)


def compressed(crops: list[Any], frames: list[int], vectors: np.ndarray[Any, Any]) -> None:
    """Each frame and each column of the vectors through the store's codecs."""
    zstd = Zstd(level=1)
    for crop in crops:
        zstd.encode(crop)
    columns = {"frame": np.array(frames), **{name: vectors[field] for name, field in _COLUMNS.items()}}
    for name, (dtype, _) in MOTION_COLUMNS.items():
        shuffle = Blosc.BITSHUFFLE if name in ("dx", "dy") else Blosc.SHUFFLE
        Blosc("zstd", clevel=3, shuffle=shuffle).encode(columns[name].astype(dtype))


@dataclass(slots=True)
class _Flow:
    """A run in a folder of its own, by the command with a Prefect home that has been used before.

    ``alone`` does it in this process instead, without Prefect and Dask: to try the benchmark out.
    """

    folder: Path
    source: Path
    recipe: str
    alone: bool = False
    last: Usage | None = None

    @property
    def store(self) -> Path:
        return self.folder / "flow.zarr"

    def start(self) -> float:
        """From the start: CPU seconds."""
        for path in (self.store, self.folder / "flow.zarr.work"):
            shutil.rmtree(path, ignore_errors=True)
        return self._done(self.recipe)

    def again(self) -> float:
        """The same where nothing is left to do: what starting costs."""
        return self._done(self.recipe)

    def new_view(self) -> float:
        """The same store with one more view."""
        text = (Path(__file__).parents[2] / "data_specs" / f"{self.recipe}.toml").read_text()
        path = self.folder / "with_view.toml"
        path.write_text(text + NEW_VIEW)
        return self._done(str(path))

    def _done(self, recipe: str) -> float:
        if self.alone:
            began = cpu_seconds()
            run_alone(Options(str(self.source), str(self.store), recipe=recipe))
            self.last = Usage(cpu_seconds() - began, 0.0)
        else:
            words = ["preprocess", "--source", self.source, "--store", self.store, "--recipe", recipe]
            mocrop = Path(sysconfig.get_path("scripts"), "mocrop")
            home = {"PREFECT_HOME": str(self.folder / "prefect"), "DO_NOT_TRACK": "1"}
            self.last = run_command([mocrop, *words, "--workers", f"{WORKERS}"], self.folder, **home)
        return self.last.cpu_s


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
    motion = video.extract(made, blocks.append)
    assert list(motion.key_frames) == keys
    assert np.array_equal(np.concatenate(blocks)["dx"], vectors["f9"])
    chosen = [keys[i] for i in spread(len(keys), settings.frames.slots)]
    boxes = _boxes(flow.store)[_first_name(str(clip))]
    for view, box in zip(store.views, boxes, strict=True):
        kept = np.asarray(store.view(view).array("frames")[0])
        for stored, picture in zip(kept, key_pictures(target, chosen, keys), strict=False):
            assert np.abs(resized(picture, box, settings.frames.size).astype(int) - stored).mean() < 1


def tree_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(quick: bool = False, full: bool = False) -> list[Result]:
    """Overhead, start-up, a new view, and what the whole of UCF-101 would take."""
    rows, repetitions, recipe = (3, 1, "smoke") if quick else (ROWS, REPETITIONS if full else 3, "ucf101")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = real_clips()[: 3 if quick else None]
        flow = _Flow(folder, many(clips, len(clips), folder / "few"), recipe, alone=quick)
        flow.start()  # warms Prefect's home, and says what the boxes are
        boxes = _boxes(flow.store)
        assert_same_work(flow, folder)
        flow.source = many(clips, rows, folder / "source")
        parts: list[dict[str, float]] = []
        sizes: list[tuple[float, float]] = []
        walls: list[float] = []
        views: list[float] = []
        starts: list[float] = []

        def whole() -> float:
            used = flow.start()
            assert flow.last is not None
            walls.append(flow.last.wall_s)
            sizes.append((tree_bytes(flow.store) / rows, tree_bytes(folder / "flow.zarr.work") / rows))
            starts.append(flow.again())
            views.append(flow.new_view())
            return used

        def bare() -> float:
            parts.append(_bare(flow.source, boxes, recipe, folder))
            return sum(parts[-1].values())

        samples = interleaved({"flow": whole, "bare": bare}, repetitions)
    each = {part: round(float(np.median([one[part] for one in parts])) / rows * 1e3, 2) for part in parts[0]}
    return _results(rows, samples, each, {"starts": starts, "views": views, "walls": walls}, sizes, boxes)


def _results(
    rows: int,
    samples: dict[str, list[float]],
    parts: dict[str, float],
    more: dict[str, list[float]],
    sizes: list[tuple[float, float]],
    boxes: dict[str, Any],
) -> list[Result]:
    flow, bare = samples["flow"], samples["bare"]
    without = [whole - start for whole, start in zip(flow, more["starts"], strict=True)]
    views = [whole - start for whole, start in zip(more["views"], more["starts"], strict=True)]
    store, work = (float(np.median([size[i] for size in sizes])) for i in (0, 1))
    hours = tuple(value / rows * UCF_CLIPS / WORKERS / 3600 for value in without)
    gib = UCF_CLIPS / 2**30
    return [
        Result("whole flow, CPU a clip", "ms", tuple(1e3 * value / rows for value in flow), None, f"{rows} rows"),
        Result("its bare parts, CPU a clip", "ms", tuple(1e3 * v / rows for v in bare), None, "", {"ms": parts}),
        Result("whole flow against its bare parts", "times", ratios(flow, bare), most(1.15), f"{rows} rows"),
        Result(
            "whole flow without its start against its bare parts", "times", ratios(without, bare), None,
            "what it tends to with more rows",
        ),
        Result("start of the flow, CPU", "s", tuple(more["starts"]), None, "Prefect, its server, two workers"),
        Result(
            "a new view on a store, against the run from the start", "times", ratios(without, views), least(8.0),
            "both without the start of the flow",
        ),
        Result(
            "the same with the start of the flow", "times", ratios(flow, more["views"]), None, f"{rows} rows",
        ),
        Result(
            "UCF-101 whole, projected time", "h", hours, None, f"{WORKERS} workers, {UCF_CLIPS:,} clips as ours",
            {"wall_s_here": more["walls"]},
        ),
        Result("UCF-101 whole, projected store", "GiB", (store * gib,), None, f"{store / 1e6:.2f} MB a clip"),
        Result("UCF-101 whole, projected H.264 files", "GiB", (work * gib,), None, f"{work / 1e6:.3f} MB a clip"),
    ]  # fmt: skip
