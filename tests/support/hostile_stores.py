"""Stores as a stranger might make them: each function here takes a good store apart in one way.

``STORES`` has them by name, with those of ``hostile_chunks``. All of them forge what can be forged: checksums,
fingerprints and hashes are right.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import zstd
from numcodecs.vlen import VLenUTF8

from data_specs.fingerprints import fingerprint
from tests.support.mutated_chunks import checksummed

Spoil = Callable[[Path], object]
STORES: dict[str, Spoil] = {}
ESCAPES = "\x1b[2J\x1b]0;owned\x07\r\nid \u202eevil\u2066 \x9b31m"
PRECIOUS = "precious"  # the folder beside the store that nobody may touch
DEEP = 200_000


def spoils(name: str) -> Callable[[Spoil], Spoil]:
    def enter(function: Spoil) -> Spoil:
        assert name not in STORES
        STORES[name] = function
        return function

    return enter


def document(store: Path, path: str) -> Path:
    return store / path / "zarr.json"


def edit(store: Path, path: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a ``zarr.json``."""
    file = document(store, path)
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def root(store: Path, **values: Any) -> None:
    """Put values into the attributes of the store."""
    edit(store, "", lambda it: it["attributes"].update(values))


def recipe(store: Path, **values: Any) -> None:
    edit(store, "", lambda it: it["attributes"]["recipe"].update(values))


def forge(store: Path, path: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record and give it the fingerprint that it must have then."""

    def changed(it: dict[str, Any]) -> None:
        values = it["attributes"]
        change(values)
        _, stage, *view, _ = path.split("/")
        parts = (values.get(name) for name in ("inputs", "clips", "objects"))
        values["output"] = fingerprint(stage, view[0] if view else None, *parts)

    edit(store, path, changed)


def rows(store: Path, path: str, **values: Any) -> None:
    """Put values into the row of each clip of a record."""
    forge(store, path, lambda it: [row.update(values) for row in it["clips"].values()])


def chunk(store: Path, path: str, data: bytes, *, sealed: bool = True) -> None:
    """Write the only chunk of a table."""
    (file,) = (file for file in (store / path).glob("c.*"))
    file.write_bytes(checksummed(data) if sealed else data)


def table(store: Path, path: str, change: Callable[[np.ndarray], object]) -> None:
    """Change the numbers of a table."""
    about = json.loads(document(store, path).read_text())
    (file,) = (file for file in (store / path).glob("c.*"))
    plain = zstd.decompress(file.read_bytes()[:-4])
    values = np.frombuffer(plain, about["data_type"]).reshape(about["shape"]).copy()
    change(values)
    chunk(store, path, bytes(zstd.compress(values, 3)))


def texts(store: Path, path: str, change: Callable[[list[str]], list[str]]) -> None:
    """Change the texts of a table."""
    file = store / path / "c.0"
    if file.is_file():
        old = [str(text) for text in VLenUTF8().decode(zstd.decompress(file.read_bytes()[:-4]))]
    else:  # all are empty
        old = [""] * json.loads(document(store, path).read_text())["shape"][0]
    file.write_bytes(checksummed(bytes(zstd.compress(VLenUTF8().encode(np.array(change(old), object)), 3))))


def bomb(size: int) -> bytes:
    """A zstd frame of ``size`` zeros."""
    block = b"\x02\x00\x10\x00"  # 128 KiB of one byte, not the last block: RLE
    blocks = -(-size // (1 << 17))
    header = struct.pack("<IBBQ", 0xFD2FB528, 0xC0, 0x38, blocks << 17)
    last = struct.pack("<I", (1 << 17) << 3 | 1 << 1 | 1)[:3] + b"\0"
    more = struct.pack("<I", (1 << 17) << 3 | 1 << 1)[:3] + b"\0"
    assert len(block) == len(more)
    return header + more * (blocks - 1) + last


class Pwned:
    """Unpickled, it leaves a file."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.where,)


def v2_document(count: int) -> dict[str, Any]:
    """An array of texts of Zarr format 2, which is unpickled before all else."""
    return {"zarr_format": 2, "shape": [count], "chunks": [count], "dtype": "|O", "order": "C", "fill_value": "",
            "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle", "protocol": 4}}  # fmt: skip


