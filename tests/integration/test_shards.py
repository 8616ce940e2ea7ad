"""Shards that are encoded piece by piece: the same content as zarr's own way of writing gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.codec import Codec
from zarr.codecs import BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore, MemoryStore

from data_specs.datasets import Clip, Dataset
from data_specs.motion_format import COLUMNS, MOTION_COLUMNS, VECTOR_CHUNK, vector_pages, vectors_of
from data_specs.recipes import FrameCodec, Frames, FullView, Recipe
from data_specs.shard_format import encoder, shard
from data_specs.stored import Damaged, VectorReader, run
from mocrop_core import PACKED, VECTOR
from pipelines.store.shard_writer import FrameWriter, VectorWriter
from pipelines.store.writer import HashingStore, create
from tests.support.rewriting import rewrite

CLIPS, SLOTS, SIDE, SHARD = 7, 3, 24, 4
CODECS = [FrameCodec(name="raw"), FrameCodec(name="lz4"), FrameCodec(name="zstd"), FrameCodec(name="jpeg", quality=80)]


def new_store(folder: Path, codec: FrameCodec) -> HashingStore:
    """An empty store of seven clips in shards of four, with one view."""
    recipe = Recipe(shard_clips=SHARD, frames=Frames(slots=SLOTS, size=SIDE, codec=codec), views=(FullView(),))
    clips = tuple(Clip(f"A/{number}", f"A/{number}.avi", 0) for number in range(CLIPS))
    create(str(folder), Dataset("few", folder, ("A",), clips), recipe, {"ffmpeg": "none"})
    return HashingStore(LocalStore(folder))


def pictures(count: int) -> np.ndarray:
    """Frames with some structure, (count, slots, side, side, 3), of which one is black."""
    ramp = np.add.outer(np.arange(count * SLOTS * SIDE) // 3, np.arange(SIDE * 3)).astype(np.uint8)
    frames = ramp.reshape(count, SLOTS, SIDE, SIDE, 3).copy()
    frames[0, 1] = 0
    return frames


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("rows", [range(0, 4), range(4, 7)], ids=["a whole shard", "the last, of three clips"])
def test_frames_read_back_as_those_that_zarr_writes_itself(tmp_path: Path, codec: FrameCodec, rows: range) -> None:
    frames = pictures(len(rows))
    store = new_store(tmp_path / "ours", codec)
    writer = FrameWriter(store, "views/full/frames", rows)
    for row, clip in enumerate(frames):
        for slot, picture in enumerate(clip):
            writer.put(row, slot, picture)
    writer.write()
    zarrs = zarr.open_array(new_store(tmp_path / "zarrs", codec), path="views/full/frames", mode="r+")
    zarrs[rows.start : rows.stop] = frames
    ours = zarr.open_array(store, path="views/full/frames", mode="r")
    assert np.asarray(ours[:]).any()
    assert np.array_equal(ours[:], zarrs[:])
    sizes = [[file.stat().st_size for file in sorted((tmp_path / name / "views/full/frames").glob("c.*"))]
             for name in ("ours", "zarrs")]  # fmt: skip
    assert sizes[0] == sizes[1] != [], "the same chunks, in another order"
    assert list(store.taken()[0]) == [f"views/full/frames/c.{rows.start // SHARD}.0.0.0.0"]


def test_a_clip_that_is_dropped_leaves_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path, FrameCodec())
    for dropped in ((1,), (0, 1)):
        writer = FrameWriter(store, "views/full/frames", range(4))
        writer.put(0, 0, pictures(1)[0, 0])
        writer.put(1, 2, pictures(1)[0, 2])
        for row in dropped:
            writer.drop(row)
        writer.write()
        array = np.asarray(zarr.open_array(store, path="views/full/frames", mode="r")[:])
        assert array[0].any() == (dropped == (1,))
        assert not array[1:].any()
    assert not list((tmp_path / "views/full/frames").glob("c.*"))


def test_a_shard_of_black_frames_is_there(tmp_path: Path) -> None:
    store = new_store(tmp_path, FrameCodec())
    writer = FrameWriter(store, "views/full/frames", range(4))
    writer.put(2, 0, np.zeros((SIDE, SIDE, 3), np.uint8))
    writer.write()
    assert (tmp_path / "views/full/frames/c.0.0.0.0.0").stat().st_size == 16 * SHARD * SLOTS + 4
    assert not np.asarray(zarr.open_array(store, path="views/full/frames", mode="r")[:]).any()


def test_frames_of_a_part_of_a_shard_are_refused(tmp_path: Path) -> None:
    store = new_store(tmp_path, FrameCodec())
    for rows in (range(0, 3), range(1, 5), range(4, 6)):
        with pytest.raises(ValueError, match="not a whole shard of 4"):
            FrameWriter(store, "views/full/frames", rows)


def some_vectors(count: int, frame: int) -> np.ndarray:
    rng = np.random.default_rng(frame)
    block = np.zeros(count, PACKED)
    block["frame"], block["w"] = frame, 16
    block["motion_x"], block["x"] = rng.integers(-9, 9, count), rng.integers(0, 320, count)
    return block


def test_vectors_and_texture_read_back_and_plain_zarr_reads_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_specs.motion_format.MOTION_BLOCKS", 2)
    monkeypatch.setattr("pipelines.store.shard_writer.MOTION_BLOCKS", 2)
    store = HashingStore(LocalStore(tmp_path))
    writer = VectorWriter(store, 3)
    clips = [some_vectors(VECTOR_CHUNK // 2, 0), some_vectors(2 * VECTOR_CHUNK, 70_000), some_vectors(0, 2),
             some_vectors(100, 2)]  # fmt: skip
    texture = np.random.default_rng(0).integers(0, 256, (4, VECTOR_CHUNK * COLUMNS // 2), np.uint8)
    for vectors, cells in zip(clips, texture, strict=True):
        for block in np.array_split(vectors, 3):
            writer.append(block)
        writer.append_texture(cells)
    counts = [len(vectors) for vectors in clips]
    writer.close(counts, [texture.shape[1]] * 4, [4, 4, 0, 4])
    assert sorted(file.name for file in (tmp_path / "motion/00003").iterdir()) == [
        "c.0.0.0", "c.1.0.0", "c.2.0.0", "zarr.json"]  # fmt: skip
    assert store.taken()[0].keys() == {
        f"motion/00003/{name}" for name in ("c.0.0.0", "c.1.0.0", "c.2.0.0", "zarr.json")
    }

    reader = VectorReader(store, 3)
    assert reader.counts() == counts
    for clip, (vectors, found) in enumerate(zip(clips, reader.read_many([0, 1, 2, 3]), strict=True)):
        assert found.dtype == VECTOR
        assert np.array_equal(found["dx"] * 4, vectors["motion_x"])
        assert np.array_equal(found["dy"] * 4, vectors["motion_y"])
        for field in ("frame", "x", "y", "w", "h"):
            assert np.array_equal(found[field], vectors[field])
        assert np.array_equal(reader.read(clip), found)
        assert np.array_equal(reader.textures(clip, (1, 2, texture.shape[1] // 2)).reshape(-1), texture[clip])
    backwards = reader.read_many([3, 0, 3])
    assert [len(found) for found in backwards] == [100, VECTOR_CHUNK // 2, 100]

    everything, plain = np.concatenate(clips), zarr.open_array(tmp_path / "motion/00003", mode="r")
    assert plain.shards == (2, 8, VECTOR_CHUNK)
    pages = np.asarray(plain[:])
    column = list(MOTION_COLUMNS).index("x")
    assert np.array_equal(pages[:, column].reshape(-1)[: len(everything)].view(np.int16), everything["x"])
    assert np.array_equal(vectors_of(pages[0]), everything[:VECTOR_CHUNK])
    assert np.array_equal(pages[3:].reshape(-1)[: texture.size], texture.reshape(-1))


def test_numbers_at_the_ends_of_their_ranges_are_kept() -> None:
    packed = np.zeros(6, PACKED)
    packed["frame"] = 0, 1, 65_535, 65_536, 9_999_999, 2**17
    packed["w"], packed["h"] = 255, 255
    for field in ("x", "y", "motion_x", "motion_y"):
        packed[field] = -32_768, -1, 0, 1, 255, 32_767
    assert np.array_equal(vectors_of(vector_pages(packed)[:, :6]), packed)
    assert vector_pages(packed)[6, 1:6].tolist() == [1, 0, 2, 510, 65_534], "zigzag"


@pytest.mark.parametrize(("column", "value"), [("w", 0), ("w", 256), ("h", 999), ("frame_high", 40_000)])
def test_numbers_that_no_vector_has_are_refused(column: str, value: int) -> None:
    pages = vector_pages(some_vectors(9, 0))[:, :9]
    pages[list(MOTION_COLUMNS).index(column), 3] = value
    with pytest.raises(ValueError, match="vectors have"):
        vectors_of(pages)


def test_what_is_rolled_back_leaves_no_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_specs.motion_format.MOTION_BLOCKS", 2)
    monkeypatch.setattr("pipelines.store.shard_writer.MOTION_BLOCKS", 2)

    def written(folder: Path, with_failure: bool) -> dict[str, bytes]:
        store = HashingStore(LocalStore(folder))
        writer = VectorWriter(store, 0)
        texture = np.arange(1200, dtype=np.uint8).reshape(30, 40)
        writer.append(some_vectors(VECTOR_CHUNK + 1000, 0))
        writer.append_texture(texture)
        if with_failure:
            mark = writer.mark()
            writer.append(some_vectors(4 * VECTOR_CHUNK, 1))
            writer.append_texture(np.full(2 * VECTOR_CHUNK * COLUMNS, 9, np.uint8))
            assert len(list(folder.rglob("c.*"))) == 2
            writer.rollback(mark)
        writer.append(some_vectors(500, 2))
        writer.append_texture(texture[::-1])
        writer.close([VECTOR_CHUNK + 1000, 500], [1200, 1200], [4, 4])
        reader = VectorReader(LocalStore(folder), 0)
        assert np.array_equal(reader.textures(0, (1, 30, 40))[0], texture)
        assert np.array_equal(reader.textures(1, (1, 30, 40))[0], texture[::-1])
        assert (reader.read(1)["frame"] == 2).all()
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        assert store.taken()[0].keys() == files.keys()
        return files

    assert written(tmp_path / "failed", True) == written(tmp_path / "whole", False)


def test_a_shard_without_vectors_is_one_document(tmp_path: Path) -> None:
    store = HashingStore(LocalStore(tmp_path))
    VectorWriter(store, 0).close([0, 0], [0, 0], [0, 0])
    assert [path.name for path in (tmp_path / "motion/00000").iterdir()] == ["zarr.json"]
    reader = VectorReader(store, 0)
    assert reader.counts() == [0, 0]
    assert len(reader.read(1)) == 0
    assert zarr.open_array(tmp_path / "motion/00000", mode="r").shape == (0, 8, VECTOR_CHUNK)
    with pytest.raises(Damaged, match="it has 2 clips, and no clip 2"):
        reader.read(2)


@pytest.mark.parametrize("name", ["vectors", "texture_cells", "motion_scale"])
def test_a_flipped_digit_in_the_counts_of_vectors_raises(tmp_path: Path, name: str) -> None:
    store = HashingStore(LocalStore(tmp_path))
    writer = VectorWriter(store, 0)
    writer.append(some_vectors(16, 0))
    writer.append_texture(np.ones((4, 4), np.uint8))
    writer.close([16], [16], [16])
    file = tmp_path / "motion/00000/zarr.json"
    document = json.loads(file.read_text())
    document["attributes"][name] = [17]
    rewrite(file, json.dumps(document).encode())
    with pytest.raises(Damaged, match="its attributes do not match their fingerprint"):
        VectorReader(store, 0)


def test_a_shard_is_what_zarr_reads_with_its_index_at_the_end() -> None:
    store = MemoryStore()
    array = zarr.create_array(store, shape=(4, 6), chunks=(2, 2), shards=(4, 6), dtype="<i4", fill_value=7,
                              compressors=(ZstdCodec(level=1), Crc32cCodec()))  # fmt: skip
    metadata: Any = array.metadata
    assert isinstance(metadata, ArrayV3Metadata)
    encode = encoder(metadata.codecs[0].codecs)
    chunk = np.arange(4, dtype="<i4").reshape(2, 2)
    packed = shard({(1, 2): encode(chunk), (0, 0): encode(chunk + 10)}, (2, 3))
    run(store.set("c/0/0", default_buffer_prototype().buffer.from_bytes(packed)))
    expected = np.full((4, 6), 7)
    expected[2:, 4:], expected[:2, :2] = chunk, chunk + 10
    assert np.array_equal(array[:], expected)


@pytest.mark.parametrize("codec", [GzipCodec(), BytesCodec(endian="big")])
def test_a_codec_that_no_store_of_ours_has_is_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="a chunk cannot be encoded with"):
        encoder([codec])
