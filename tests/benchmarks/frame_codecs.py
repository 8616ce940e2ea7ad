"""What it costs to store frames with each codec: `python -m tests.benchmarks.frame_codecs [--json FILE]`.

Real frames of the clips under MOCROP_TEST_DATA (every 12th, 256 x 256 px) go into one shard of 16 clips with
one frame a chunk and crc32c last. Every repetition writes and reads each codec once, in an order of its own,
so that another load on the machine meets all alike; medians are shown with the smallest and the largest.
Files are in the page cache when they are read: what is measured is decoding and the readers' own cost.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import obstore.store
import tensorstore
import zarr
from numpy.typing import NDArray
from PIL import Image
from zarr.abc.codec import Codec
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.codecs.numcodecs import Delta
from zarr.storage import LocalStore, ObjectStore

from data_specs.jpeg import JpegCodec
from tests.benchmarks.measuring import machine

CLIPS, FRAMES, SIDE, EVERY = 16, 16, 256, 12
FRAMES_READ = 3
RAW = "raw"
PLANAR = TransposeCodec(order=(0, 1, 4, 2, 3))

Frames = NDArray[np.uint8]
Samples = dict[str, dict[str, list[float]]]


def codec_chains() -> dict[str, list[Codec]]:
    """The codecs of a frame, by the name shown, without the checksum that ends each chain."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numcodecs.* are outside the specification, which is the point here
        delta = Delta(dtype="|u1")
    lz4 = BloscCodec(cname="lz4", clevel=5, shuffle="noshuffle", typesize=1)
    lz4_bits = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=1)
    zstd_bits = BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle", typesize=1)
    zstd_pixels = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=3)
    return {
        RAW: [BytesCodec()],
        "blosc lz4": [BytesCodec(), lz4],
        "blosc lz4 bitshuffle": [BytesCodec(), lz4_bits],
        "blosc zstd1 bitshuffle": [BytesCodec(), zstd_bits],
        "blosc zstd1 shuffle (3)": [BytesCodec(), zstd_pixels],
        "zstd1": [BytesCodec(), ZstdCodec(level=1)],
        "zstd3": [BytesCodec(), ZstdCodec(level=3)],
        "planar, blosc lz4": [PLANAR, BytesCodec(), lz4],
        "planar, blosc zstd1 bits": [PLANAR, BytesCodec(), zstd_bits],
        "planar, zstd1": [PLANAR, BytesCodec(), ZstdCodec(level=1)],
        "planar, delta, zstd1": [PLANAR, delta, BytesCodec(), ZstdCodec(level=1)],
        "delta, zstd1": [delta, BytesCodec(), ZstdCodec(level=1)],
        "jpeg q95": [JpegCodec(quality=95)],
        "jpeg q90": [JpegCodec(quality=90)],
    }


STORES: dict[str, Callable[[Path], Store]] = {
    "zarr LocalStore": LocalStore,
    "obstore": lambda folder: ObjectStore(obstore.store.LocalStore(folder, mkdir=True)),
}
STORE_CODECS = (RAW, "zstd1")


def clip_frames(path: Path, side: int) -> Frames:
    """Every 12th frame from the first, then from the second and so on, until there are 16; resized to a square."""
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    if len(pictures) < FRAMES:
        raise ValueError(f"{path} has {len(pictures)} frames, {FRAMES} are needed")
    order = chain.from_iterable(range(first, len(pictures), EVERY) for first in count())
    chosen = (Image.fromarray(pictures[i]) for i in islice(order, FRAMES))
    return np.stack([np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)) for image in chosen])


def real_frames(data: Path, side: int) -> tuple[Frames, int]:
    """Frames of (16, 16, side, side, 3), and how many clips they are of: fewer than 16 are repeated."""
    videos = sorted(data.glob("**/*.avi"))[:CLIPS]
    if not videos:
        raise FileNotFoundError(f"no .avi files under {data}; set MOCROP_TEST_DATA or --data")
    clips = [clip_frames(video, side) for video in videos]
    return np.stack([clips[i % len(clips)] for i in range(CLIPS)]), len(videos)


