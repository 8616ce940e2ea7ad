"""Shards that are encoded piece by piece: the same content as zarr's own way of writing gives."""

from __future__ import annotations

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
from data_specs.recipes import FrameCodec, Frames, FullView, Recipe
from data_specs.schema import MOTION_FIELDS, TEXTURE_CHUNK
from data_specs.shard_format import encoder, shard
from data_specs.stored import VectorReader, run
from mocrop_core import PACKED, VECTOR
from pipelines.store.shard_writer import VECTOR_CHUNK, FrameWriter, VectorWriter
from pipelines.store.writer import HashingStore, create

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
    sizes = [[f.stat().st_size for f in sorted((tmp_path / name / "views/full/frames/c").rglob("0")) if f.is_file()]
             for name in ("ours", "zarrs")]  # fmt: skip
    assert sizes[0] == sizes[1] != [], "the same chunks, in another order"
    assert list(store.taken()[0]) == [f"views/full/frames/c/{rows.start // SHARD}/0/0/0/0"]


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
    assert not [path for path in (tmp_path / "views/full/frames/c").rglob("*") if path.is_file()]


def test_a_shard_of_black_frames_is_there(tmp_path: Path) -> None:
    store = new_store(tmp_path, FrameCodec())
    writer = FrameWriter(store, "views/full/frames", range(4))
    writer.put(2, 0, np.zeros((SIDE, SIDE, 3), np.uint8))
    writer.write()
    assert (tmp_path / "views/full/frames/c/0/0/0/0/0").stat().st_size == 16 * SHARD * SLOTS + 4
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


def test_vectors_read_back_and_each_chunk_is_the_one_that_zarr_writes(tmp_path: Path) -> None:
    store = HashingStore(LocalStore(tmp_path / "ours"))
    writer = VectorWriter(store, 3)
    blocks = [some_vectors(VECTOR_CHUNK // 2, 0), some_vectors(VECTOR_CHUNK, 1), some_vectors(100, 2)]
    bounds = [0]
    for block in blocks:
        writer.append(block)
        bounds.append(writer.count)
    writer.close(bounds, [0] * len(bounds), [4, 4, 4])
    reader = VectorReader(store, 3)
    for clip, block in enumerate(blocks):
        found = reader.read(clip)
        assert found.dtype == VECTOR
        assert np.array_equal(found["dx"] * 4, block["motion_x"])
        assert np.array_equal(found["frame"], block["frame"])
    everything = np.concatenate(blocks)
    for name, field in MOTION_FIELDS.items():
        ours = zarr.open_array(store, path=f"motion/00003/{name}", mode="r")
        metadata: Any = ours.metadata
        theirs = zarr.create_array(
            LocalStore(tmp_path / "zarrs"), name=name, shape=ours.shape, dtype=ours.dtype, chunks=ours.chunks,
            compressors=metadata.codecs[1:], fill_value=0,
        )  # fmt: skip
        theirs[:] = everything[field]
        files = sorted((tmp_path / "zarrs" / name / "c").glob("*"))
        kept = sorted((tmp_path / "ours/motion/00003" / name / "c").glob("*"))
        assert [file.name for file in kept] == [file.name for file in files]
        assert [file.read_bytes() for file in kept] == [file.read_bytes() for file in files]
        assert files or name in ("h", "y", "dy"), "columns of zeros alone have no chunk"


def test_what_is_rolled_back_leaves_no_chunk(tmp_path: Path) -> None:
    def written(folder: Path, with_failure: bool) -> dict[str, bytes]:
        writer = VectorWriter(HashingStore(LocalStore(folder)), 0)
        texture = np.arange(1200, dtype=np.uint8).reshape(30, 40)
        writer.append(some_vectors(1000, 0))
        writer.append_texture(texture)
        if with_failure:
            mark = writer.mark()
            writer.append(some_vectors(3 * VECTOR_CHUNK, 1))
            writer.append_texture(np.full(3 * TEXTURE_CHUNK, 9, np.uint8))
            writer.rollback(mark)
        writer.append(some_vectors(500, 2))
        writer.append_texture(texture[::-1])
        writer.close([0, 1000, 1500], [0, 1200, 2400], [4, 4])
        textures = VectorReader(LocalStore(folder), 0)
        assert np.array_equal(textures.textures(0, (1, 30, 40))[0], texture)
        assert np.array_equal(textures.textures(1, (1, 30, 40))[0], texture[::-1])
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    assert written(tmp_path / "failed", True) == written(tmp_path / "whole", False)


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