@spoils("pickles by consolidated metadata")
def consolidated(store: Path) -> None:
    payload = pickle.dumps([Pwned(str(store.parent / PRECIOUS / "pwned"))])
    for name in ("id", "reason", "state"):
        (store / name / "0").write_bytes(payload)
    metadata = {name: v2_document(1) | {"attributes": {}} for name in ("id", "reason", "state")}
    whole = {"kind": "inline", "must_understand": False, "metadata": metadata}
    edit(store, "", lambda it: it.update(consolidated_metadata=whole))


@spoils("pickles by .zarray")
def zarray(store: Path) -> None:
    payload = pickle.dumps([Pwned(str(store.parent / PRECIOUS / "pwned"))])
    for name in ("id", "views/mocrop/box"):
        document(store, name).unlink()
        (store / name / ".zarray").write_text(json.dumps(v2_document(1)))
        (store / name / "0").write_bytes(payload)
        (store / name / "0.0").write_bytes(payload)
    (store / ".zgroup").write_text('{"zarr_format": 2}')


@spoils("a codec that is not ours")
def gzip(store: Path) -> None:
    edit(store, "id", lambda it: it["codecs"].insert(1, {"name": "gzip", "configuration": {"level": 5}}))


@spoils("a codec of numcodecs")
def numcodecs_codec(store: Path) -> None:
    edit(store, "label", lambda it: it.update(codecs=[{"name": "numcodecs.pickle"}, {"name": "bytes"}]))


@spoils("frames in shards in shards")
def nested_shards(store: Path) -> None:
    def change(it: dict[str, Any]) -> None:
        it["codecs"][0]["configuration"]["codecs"] = json.loads(json.dumps(it["codecs"]))

    edit(store, "views/full/frames", change)


@spoils("big-endian numbers")
def big_endian(store: Path) -> None:
    edit(store, "label", lambda it: it["codecs"][0].update(configuration={"endian": "big"}))


for name, value in {
    "3e8 rows without chunks": [300_000_000], "1e30 rows": [10**30], "no rows": [0], "rows below zero": [-1],
    "rows of a half": [0.5], "rows in words": ["many"], "no axis": [], "rows that are no list": 7,
}.items():  # fmt: skip
    spoils(name)(
        lambda store, value=value: [
            edit(
                store,
                "id",
                lambda it: it.update(
                    shape=value, chunk_grid={"name": "regular", "configuration": {"chunk_shape": value}}
                ),
            ),
            (store / "id/c.0").unlink(),
        ]
    )


@spoils("2e7 chunks")
def many_chunks(store: Path) -> None:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    edit(store, "id", lambda it: it.update(shape=[20_000_000], chunk_grid=grid))


for name, key, value in (
    ("class names that are a number", "class_names", 7),
    ("no class names", "class_names", []),
    ("class names of numbers", "class_names", [1, 2, 3]),
    ("class names in lists", "class_names", [["a"], ["b"], ["c"]]),
    ("1e5 class names", "class_names", [str(number) for number in range(100_000)]),
    ("class names that are formulas", "class_names", [r"$\frac{$", "=1+1", "@SUM(A1)"]),
    ("class names with escapes", "class_names", [ESCAPES, "b" + ESCAPES, "c" + ESCAPES]),
    ("a data set that is null", "dataset", None),
    ("a data set with escapes", "dataset", ESCAPES),
    ("software that is a list", "software", []),
    ("software without ffmpeg", "software", {}),
    ("software with escapes", "software", {"ffmpeg": ESCAPES}),
    ("a recipe that is null", "recipe", None),
    ("a recipe that is a list", "recipe", [1]),
    ("a fingerprint that is a number", "fingerprint", 7),
    ("a format in words", "mocrop_format", ESCAPES),
    ("a revision in words", "revision", ESCAPES),
    ("a revision of 1e400", "revision", 10**400),
):
    spoils(name)(lambda store, key=key, value=value: root(store, **{key: value}))

