"""Chunks with mutations, decoded beside memory that nobody may touch: ``python -m tests.support.mutated_chunks``.

Each chunk ends where a page begins that cannot be read, and each decoded array where one begins that cannot be written,
so that a decoder that leaves its bounds ends the process. What comes out is hashed: two processes whose memory was
filled with different bytes before (``MALLOC_PERTURB_``, and the array itself) must get the same hash, or something
came out that was not in the chunk.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import io
import json
import mmap
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc, zstd
from numcodecs.vlen import VLenUTF8
from PIL import Image
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from data_specs.arrays import open_array
from data_specs.decoding import decode_blosc, decode_raw, decode_zstd
from data_specs.jpeg import JpegCodec, decode_jpeg
from data_specs.schema import ArraySpec

SIDE = 48
PIXELS = SIDE * SIDE * 3
_LIBC = ctypes.CDLL(None, use_errno=True)
_PROT_NONE = 0


class Guarded:
    """Memory of at most ``size`` bytes that ends where a page begins which no one may touch."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        self.length = -(-size // page) * page
        self._map = mmap.mmap(-1, self.length + page)
        self._bytes = np.frombuffer(self._map, np.uint8)
        address = self._bytes.ctypes.data + self.length
        if _LIBC.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(page), _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")

    def at_end(self, count: int) -> np.ndarray:
        """The last bytes before the page that is closed."""
        return self._bytes[self.length - count : self.length]


def picture(rng: np.random.Generator) -> np.ndarray:
    """A frame with structure and some noise, (side, side, 3)."""
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE * 3)).reshape(SIDE, SIDE, 3)
    return (ramp + rng.integers(0, 4, ramp.shape)).astype(np.uint8)


def encoded(codec: str, rng: np.random.Generator) -> bytes:
    """A chunk without its checksum, as a store has it."""
    frame = picture(rng)
    columns = np.cumsum(rng.integers(-2, 3, PIXELS // 2)).astype(np.int16)
    texts = np.array([f"Class{i % 7}/clip ü {i}" for i in range(60)], object)
    match codec:
        case "raw" | "crc32c":
            return frame.tobytes()
        case "zstd":
            return bytes(zstd.compress(frame, 1))
        case "blosc lz4":
            return bytes(blosc.compress(frame, b"lz4", 5, blosc.NOSHUFFLE))
        case "blosc zstd":
            shuffle = (blosc.SHUFFLE, blosc.BITSHUFFLE)[int(rng.integers(2))]
            return bytes(blosc.compress(columns, b"zstd", 3, shuffle))
        case "jpeg":
            return JpegCodec(quality=90).encoded(frame)
        case "strings":
            return bytes(VLenUTF8().encode(texts))
    raise ValueError(codec)


INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
WORDS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, PIXELS, PIXELS - 1, PIXELS + 1, 1 << 20)


def mutated(chunk: bytes, rng: random.Random) -> bytes:
    """The chunk with a few bytes changed, words put over its header, a piece cut out, doubled, or appended."""
    data = bytearray(chunk)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        place = rng.randrange(min(len(data), rng.choice((16, 64, len(data)))))
        match rng.randrange(8):
            case 0 | 1:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                data[place] = rng.choice(INTERESTING)
            case 3 | 4:
                data[place : place + 4] = rng.choice(WORDS).to_bytes(4, "little")
            case 5:
                del data[place : place + rng.randrange(1, 64)]
            case 6:
                data[place:place] = data[place : place + rng.randrange(1, 64)]
            case 7:
                del data[rng.randrange(len(data)) :]
    if len(data) >= 16 and chunk[0] == 2 and rng.random() < 0.7:  # Blosc: lengths that are true get past the header
        data[4:8], data[12:16] = chunk[4:8], len(data).to_bytes(4, "little")
    return bytes(data)


def _jpeg(payload: np.ndarray, out: np.ndarray) -> None:
    np.copyto(out, decode_jpeg(payload, *out.shape[:2]))


DIRECT: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "raw": decode_raw,
    "zstd": decode_zstd,
    "blosc lz4": decode_blosc,
    "blosc zstd": decode_blosc,
    "jpeg": _jpeg,
}
COMPRESSORS: dict[str, list[dict[str, Any]]] = {
    "raw": [{"name": "bytes"}],
    "crc32c": [{"name": "bytes"}],
    "zstd": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}],
    "blosc lz4": [
        {"name": "bytes"},
        {
            "name": "blosc",
            "configuration": {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0},
        },
    ],
    "blosc zstd": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {
            "name": "blosc",
            "configuration": {"typesize": 2, "cname": "zstd", "clevel": 3, "shuffle": "shuffle", "blocksize": 0},
        },
    ],
    "jpeg": [{"name": "mocrop.jpeg", "configuration": {"quality": 90}}],
    "strings": [{"name": "vlen-utf8"}],
}
CODECS = tuple(COMPRESSORS)