def new_array(store: Store, codecs: list[Codec], side: int) -> zarr.Array[Any]:
    shape = (CLIPS, FRAMES, side, side, 3)
    shard = ShardingCodec(chunk_shape=(1, 1, side, side, 3), codecs=[*codecs, Crc32cCodec()])
    return zarr.create_array(
        store,
        shape=shape,
        chunks=shape,
        dtype="uint8",
        serializer=shard,
        compressors=None,
        dimension_names=("clip", "frame", "y", "x", "channel"),
        config={"write_empty_chunks": True},
    )


def random_reads(rng: np.random.Generator, number: int) -> list[tuple[int, list[int]]]:
    """Clips and three of their frames each, in order."""
    return [
        (int(rng.integers(CLIPS)), sorted(map(int, rng.choice(FRAMES, FRAMES_READ, replace=False))))
        for _ in range(number)
    ]


def zarr_read_ms(array: zarr.Array[Any], reads: list[tuple[int, list[int]]]) -> float:
    """Milliseconds for three frames of a clip, one after the other."""
    start = time.perf_counter()
    for clip, frames in reads:
        for frame in frames:
            array[clip, frame]
    return (time.perf_counter() - start) / len(reads) * 1e3


def open_tensorstore(folder: Path) -> Any | None:
    """The array in tensorstore, None where it has not got the codec."""
    try:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/"}}
        return tensorstore.open(spec, read=True).result()
    except ValueError as error:
        if "not registered" in str(error):
            return None
        raise


def tensorstore_read_ms(array: Any, reads: list[tuple[int, list[int]]]) -> float:
    """Milliseconds for three frames of a clip, all asked for before the first is awaited."""
    start = time.perf_counter()
    for clip, frames in reads:
        for future in [array[clip, frame].read() for frame in frames]:
            future.result()
    return (time.perf_counter() - start) / len(reads) * 1e3


def timed_write(array: zarr.Array[Any], frames: Frames) -> float:
    """Megabytes of raw frames a second, written as one whole shard, not synced to disk."""
    start = time.perf_counter()
    array[...] = frames
    return frames.nbytes / (time.perf_counter() - start) / 1e6


def error_of(back: Frames, frames: Frames) -> dict[str, float]:
    """Mean and largest absolute error, levels of 0..255."""
    step = np.abs(back.astype(np.int16) - frames)
    return {"mean_error": round(float(step.mean()), 3), "largest_error": float(step.max())}


def measure(frames: Frames, folder: Path, repetitions: int, reads: int) -> dict[str, Any]:
    """Each codec's size, error and times; each store's times."""
    rng = np.random.default_rng(0)
    chains = codec_chains()
    facts: dict[str, dict[str, Any]] = defaultdict(dict)
    samples: Samples = defaultdict(lambda: defaultdict(list))
    stores: Samples = defaultdict(lambda: defaultdict(list))
    for repetition in range(repetitions):
        wanted = random_reads(rng, reads)
        for name in map(str, rng.permutation(list(chains))):
            place = folder / f"{name}-{repetition}"
            array = new_array(LocalStore(place), chains[name], frames.shape[2])
            samples[name]["write_mb_s"].append(timed_write(array, frames))
            samples[name]["read_zarr_ms"].append(zarr_read_ms(array, wanted))
            fast = open_tensorstore(place)
            if fast is not None:
                samples[name]["read_tensorstore_ms"].append(tensorstore_read_ms(fast, wanted))
            if repetition == 0:
                back: Frames = np.asarray(array[...] if fast is None else fast.read().result())
                size = sum(p.stat().st_size for p in (place / "c").rglob("*") if p.is_file())
                facts[name] = {
                    "bytes_a_clip": size // CLIPS,
                    "share": round(size / frames.nbytes, 4),
                    "tensorstore_opens": fast is not None,
                    **error_of(back, frames),
                }
        for kind, open_store in STORES.items():
            for name in STORE_CODECS:
                place = folder / f"{kind}-{name}-{repetition}"
                array = new_array(open_store(place), chains[name], frames.shape[2])
                stores[f"{kind}, {name}"]["write_mb_s"].append(timed_write(array, frames))
                stores[f"{kind}, {name}"]["read_zarr_ms"].append(zarr_read_ms(array, wanted))
        remove_files(folder)
    return {
        "codecs": {name: {**facts[name], **summary(samples[name])} for name in chains},
        "stores": {name: summary(values) for name, values in stores.items()},
    }