for name, values in {
    "shards of 1e12 clips": {"shard_clips": 10**12},
    "shards of a size that is not said": {"shard_clips": "auto"},
    "frames of 1e12 px": {"frames": {"size": 10**12}},
    "1e12 slots": {"frames": {"slots": 10**12}},
    "200 views": {"views": [{"kind": "full", "name": f"v{number}"} for number in range(200)]},
    "a view that leads out": {"views": [{"kind": "full", "name": "../../precious"}]},
    "a view with escapes": {"views": [{"kind": ESCAPES, "name": ESCAPES}]},
    "a grid of 1e9 cells": {"views": [{"kind": "motion", "grid": [10**9, 10**9]}]},
    "overrides that are null": {"views": [{"kind": "motion", "overrides": {"keep": None, "tolerance": "x"}}]},
    "a key with escapes": {ESCAPES: 1},
}.items():
    spoils(name)(lambda store, values=values: recipe(store, **values))

for name, text in {
    "nested 200,000 times": "[" * DEEP,
    "nested 200,000 times, closed": "[" * DEEP + "]" * DEEP,
    "objects nested 900 times": '{"node_type": "group", "attributes": ' + '{"a":' * 900 + "1" + "}" * 901,
    "a number of 5,000 digits": '{"node_type": "group", "attributes": {"mocrop_format": 1' + "0" * 5000 + "}}",
    "not UTF-8": "\udcff\udcfe{",
    "only spaces": " " * (80 << 20),
    "NaN": '{"node_type": "group", "attributes": {"mocrop_format": NaN}}',
    "lone surrogates": '{"node_type": "group", "attributes": {"mocrop_format": "\\ud800\\udfff"}}',
    "a string": '"\\u001b[2J"',
}.items():  # fmt: skip
    for place in ("", "id", "progress/boxes/mocrop/00000", "progress/lock", "progress/damaged", "views/mocrop"):
        if place in ("", "progress/boxes/mocrop/00000") or text.startswith("["):
            spoils(f"{place or 'root'}: {name}")(
                lambda store, place=place, text=text: [
                    document(store, place).parent.mkdir(exist_ok=True),
                    document(store, place).write_bytes(text.encode("utf-8", "surrogateescape")),
                ]
            )

for name, change in {
    "ids with escapes": lambda ids: [f"{id}{ESCAPES}" for id in ids],
    "ids that lead out": lambda ids: [f"../../{PRECIOUS}/{number}" for number, id in enumerate(ids)],
    "ids that are absolute": lambda ids: [f"/tmp/owned/{number}" for number, id in enumerate(ids)],
    "ids that are alike": lambda ids: ["A/a"] * len(ids),
    "ids of a megabyte": lambda ids: [f"{id}{'x' * (1 << 20)}" for id in ids],
    "ids that are empty": lambda ids: [""] * len(ids),
    "ids with formulas": lambda ids: [f"=cmd|' /C calc'!A{number}" for number, id in enumerate(ids)],
    "one id too few": lambda ids: ids[:-1],
}.items():
    spoils(name)(lambda store, change=change: texts(store, "id", change))

spoils("reasons with escapes")(
    lambda store: [
        texts(store, "reason", lambda old: [f"boxes: {ESCAPES}"] * len(old)),
        forge(
            store,
            "progress/boxes/mocrop/00000",
            lambda it: it.update(clips={id: {"reason": f"boxes: {ESCAPES}"} for id in it["clips"]}),
        ),
    ]
)
for name, path, value in (
    ("states that are unknown", "state", 9), ("sources that are unknown", "views/mocrop/source", 9),
    ("labels that have no class", "label", 3000), ("labels below zero", "label", -7),
    ("frames of a size below zero", "frame_size", -5), ("frames of a size of 2e9", "frame_size", 2_000_000_000),
    ("a number of frames below zero", "num_frames", -5), ("2e9 frames", "num_frames", 2_000_000_000),
    ("boxes out of their frames", "views/mocrop/box", 2_000_000_000), ("boxes below zero", "views/mocrop/box", -9),
    ("scores of infinity", "views/mocrop/score", np.inf), ("scores of NaN", "views/mocrop/score", np.nan),
    ("frames in no order", "views/full/frame_index", 7), ("no frames", "views/full/frame_index", -1),
    ("frames far below zero", "views/full/frame_index", -2_000_000_000), ("splits that are unknown", "split", 200),
):  # fmt: skip
    spoils(name)(lambda store, path=path, value=value: table(store, path, lambda old: old.fill(value)))

