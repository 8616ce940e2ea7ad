"""Batches of cached frames: the bytes, the order, who reads what, and damage on the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import zarr
from torch.utils.data import DataLoader
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec

from data_specs.jpeg import JpegCodec
from data_specs.schema import SEPARATOR
from data_specs.stored import StoreError, open_store
from mocrop_core.frames import sample_segments_test as centre_frames
from tests.support.rewriting import rewrite
from training import shards
from training.clips import Clips, read_clips
from training.options import Failed, Refused
from training.shards import FrameReader
from training.stream import (
    AHEAD,
    ClipStream,
    batches_of_test,
    batches_of_training,
    plan_of_test,
    plan_of_training,
)

CODECS: dict[str, dict[str, Any]] = {
    "raw": {"serializer": BytesCodec(), "compressors": (Crc32cCodec(),)},
    "lz4": {"serializer": BytesCodec(), "compressors": (BloscCodec(cname="lz4"), Crc32cCodec())},
    "zstd": {"serializer": BytesCodec(), "compressors": (ZstdCodec(level=1), Crc32cCodec())},
    "jpeg": {"serializer": JpegCodec(quality=90), "compressors": (Crc32cCodec(),)},
}


def frames_of(store: Path, view: str = "full") -> Any:
    """A view's frames as zarr reads them."""
    return np.asarray(cast("zarr.Array[Any]", zarr.open_group(store, mode="r")[f"views/{view}/frames"])[:])


def recode(store: Path, codec: dict[str, Any], view: str = "full") -> None:
    """Keep a view's frames in another way."""
    frames = frames_of(store, view)
    size = frames.shape[2]
    array = zarr.create_array(
        store,
        name=f"views/{view}/frames",
        shape=frames.shape,
        dtype="uint8",
        chunks=(1, 1, size, size, 3),
        shards=(4, frames.shape[1], size, size, 3),
        chunk_key_encoding={"name": "default", "separator": SEPARATOR},
        overwrite=True,
        **codec,
    )
    array[:] = frames


def shard_file(store: Path, shard: int, view: str = "full") -> Path:
    return store / "views" / view / "frames" / f"c.{shard}.0.0.0.0"


def stream_of(clips: Clips, batch_size: int = 4, segments: int = 5) -> ClipStream:
    stream = ClipStream(clips, threads=2)
    stream.plan = plan_of_test(clips, segments)
    stream.batches = batches_of_test(stream.plan.order, batch_size, 0, 1)
    return stream


@pytest.fixture
def pieces_of_two_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_PIECE", 2 * 96 * 96 * 3 + 1)


@pytest.mark.usefixtures("pieces_of_two_frames")
@pytest.mark.parametrize("codec", CODECS)
def test_batches_hold_the_frames_that_zarr_reads(own_ucf_store: Path, codec: str) -> None:
    recode(own_ucf_store, CODECS[codec])
    frames = frames_of(own_ucf_store)
    clips = read_clips(str(own_ucf_store), "full", 1, "test")
    seen = 0
    for batch in stream_of(clips):
        for position, label, got in zip(batch.positions.tolist(), batch.labels.tolist(), batch.frames, strict=True):
            slots = centre_frames(int(clips.frames[position]), 5)
            assert (got.numpy() == frames[clips.rows[position], slots]).all()
            assert label == clips.labels[position]
            seen += 1
    assert seen == len(clips) == 10


