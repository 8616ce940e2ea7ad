"""Stores with hostile shards, frames and vectors; ``hostile_stores.STORES`` has them, once this module is imported."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import blosc
from PIL import Image

from data_specs.fingerprints import fingerprint
from data_specs.motion_format import COLUMNS, MOTION_BLOCKS, VECTOR_CHUNK, motion_array
from tests.support.hostile_stores import Spoil, bomb, document, edit, rows, spoils
from tests.support.mutated_chunks import checksummed

MOTION = "motion/00000"


def _shard(store: Path, change: Callable[[np.ndarray, bytearray], object], path: str = "views/full/frames") -> None:
    """Change the index of an array's first shard, by default of whole frames, and its bytes before it."""
    (file,) = (store / path).glob("c.0.*")
    data = file.read_bytes()
    about = json.loads(document(store, path).read_text())
    counts = about["chunk_grid"]["configuration"]["chunk_shape"][:2]
    length = 16 * counts[0] * counts[1]
    index = np.frombuffer(data[-length - 4 : -4], "<u8").reshape(*counts, 2).copy()
    content = bytearray(data[: -length - 4])
    change(index, content)
    file.write_bytes(bytes(content) + checksummed(index.tobytes()))


def _frame(payload: bytes) -> Callable[[np.ndarray, bytearray], object]:
    def change(index: np.ndarray, content: bytearray) -> None:
        index[index[..., 0] != 2**64 - 1] = len(content), len(payload) + 4
        content += checksummed(payload)

    return change


def _index(place: int, value: int) -> Callable[[np.ndarray, bytearray], object]:
    def change(index: np.ndarray, content: bytearray) -> None:
        index[index[..., 0] != 2**64 - 1, place] = value

    return change


for name, change in {
    "offsets of 2**62": _index(0, 2**62), "lengths of 2**62": _index(1, 2**62), "long lengths": _index(1, 2**64 - 2),
    "lengths of 3": _index(1, 3), "lengths of none": _index(1, 0), "offsets behind the end": _index(0, 10**8),
    "lengths of 400 kB": _index(1, 400_000), "a frame that is a bomb": _frame(bomb(2 << 30)),
    "a frame of a few bytes": _frame(b"\x28\xb5\x2f\xfd\x60\x00\x01"), "a frame of nothing": _frame(b""),
}.items():  # fmt: skip
    spoils(f"a shard's {name}")(lambda store, change=change: _shard(store, change))
    spoils(f"vectors' {name}")(lambda store, change=change: _shard(store, change, MOTION))