for name, data, sealed in (
    ("a chunk that is cut", b"\x28\xb5\x2f\xfd\x20", True), ("a chunk that is empty", b"", False),
    ("a chunk with a wrong checksum", b"12345678", False), ("a chunk of noise", bytes(range(256)), True),
    ("a bomb of 6 GB", bomb(6 << 30), True), ("a bomb of 200 MB", bomb(200 << 20), True),
):  # fmt: skip
    for path in ("id", "label"):
        spoils(f"{path}: {name}")(
            lambda store, path=path, data=data, sealed=sealed: chunk(store, path, data, sealed=sealed)
        )


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    make(path)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 << 30)


for name, make in {
    "a FIFO": os.mkfifo,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": os.mkdir,
    "20 GB of nothing": _sparse,
}.items():
    for key in ("zarr.json", "id/zarr.json", "id/c.0", "progress/boxes/mocrop/00000/zarr.json",
                "views/full/frames/c.0.0.0.0.0", "motion/00000/c.0.0.0"):  # fmt: skip
        spoils(f"{key}: {name}")(lambda store, key=key, make=make: _replaced(store / key, make))

for name, path, values in (
    ("1e12 frames in a record", "progress/motion/00000", {"frames": 10**12}),
    ("2e9 frames in a record", "progress/motion/00000", {"frames": 2_000_000_000}),
    ("frames below zero in a record", "progress/motion/00000", {"frames": -3}),
    ("sizes of 1e12 in a record", "progress/motion/00000", {"size": [10**12, 10**12]}),
    ("a size of one number in a record", "progress/motion/00000", {"size": [7]}),
    ("1e10 vectors in a record", "progress/motion/00000", {"vectors": 10**10}),
    ("key frames below zero", "progress/motion/00000", {"key_frames": [-4, 1]}),
    ("key frames in words", "progress/motion/00000", {"key_frames": "all"}),
    ("notes that are a number", "progress/motion/00000", {"notes": 7}),
    ("notes with escapes", "progress/motion/00000", {"notes": {"damage": ESCAPES}}),
    ("a box of words", "progress/boxes/mocrop/00000", {"box": ["a", "b", "c", "d"]}),
    ("a box of 1e9 px", "progress/boxes/mocrop/00000", {"box": [0, 0, 10**9, 10**9]}),
    ("a box out of its frame", "progress/boxes/mocrop/00000", {"box": [0, 0, 60_000, 1]}),
    ("a box that is empty", "progress/boxes/mocrop/00000", {"box": [9, 9, 9, 9]}),
    ("a source in a record that is unknown", "progress/boxes/mocrop/00000", {"source": 250}),
    ("a score in words", "progress/boxes/mocrop/00000", {"score": "best"}),
    ("100 indices for 8 slots", "progress/clips/full/00000", {"frame_index": list(range(100))}),
    ("indices below zero", "progress/clips/full/00000", {"frame_index": [-5, 1]}),
    ("indices of 2e9", "progress/clips/full/00000", {"frame_index": [2_000_000_000]}),
    ("a source file that is a number", "progress/transcode/00000", {"source": 7, "bytes": -1}),
    ("H.264 of words", "progress/transcode/00000", {"h264": [1], "h264_bytes": "x", "frames": ESCAPES}),
):
    spoils(name)(lambda store, path=path, values=values: rows(store, path, **values))


def _objects(store: Path, key: str) -> None:
    os.mkfifo(store / "motion/fifo")
    forge(
        store,
        "progress/motion/00000",
        lambda it: (it["objects"].update({key: "0" * 32}), it["sizes"].update({key: 1})),
    )


for key in ("/dev/zero", "../../../../../../etc/shadow", "motion/fifo", f"motion/../../{PRECIOUS}/film.mkv"):
    spoils(f"objects: {key}")(lambda store, key=key: _objects(store, key))