def test_indexes_are_bounded_in_memory(ucf_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = read_clips(str(ucf_store), "full", 1, "test")
    unbounded, frames = FrameReader(clips), np.empty((2, clips.size, clips.size, 3), np.uint8)
    monkeypatch.setattr(shards, "INDEX_BYTES", 1)
    bounded = FrameReader(clips)
    for position in [*range(len(clips)), *range(len(clips))]:
        unbounded.read(np.full(2, position), np.array([0, 1]), frames)
        expected = frames.copy()
        bounded.read(np.full(2, position), np.array([0, 1]), frames)
        assert (frames == expected).all()
        assert frames.any()
        assert len(bounded._indexes) == 1
    assert len(unbounded._indexes) > 2


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_frames_that_nobody_wrote_because_they_are_black_are_black(own_ucf_store: Path, codec: str) -> None:
    recode(own_ucf_store, CODECS[codec])
    array = cast("zarr.Array[Any]", zarr.open_group(own_ucf_store, mode="r+")["views/full/frames"])
    array[4:8] = np.concatenate([np.zeros_like(array[4:5]), np.asarray(array[5:8])])
    clips = read_clips(str(own_ucf_store), "full", 2, "test")
    assert clips.rows[0] == 4
    (batch,) = stream_of(clips)
    assert not batch.frames[0].any()
    assert batch.frames[1:].flatten(1).any(1).all()


def test_the_disk_is_asked_beforehand_or_not_and_mapped_frames_are_the_same(
    own_ucf_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recode(own_ucf_store, CODECS["raw"])
    reads: list[int] = []
    inner = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *given: reads.append(inner(*given)) or reads[-1])
    stream = stream_of(read_clips(str(own_ucf_store), "full", 1, "test"))
    first = [batch.frames.clone() for batch in stream]
    for _ in range(2 * shards._ASKED // len(first)):
        assert all(torch.equal(batch.frames, frames) for batch, frames in zip(stream, first, strict=True))
    assert not reads, "no frame is read one by one"


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_a_shard_that_is_replaced_between_epochs_gives_its_own_frames(own_ucf_store: Path, codec: str) -> None:
    """Simulates a run that retries a quarantined clip: the frames of the others then have other offsets."""
    recode(own_ucf_store, CODECS[codec])
    array = cast("zarr.Array[Any]", zarr.open_group(own_ucf_store, mode="r+")["views/full/frames"])
    frames = frames_of(own_ucf_store)
    frames[5, 3] = 0
    array[4:8] = frames[4:8]
    clips = read_clips(str(own_ucf_store), "full", 2, "train")  # not clip 4
    stream = stream_of(clips, batch_size=1, segments=8)
    slots = stream.plan.slots

    def right(batch: Any) -> bool:
        (position,) = batch.positions.tolist()
        return bool((batch.frames[0].numpy() == frames[clips.rows[position], slots[position]]).all())

    assert all(map(right, stream))
    length = shard_file(own_ucf_store, 1).stat().st_size
    frames[4, 0] = 0  # not kept: all that follow lie elsewhere
    array[4:8] = frames[4:8]
    assert shard_file(own_ucf_store, 1).stat().st_size < length
    assert all(map(right, stream))


@pytest.mark.parametrize("codec", ["raw", "zstd"])
def test_shards_that_are_replaced_all_the_time_end_the_reading_in_one_line(
    own_ucf_store: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    recode(own_ucf_store, CODECS[codec])
    inner = os.pread

    def read_and_replace(*given: int) -> bytes:
        found = inner(*given)
        for file in (own_ucf_store / "views/full/frames").glob("c.*"):
            rewrite(file, file.read_bytes())
        return found

    monkeypatch.setattr(os, "pread", read_and_replace)
    with pytest.raises(Failed, match="its shards are replaced while they are read; wait for the run"):
        list(stream_of(read_clips(str(own_ucf_store), "full", 1, "test")))


def test_a_mapped_shard_keeps_no_file_open(own_ucf_store: Path) -> None:
    recode(own_ucf_store, CODECS["raw"])
    clips = read_clips(str(own_ucf_store), "full", 1, "test")
    stream = stream_of(clips)
    assert sum(len(batch.labels) for batch in stream) == len(clips)
    assert str(shard_file(own_ucf_store, 0)) in Path("/proc/self/maps").read_text()
    links = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    opened = [os.readlink(link) for link in links if link.is_symlink()]  # one was the listing's own
    assert [path for path in opened if path.startswith(str(own_ucf_store))] == []


def test_memory_is_lent_again_when_nobody_holds_a_part_of_it(ucf_store: Path) -> None:
    stream = stream_of(read_clips(str(ucf_store), "full", 1, "test"), batch_size=2)
    held = [batch.frames[1, 2].numpy() for batch in stream]  # one picture of each
    contents = [picture.copy() for picture in held]
    for _ in range(5):
        for _ in stream:
            pass
    assert all((picture == content).all() for picture, content in zip(held, contents, strict=True))
    assert stream._opened is not None
    assert 0 < len(stream._opened[3]._free) <= AHEAD + 2


def test_reading_threads_share_no_work_out_and_the_others_still_do(ucf_store: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        stream = stream_of(read_clips(str(ucf_store), "full", 1, "test"))
        assert len(list(stream)) == 3
        assert stream._opened is not None
        assert stream._opened[2].submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_only_the_frames_that_are_needed_are_read(ucf_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = read_clips(str(ucf_store), "full", 1, "train")
    read: list[int] = []
    inner = FrameReader.read

    def counted(self: FrameReader, positions: Any, slots: Any, out: Any) -> None:
        read.append(len(slots))
        inner(self, positions, slots, out)

    monkeypatch.setattr(FrameReader, "read", counted)
    stream = ClipStream(clips)
    stream.plan = plan_of_training(clips, 3, seed=0, epoch=0)
    stream.batches = batches_of_training(stream.plan.order, 2)
    assert [tuple(batch.frames.shape) for batch in stream] == [(2, 3, 96, 96, 3)] * 2
    assert sum(read) == 4 * 3


def test_order_frames_and_draws_are_a_function_of_seed_and_epoch(ucf_store: Path) -> None:
    clips = read_clips(str(ucf_store), "mocrop", 1, "test")

    def fixed(seed: int, epoch: int) -> list[Any]:
        plan = plan_of_training(clips, 3, seed, epoch)
        assert plan.draws is not None
        assert plan.draws.colours is not None
        return [
            part.tolist() for part in (plan.order, plan.slots, plan.draws.windows, plan.draws.flips, plan.draws.colours)
        ]

    assert fixed(1, 2) == fixed(1, 2)
    for other in ((1, 3), (2, 2)):
        assert all(mine != theirs for mine, theirs in zip(fixed(1, 2), fixed(*other), strict=True))


def test_drawn_frames_are_cached_ones_in_order(ucf_store: Path) -> None:
    clips = read_clips(str(ucf_store), "full", 1, "test")
    for epoch in range(20):
        slots = plan_of_training(clips, 3, 0, epoch).slots
        assert (slots >= 0).all()
        assert (slots < clips.frames[:, None]).all()
        assert (np.diff(slots, axis=1) >= 0).all()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_a_training_step_evenly_and_without_overlap(world: int) -> None:
    order = np.random.default_rng(0).permutation(50)
    shares = [batches_of_training(order, 4, rank, world) for rank in range(world)]
    assert {len(mine) for mine in shares} == {50 // (4 * world)}
    steps = [np.concatenate(step) for step in zip(*shares, strict=True)]
    assert np.concatenate(steps).tolist() == order[: len(steps) * 4 * world].tolist()


@pytest.mark.parametrize("world", [1, 2, 3, 7, 60])
def test_processes_test_every_clip_once_and_none_to_fill_up(world: int) -> None:
    order = np.arange(50)
    found = [
        clip for rank in range(world) for batch in batches_of_test(order, 4, rank, world) for clip in batch.tolist()
    ]
    assert sorted(found) == order.tolist()


def test_a_batch_larger_than_the_train_list_is_refused() -> None:
    with pytest.raises(Refused, match=r"--batch-size 6: 2 x 6 clips per step, the train list has 10; give at most 5"):
        batches_of_training(np.arange(10), 6, 0, 2)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.soak)])
def test_worker_processes_give_the_same_batches_in_the_same_order(ucf_store: Path, start: str) -> None:
    stream = stream_of(read_clips(str(ucf_store), "full", 1, "test"), batch_size=3)
    here = list(stream)  # the parent has read before its children do
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context=start)
    there = list(loader)
    assert len(here) == len(there) == 4
    for mine, theirs in zip(here, there, strict=True):
        assert mine.positions.tolist() == theirs.positions.tolist()
        assert torch.equal(mine.frames, theirs.frames)


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    rewrite(file, content)


def flip_a_byte_of_the_last_frame(file: Path) -> None:
    """Of the first clip."""
    content = bytearray(file.read_bytes())
    slots = 8
    offset, _ = np.frombuffer(content[-(4 * slots * 16 + 4) : -4], "<u8").reshape(-1, 2)[slots - 1].tolist()
    content[offset] ^= 1
    rewrite(file, content)


def spoil_the_index(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    rewrite(file, content)


def cut(file: Path) -> None:
    rewrite(file, file.read_bytes()[:-1])


@pytest.mark.usefixtures("pieces_of_two_frames")
@pytest.mark.parametrize("codec", ["raw", "zstd"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "frame 0: its checksum does not match"),
        (flip_a_byte_of_the_last_frame, "frame 7: its checksum does not match"),
        (spoil_the_index, "index of .*: its checksum does not match"),
        (cut, "its checksum does not match"),
        (Path.unlink, "its shard is missing"),
        (lambda file: rewrite(file, b""), "its shard is truncated"),
    ],
)
def test_damage_in_the_middle_of_an_epoch_names_the_clip_and_the_way_out(
    own_ucf_store: Path, codec: str, damage: Callable[[Path], object], reason: str
) -> None:
    recode(own_ucf_store, CODECS[codec])
    clips = read_clips(str(own_ucf_store), "full", 1, "test")
    second = clips.ids[int(np.flatnonzero(clips.rows == 8)[0])]
    stream = stream_of(clips, batch_size=1, segments=8)
    iterator = iter(stream)
    assert next(iterator).positions.tolist() == [0]
    damage(shard_file(own_ucf_store, 2))
    fresh = iter(stream_of(clips, batch_size=1, segments=8))
    with pytest.raises(Failed, match=rf"clip '{second}', view 'full', .*{reason}.*mocrop verify .*mocrop preprocess"):
        list(fresh)


def test_frames_kept_in_an_unknown_way_are_refused(own_ucf_store: Path) -> None:
    recode(own_ucf_store, {"serializer": BytesCodec(), "compressors": (ZstdCodec(level=1),)})  # no checksum
    clips = read_clips(str(own_ucf_store), "full", 1, "test")
    with pytest.raises(StoreError, match=r"views/full/frames .* codecs are \['bytes', 'zstd'\], expected one of"):
        list(stream_of(clips))


def test_the_store_is_opened_by_the_process_that_reads(ucf_store: Path) -> None:
    stream = stream_of(read_clips(str(ucf_store), "full", 1, "test"))
    assert stream._opened is None
    assert len(list(stream)) == 3
    assert stream._opened is not None
    assert stream.__getstate__()["_opened"] is None
    assert open_store(ucf_store).views == ["full", "centre", "random", "mocrop"]