def _jpeg(side: int, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG", **options)
    return file.getvalue()


def _large_jpeg() -> bytes:
    """A JPEG whose header says 30,000 x 30,000 px."""
    data = bytearray(_jpeg(96))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", 30_000, 30_000)
    return bytes(data)


BLOSC: dict[str, Any] = {
    "name": "blosc",
    "configuration": {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0},
}
_FRAME = np.arange(96 * 96 * 3).astype(np.uint8)


def blosc_chunk(**header: int) -> bytes:
    """A frame with Blosc and lz4 whose header says something else."""
    good = bytes(blosc.compress(_FRAME, b"lz4", 5, 0))
    names = ("version", "lz", "flags", "typesize", "size", "block", "length")
    fields = dict(zip(names, struct.unpack("<BBBBIII", good[:16]), strict=True))
    return struct.pack("<BBBBIII", *(fields | header).values()) + good[16:]


def _recoded(codec: list[dict[str, Any]], payload: bytes) -> Spoil:
    """Frames that are said to be kept with a codec, of one payload each."""

    def spoil(store: Path) -> None:
        edit(
            store,
            "views/full/frames",
            lambda it: it["codecs"][0]["configuration"].update(codecs=[*codec, {"name": "crc32c"}]),
        )
        _shard(store, _frame(payload))

    return spoil


_BYTES = {"name": "bytes"}
_SNAPPY = {"name": "blosc", "configuration": {**BLOSC["configuration"], "cname": "snappy"}}
_JPEG = {"name": "mocrop.jpeg", "configuration": {"quality": 90}}
for name, spoil in {
    "a Blosc chunk of 40 bytes": _recoded([_BYTES, BLOSC], blosc_chunk(length=1 << 20)[:40]),
    "a Blosc chunk that is a copy of the heap": _recoded(
        [_BYTES, BLOSC], struct.pack("<BBBBIII", 2, 1, 0x33, 1, len(_FRAME), len(_FRAME), len(_FRAME) + 16) + b"x" * 24
    ),
    "a Blosc chunk of blocks of nothing": _recoded([_BYTES, BLOSC], blosc_chunk(block=0)),
    "a Blosc chunk of 4 GB": _recoded([_BYTES, BLOSC], blosc_chunk(size=2**32 - 1)),
    "a Blosc chunk that begins before itself": _recoded([_BYTES, BLOSC], blosc_chunk()[:16] + b"\xff" * 82),
    "a Blosc chunk of noise": _recoded([_BYTES, BLOSC], bytes(range(98))),
    "Blosc with snappy": _recoded([_BYTES, _SNAPPY], b""),
    "a JPEG of 900 Mpx": _recoded([_JPEG], _large_jpeg()),
    "a JPEG of another size": _recoded([_JPEG], _jpeg(32)),
    "a progressive JPEG": _recoded([_JPEG], _jpeg(96, progressive=True)),
    "a JPEG that is cut": _recoded([_JPEG], _jpeg(96)[:200]),
    "a PNG for a JPEG": _recoded([_JPEG], b"\x89PNG\r\n\x1a\n" + b"\0" * 64),
    "a JPEG of quality 10**9": _recoded([_JPEG | {"configuration": {"quality": 10**9}}], _jpeg(96)),
    "raw frames that are cut": _recoded([_BYTES], b"short"),
}.items():  # fmt: skip
    spoils(name)(spoil)


@spoils("a Blosc chunk of vectors, 98 bytes")
def blosc_vectors(store: Path) -> None:
    payload = struct.pack("<BBBBIII", 2, 1, 0x81, 2, 1 << 17, 1 << 16, 98) + b"\xff" * 82
    _shard(store, _frame(payload), MOTION)


def motion(store: Path, **values: object) -> None:
    """Put values into the attributes of a shard's vectors, with the fingerprint that they must have then."""

    def change(it: dict[str, Any]) -> None:
        about = it["attributes"]
        about.update(values)
        parts = (about[name] for name in ("vectors", "texture_cells", "motion_scale"))
        about["fingerprint"] = fingerprint("motion", *parts)

    edit(store, MOTION, change)


for name, values in {
    "vectors of 2**62": {"vectors": [2**62] * 4},
    "vectors below zero": {"vectors": [-1] * 4},
    "vectors in words": {"vectors": "all"},
    "vectors without a unit": {"motion_scale": [0] * 4},
    "texture of 2**30 cells": {"texture_cells": [2**30] * 4},
    "vectors of more clips": {"vectors": [1] * 5},
    "vectors of no clips": {"vectors": [], "texture_cells": [], "motion_scale": []},
}.items():
    spoils(name)(lambda store, values=values: motion(store, **values))
spoils("vectors of another fingerprint")(
    lambda store: edit(store, MOTION, lambda it: it["attributes"].update(vectors=it["attributes"]["vectors"][::-1]))
)


@spoils("1e10 vectors without chunks")
def many_vectors(store: Path) -> None:
    motion(store, vectors=[10**10, 0, 0, 0], texture_cells=[0] * 4)
    spec = motion_array(0, -(-(10**10) // VECTOR_CHUNK))

    def change(it: dict[str, Any]) -> None:
        it.update(shape=list(spec.shape))
        it["chunk_grid"]["configuration"]["chunk_shape"] = list(spec.shards or ())

    edit(store, MOTION, change)
    for file in (store / MOTION).glob("c.*"):
        file.unlink()
    rows(store, "progress/motion/00000", vectors=10**10)


@spoils("1e10 vectors in shards of nothing")
def vectors_of_nothing(store: Path) -> None:
    many_vectors(store)
    empty = np.full((MOTION_BLOCKS, COLUMNS, 2), 2**64 - 1, "<u8").tobytes()
    (store / MOTION / "c.0.0.0").write_bytes(checksummed(empty))