spoils("clips of another store")(
    lambda store: forge(store, "progress/motion/00000", lambda it: it.update(clips={"x/y": {"reason": "motion: x"}}))
)
spoils("clips that are a list")(lambda store: forge(store, "progress/motion/00000", lambda it: it.update(clips=[1, 2])))
spoils("sizes of 1e30 bytes")(
    lambda store: forge(store, "progress/motion/00000", lambda it: it.update(sizes=dict.fromkeys(it["sizes"], 10**30)))
)
spoils("seconds that are a number")(
    lambda store: edit(store, "progress", lambda it: it["attributes"].update(seconds=7))
)
spoils("seconds in words")(
    lambda store: edit(store, "progress", lambda it: it["attributes"].update(seconds={"motion": ESCAPES, ESCAPES: 1}))
)


def _lock(store: Path, **values: Any) -> None:
    (store / "progress/lock").mkdir(exist_ok=True)
    holder = {"token": "a", "host": "b", "place": "c", "pid": 1, "started": "d", "since": "e",
              "seen": "2020-01-01T00:00:00+00:00"} | values  # fmt: skip
    document(store, "progress/lock").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": holder})
    )


for name, values in {
    "a lock of a path": {"pid": "../../etc", "host": ESCAPES},
    "a lock of lists": {"pid": [1], "place": {"a": 1}, "seen": 7},
    "a lock from the year 9999": {"seen": "9999-12-31T23:59:59+00:00", "host": ESCAPES},
    "a lock with more to say": {"more": 1},
}.items():
    spoils(name)(lambda store, values=values: _lock(store, **values))


@spoils("params of other types")
def params(store: Path) -> None:
    edit(store, "views/mocrop", lambda it: it["attributes"]["params"].update(grid=[1], crop_ratio="x", tolerance=None))


@spoils("params of 1e9 cells")
def large_params(store: Path) -> None:
    edit(store, "views/mocrop", lambda it: it["attributes"]["params"].update(grid=[10**9, 10**9]))


@spoils("no params")
def no_params(store: Path) -> None:
    edit(store, "views/mocrop", lambda it: it["attributes"].clear())


def linked(place: Path, target: Path) -> None:
    """Put a link to ``target`` in the place of a file or a folder, whose content goes along but for H.264 files."""
    if place.is_dir() and not place.is_symlink():
        shutil.copytree(place, target, dirs_exist_ok=True)
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    for video in target.rglob("*.mp4"):
        video.unlink()
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


for name in ("motion", "progress", "views", "views/full", "views/full/frames", "motion/00000",
             "progress/boxes", "progress/clips/full", "progress/lock", "id"):  # fmt: skip
    spoils(f"{name} is a link")(
        lambda store, name=name: linked(store / name, store.parent / PRECIOUS / "linked" / name.replace("/", "-"))
    )
for name in ("h264", "stores", "sources", "logs", "h264/Class"):
    spoils(f"work folder: {name} is a link")(
        lambda store, name=name: linked(
            Path(f"{store}.work") / name.replace("Class", sorted(os.listdir(f"{store}.work/h264"))[0]),
            store.parent / PRECIOUS / "linked-work" / name.replace("/", "-"),
        )
    )
spoils("the work folder is a link")(
    lambda store: linked(Path(f"{store}.work"), store.parent / PRECIOUS / "linked-whole")
)


@spoils("work folder: a note of brackets")
def note_of_brackets(store: Path) -> None:
    for note in [*Path(f"{store}.work/h264").rglob("*.json"), Path(f"{store}.work/stores/{'a' * 16}.json")]:
        note.write_text("[" * DEEP)


@spoils("work folder: notes that are FIFOs")
def note_of_fifos(store: Path) -> None:
    for note in [*Path(f"{store}.work/h264").rglob("*.json"), Path(f"{store}.work/stores/{'a' * 16}.json")]:
        note.unlink(missing_ok=True)
        os.mkfifo(note)


@spoils("work folder: notes of other types")
def note_of_types(store: Path) -> None:
    for note in Path(f"{store}.work/h264").rglob("*.json"):
        values = json.loads(note.read_text())
        note.write_text(json.dumps(values | {"frames": ESCAPES}))
    Path(f"{store}.work/stores/{'a' * 16}.json").write_text(json.dumps({"store": [ESCAPES]}))
