"""Packed records, byte by byte: the layout decoded by hand, damage, and precedence of a record of its own."""

from __future__ import annotations

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs.zstd import Zstd

from data_specs import record_packs
from data_specs.locations import Replaced
from data_specs.record_packs import LEAST, PACK, encoded, is_packed, pack, pack_array, pack_of, record_documents
from data_specs.shard_format import checksummed
from data_specs.stored import run, zarr_store
from pipelines.store.writer import array_document
from tests.support.rewriting import rewrite

DOCUMENTS = {number: b'{"shard": %d, "text": "%s"}' % (number, b"x" * number) for number in (0, 3, PACK - 1)}
OBJECT = "progress/motion/records/c.0"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of nothing but the packed records `DOCUMENTS`."""
    (tmp_path / OBJECT).parent.mkdir(parents=True)
    (tmp_path / OBJECT).write_bytes(packed())
    return tmp_path


def packed() -> bytes:
    return pack({number: encoded(document) for number, document in DOCUMENTS.items()})


def read(store: Path, *shards: int, own: set[str] | None = None) -> dict[int, bytes]:
    return record_documents(zarr_store(str(store), read_only=True), "motion", None, shards, own)


def test_an_object_is_chunks_of_one_string_and_an_index_at_its_end() -> None:
    data = packed()
    index, checksum = data[-16 * 1024 - 4 : -4], data[-4:]
    assert struct.unpack("<I", checksum) == (google_crc32c.value(index),)
    places = np.frombuffer(index, "<u8").reshape(1024, 2)
    assert np.flatnonzero(places[:, 0] != 2**64 - 1).tolist() == sorted(DOCUMENTS)
    end = 0
    for number, document in DOCUMENTS.items():
        offset, length = places[number].tolist()
        assert offset == end
        chunk, checksum = data[offset : offset + length - 4], data[offset + length - 4 : offset + length]
        assert struct.unpack("<I", checksum) == (google_crc32c.value(chunk),)
        assert Zstd().decode(chunk) == struct.pack("<II", 1, len(document)) + document
        end = offset + length
    assert end + len(index) + 4 == len(data)


def test_plain_zarr_reads_packed_records(store: Path) -> None:
    spec = pack_array("progress/motion", PACK)
    (store / f"{spec.path}/zarr.json").write_bytes(array_document(spec, "auto", (zarr.codecs.ZstdCodec(level=3),)))
    texts = zarr.open_array(f"{store}/progress/motion/records", mode="r")[:]
    assert {number: str(text).encode() for number, text in enumerate(texts) if text} == DOCUMENTS


def test_records_are_read_from_a_pack_in_the_order_asked_for(store: Path) -> None:
    assert list(read(store, PACK - 1, 1, 0, 3).items()) == [(number, DOCUMENTS[number]) for number in (PACK - 1, 0, 3)]
    assert read(store, *range(2 * PACK)) == DOCUMENTS
    assert read(store, PACK, PACK + 3) == {}


def test_a_record_of_its_own_takes_precedence(store: Path) -> None:
    for number in (3, 4):
        group = store / f"progress/motion/{number:05}"
        group.mkdir()
        (group / "zarr.json").write_bytes(b"newer")
    newer = {**DOCUMENTS, 3: b"newer", 4: b"newer"}
    assert read(store, 0, 3, 4) == {number: newer[number] for number in (0, 3, 4)}
    assert read(store, *range(PACK)) == dict(sorted(newer.items())), "of many, after listing the folder"


def test_a_record_that_was_packed_after_the_groups_were_listed_is_found(store: Path) -> None:
    listed = {f"progress/motion/{number:05}" for number in DOCUMENTS}
    assert read(store, 0, 3, own=listed) == {number: DOCUMENTS[number] for number in (0, 3)}


def test_no_flipped_byte_changes_a_document_unseen(store: Path) -> None:
    good = (store / OBJECT).read_bytes()
    chunks = len(good) - 16 * PACK - 4
    places = [*range(0, chunks, 3), *range(chunks, len(good), 1009), len(good) - 1]
    assert len(places) > 60
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 4
        rewrite(store / OBJECT, flipped)
        found = read(store, 0, 1, 3, PACK - 1)
        wrong = [number for number, document in found.items() if document != DOCUMENTS.get(number)]
        assert all(found[number] == b"" for number in wrong)
        assert len(wrong) == (1 if place < chunks else 4), "one record of a chunk; all of the index"


@pytest.mark.parametrize("kept", [0, 100, 16 * PACK, -1])
def test_records_of_an_object_that_is_cut_short_are_damaged(store: Path, kept: int) -> None:
    rewrite(store / OBJECT, (store / OBJECT).read_bytes()[:kept])
    assert read(store, 0, 3) == {0: b"", 3: b""}


def test_an_index_that_points_outside_its_object_is_damage(store: Path) -> None:
    data = (store / OBJECT).read_bytes()
    for offset, length in [(len(data), 40), (2**63, 40), (0, 2**63), (0, 3), (len(data) - 8, 40), (0, 0)]:
        index = np.frombuffer(data[-16 * PACK - 4 : -4], "<u8").reshape(PACK, 2).copy()
        index[3] = offset, length
        forged = data[: -16 * PACK - 4] + index.tobytes()
        forged += struct.pack("<I", google_crc32c.value(index.tobytes()))
        rewrite(store / OBJECT, forged)
        assert read(store, 0, 3) == {0: DOCUMENTS[0], 3: b""}


def test_one_chunk_in_all_places_of_an_object_does_not_fill_the_memory(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = encoded(b" " * 1000)
    index = np.tile(np.array([0, len(chunk)], "<u8"), PACK).tobytes()
    rewrite(store / OBJECT, chunk + checksummed(index))
    assert set(read(store, *range(PACK)).values()) == {b" " * 1000}
    monkeypatch.setattr(record_packs, "MAX_PACK", 20_500)
    found = list(read(store, *range(PACK)).values())
    assert found == [b" " * 1000] * 20 + [b""] * (PACK - 20)


def test_parts_of_two_versions_of_a_file_are_never_mixed(store: Path) -> None:
    files = zarr_store(str(store), read_only=True)
    end, version = run(files.end(OBJECT, 4))  # type: ignore[attr-defined]
    assert end == packed()[-4:]
    assert run(files.part(OBJECT, 2, 9, version)) == packed()[2:9]  # type: ignore[attr-defined]
    rewrite(store / OBJECT, packed())
    with pytest.raises(Replaced):
        run(files.part(OBJECT, 2, 9, version))  # type: ignore[attr-defined]


def test_stores_of_few_shards_are_not_packed() -> None:
    assert [is_packed(number) for number in (1, LEAST - 1, LEAST, 10**6)] == [False, False, True, True]
    assert pack_of("progress/boxes/full/01023") == "progress/boxes/full/records/c.0"
    assert pack_of("progress/motion/123456") == "progress/motion/records/c.120"