def array_of(codec: str) -> tuple[MemoryStore, zarr.Array[Any]]:
    """An array of one chunk that is kept with a codec, opened as a store's arrays are."""
    if codec == "strings":
        spec = ArraySpec("a", "string", (60,), (60,), ("clip",), "", "")
    elif codec == "blosc zstd":
        spec = ArraySpec("a", "int16", (PIXELS // 2,), (PIXELS // 2,), ("vector",), 0, "")
    else:
        shape = (SIDE, SIDE, 3)
        spec = ArraySpec("a", "uint8", shape, shape, ("y", "x", "channel"), 0, "", frames=True)
    document = {
        "zarr_format": 3, "node_type": "array", "shape": spec.shape, "data_type": spec.dtype, "fill_value": spec.fill,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": spec.chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [*COMPRESSORS[codec], {"name": "crc32c"}],
    }  # fmt: skip
    store = MemoryStore()
    put(store, "a/zarr.json", json.dumps(document).encode())
    return store, open_array(store, spec)


def put(store: MemoryStore, key: str, value: bytes) -> None:
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(value)))


def checksummed(data: bytes) -> bytes:
    """The chunk with a right checksum: who forges a chunk forges that too."""
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def outcomes(codec: str, count: int, seed: int, fill: int) -> Iterator[tuple[str, bytes]]:
    """What becomes of each of ``count`` mutated chunks: "refused" or "decoded", and what came out."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    originals = [encoded(codec, numbers) for _ in range(8)]
    source, target = Guarded(1 << 16), Guarded(PIXELS)
    store, array = array_of(codec)
    key = "a/c." + ".".join("0" * array.ndim)
    for number in range(count):
        data = mutated(originals[number % len(originals)], rng)
        yield _through_zarr(store, array, key, data, sealed=codec != "crc32c")
        if codec in DIRECT and len(data) <= source.length:
            payload, out = source.at_end(len(data)), target.at_end(PIXELS)
            payload[:], out[:] = np.frombuffer(data, np.uint8), fill
            try:
                DIRECT[codec](payload, out.reshape(SIDE, SIDE, 3))
            except (ValueError, RuntimeError):
                yield "refused", b""
            else:
                yield "decoded", out.tobytes()


def _through_zarr(store: MemoryStore, array: zarr.Array[Any], key: str, data: bytes, sealed: bool) -> tuple[str, bytes]:
    put(store, key, checksummed(data) if sealed else data)
    try:
        found = np.asarray(array[:])
    except (ValueError, RuntimeError):
        return "refused", b""
    return "decoded", "\0".join(map(str, found)).encode() if found.dtype.kind in "OT" else found.tobytes()


def main() -> None:
    """Print, as JSON, how many chunks were decoded and refused by codec, and the hash of all that came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fill", type=int, default=0)
    args = parser.parse_args()
    Image.new("RGB", (8, 8)).save(io.BytesIO(), "JPEG")  # what Pillow loads, it loads now
    found = {}
    for codec in CODECS:
        digest, counts = hashlib.sha256(), {"decoded": 0, "refused": 0}
        for what, content in outcomes(codec, args.count, args.seed, args.fill):
            counts[what] += 1
            digest.update(what.encode() + content)
        found[codec] = {**counts, "sha256": digest.hexdigest()}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