def remove_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def summary(samples: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """What was measured in each repetition, with its middle and its ends."""
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
            "samples": [round(value, 3) for value in values],
        }
        for name, values in samples.items()
    }


def chroma_comparison(frames: Frames) -> dict[str, dict[str, float]]:
    """Size and RGB error of JPEG with and without chroma at half resolution, over every fourth frame."""
    some = frames[:, ::4].reshape(-1, *frames.shape[2:])
    result = {}
    for quality in (95, 90):
        for chroma, setting in (("4:4:4", 0), ("4:2:0", 2)):
            size, back = 0, np.empty_like(some)
            for i, frame in enumerate(some):
                with tempfile.SpooledTemporaryFile(max_size=1 << 24) as file:
                    Image.fromarray(frame).save(file, "JPEG", quality=quality, subsampling=setting)
                    size += file.tell()
                    file.seek(0)
                    back[i] = np.asarray(Image.open(file))
            squared = float(((back.astype(np.float32) - some) ** 2).mean())
            result[f"q{quality} {chroma}"] = {
                "share": round(size / some.nbytes, 4),
                "psnr_db": round(10 * float(np.log10(255**2 / squared)), 2),
                **error_of(back, some),
            }
    return result


def cell(values: dict[str, Any] | None) -> str:
    return "–" if values is None else f"{values['median']:.4g} ({values['min']:.4g}–{values['max']:.4g})"


def table(result: dict[str, Any]) -> str:
    """The result as text, one line a codec."""
    heads = ("kB/clip", "share", "write MB/s", "3 frames, zarr, ms", "3 frames, tensorstore, ms", "error")
    lines = [f"{'codec':26}{heads[0]:>9}{heads[1]:>8}{heads[2]:>22}{heads[3]:>22}{heads[4]:>28}{heads[5]:>12}"]
    for name, row in result["codecs"].items():
        error = "0" if row["largest_error"] == 0 else f"{row['mean_error']}"
        lines.append(
            f"{name:26}{row['bytes_a_clip'] / 1e3:9.0f}{row['share']:8.1%}{cell(row['write_mb_s']):>22}"
            f"{cell(row['read_zarr_ms']):>22}{cell(row.get('read_tensorstore_ms')):>28}{error:>12}"
        )
    lines.append("")
    for name, row in result["stores"].items():
        lines.append(f"{name:43}{cell(row['write_mb_s']):>22}{cell(row['read_zarr_ms']):>22}")
    lines.append("")
    for name, row in result["jpeg_chroma"].items():
        figures = f"{row['psnr_db']} dB, mean {row['mean_error']}, largest {row['largest_error']:.0f}"
        lines.append(f"jpeg {name:12}{row['share']:8.1%} of raw, {figures}")
    return "\n".join(lines)


def run(data: Path, repetitions: int, reads: int, side: int) -> dict[str, Any]:
    """The whole benchmark's result, as it goes into the JSON file."""
    frames, clips = real_frames(data, side)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(frames, Path(folder), repetitions, reads)
    return {
        "machine": machine(),
        "data": {
            "clips": clips,
            "rows": CLIPS,
            "frames": FRAMES,
            "side_px": side,
            "raw_bytes": frames.nbytes,
        },
        "repetitions": repetitions,
        **measured,
        "jpeg_chroma": chroma_comparison(frames),
    }


def main() -> None:
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    parser = argparse.ArgumentParser(description="size and speed of frame codecs in sharded Zarr")
    parser.add_argument("--json", type=Path, help="write the result here too")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MOCROP_TEST_DATA", beside)))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--reads", type=int, default=20, help="clips read in a repetition, for each codec")
    arguments = parser.parse_args()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr")
        result = run(arguments.data, arguments.repetitions, arguments.reads, SIDE)
    print(json.dumps(result["machine"]))
    print(table(result))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
