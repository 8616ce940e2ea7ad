"""The codec mocrop.jpeg: what it stores comes back, and what it cannot store is refused."""

from __future__ import annotations

import io
import json
import pickle
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from zarr.codecs import Crc32cCodec, ShardingCodec
from zarr.registry import get_codec_class

from data_specs.jpeg import CODEC_NAME, JpegCodec
from tests.places import ROOT
from tests.support.rewriting import rewrite

REPOSITORY = ROOT
SIDE = 96


def photograph(seed: int, height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """An image with a soft photograph's spectrum, correlated channels and a hard edge, (height, width, 3)."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    layers = []
    for _ in range(2):
        phase = np.exp(2j * np.pi * rng.random(frequency.shape))
        layer = np.fft.irfft2(phase / frequency**2, s=(height, width))
        layers.append((layer - layer.mean()) / (layer.std() + 1e-9))
    light, hue = layers
    colours = 120 + 45 * light[..., None] + 18 * hue[..., None] * np.array([1.0, -0.2, -0.8])
    colours[:, width // 2 :] += 30
    image: NDArray[np.uint8] = np.clip(colours, 0, 255).astype(np.uint8)
    return image


def clips(number: int = 2, frames: int = 4) -> NDArray[np.uint8]:
    images = [photograph(seed) for seed in range(number * frames)]
    return np.stack(images).reshape(number, frames, SIDE, SIDE, 3)


def sharded_array(folder: Path, values: NDArray[np.uint8], quality: int = 95) -> zarr.Array[Any]:
    """An array of one shard with one frame a chunk, each guarded by a checksum."""
    frame = (1, 1, *values.shape[2:])
    codecs = [ShardingCodec(chunk_shape=frame, codecs=[JpegCodec(quality=quality), Crc32cCodec()])]
    array = zarr.create_array(
        folder, shape=values.shape, chunks=values.shape, dtype="uint8", serializer=codecs[0], compressors=None
    )
    array[...] = values
    return array


def plain_array(folder: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str = "uint8") -> Any:
    return zarr.create_array(
        folder, shape=shape, chunks=chunks, dtype=dtype, serializer=JpegCodec(quality=95), compressors=None
    )


@pytest.mark.parametrize(("quality", "mean_error", "largest_error"), [(95, 1.25, 10), (90, 1.6, 14)])
def test_a_photograph_comes_back_within_the_stated_error(
    tmp_path: Path, quality: int, mean_error: float, largest_error: int
) -> None:
    values = clips()
    sharded_array(tmp_path / "a", values, quality)
    back = np.asarray(zarr.open_array(tmp_path / "a", mode="r")[...])
    error = np.abs(back.astype(int) - values)
    assert 0 < error.mean() < mean_error
    assert error.max() <= largest_error


def test_colour_that_changes_every_pixel_is_kept(tmp_path: Path) -> None:
    stripes = np.full((1, SIDE, SIDE, 3), (200, 80, 80), np.uint8)
    stripes[:, :, ::2] = (80, 80, 200)
    array = plain_array(tmp_path / "a", stripes.shape, stripes.shape)
    array[...] = stripes
    assert np.abs(np.asarray(array[...]).astype(int) - stripes).max() <= 12


def test_a_sharded_array_with_checksums_reopens_frame_by_frame(tmp_path: Path) -> None:
    values = clips()
    sharded_array(tmp_path / "a", values)
    array = zarr.open_array(tmp_path / "a", mode="r")
    whole = np.asarray(array[...])
    compared = 0
    for clip in range(values.shape[0]):
        for frame in range(values.shape[1]):
            np.testing.assert_array_equal(np.asarray(array[clip, frame]), whole[clip, frame])
            compared += 1
    assert compared == 8
    assert array.nbytes_stored() < 0.35 * values.nbytes


def test_the_metadata_names_the_codec_and_its_quality(tmp_path: Path) -> None:
    sharded_array(tmp_path / "a", clips(), quality=90)
    metadata = json.loads((tmp_path / "a" / "zarr.json").read_text())
    inner = metadata["codecs"][0]["configuration"]["codecs"]
    assert inner == [
        {"name": "mocrop.jpeg", "configuration": {"quality": 90}},
        {"name": "crc32c"},
    ]


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    values = clips()
    for name in ("a", "b"):
        sharded_array(tmp_path / name, values)
    shards = [(tmp_path / name / "c/0/0/0/0/0").read_bytes() for name in ("a", "b")]
    assert shards[0] == shards[1]
    assert len(shards[0]) > 1000


def test_a_flipped_byte_anywhere_in_a_frame_raises(tmp_path: Path) -> None:
    sharded_array(tmp_path / "a", clips(1, 1))
    shard = tmp_path / "a" / "c/0/0/0/0/0"
    whole = shard.read_bytes()
    size_of_index = 16 + 4
    places = range(0, len(whole) - size_of_index, 997)
    raised = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        rewrite(shard, damaged)
        with pytest.raises(ValueError, match="checksum"):
            zarr.open_array(tmp_path / "a", mode="r")[...]
        raised += 1
    assert raised >= 5


@pytest.mark.parametrize("damage", ["cut", "no image", "another size", "grey"])
def test_a_chunk_that_is_no_frame_of_the_array_raises(tmp_path: Path, damage: str) -> None:
    array = plain_array(tmp_path / "a", (1, SIDE, SIDE, 3), (1, SIDE, SIDE, 3))
    array[...] = clips(1, 1)[0]
    chunk = tmp_path / "a" / "c/0/0/0/0"
    small = io.BytesIO()
    image = Image.fromarray(photograph(0, SIDE // 2, SIDE // 2) if damage == "another size" else photograph(0))
    (image.convert("L") if damage == "grey" else image).save(small, "JPEG")
    whole = chunk.read_bytes()
    rewrite(chunk, {"cut": whole[: len(whole) // 2], "no image": b"\0" * 100}.get(damage, small.getvalue()))
    with pytest.raises(ValueError, match=r"mocrop\.jpeg: the chunk"):
        array[...]


@pytest.mark.parametrize(
    ("shape", "chunks", "dtype", "says"),
    [
        ((4, 8, 8, 3), (2, 8, 8, 3), "uint8", "one RGB frame"),
        ((4, 8, 8), (1, 8, 8), "uint8", "last axes must be"),
        ((8, 3), (8, 3), "uint8", "last axes must be"),
        ((4, 8, 8, 3), (1, 8, 8, 1), "uint8", "one RGB frame"),
        ((4, 8, 8, 3), (1, 8, 8, 3), "uint16", "must be uint8, got uint16"),
        ((1, 65_501, 8, 3), (1, 65_501, 8, 3), "uint8", "sides must be"),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused_when_created(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        plain_array(tmp_path / "a", shape, chunks, dtype)
    assert not (tmp_path / "a" / "zarr.json").exists()


def test_several_frames_in_a_chunk_of_a_shard_are_refused_when_written(tmp_path: Path) -> None:
    shape = (2, 4, 8, 8, 3)
    serializer = ShardingCodec(chunk_shape=(1, 2, 8, 8, 3), codecs=[JpegCodec()])
    array = zarr.create_array(
        tmp_path / "a", shape=shape, chunks=shape, dtype="uint8", serializer=serializer, compressors=None
    )
    with pytest.raises(ValueError, match="one RGB frame"):
        array[...] = np.ones(shape, np.uint8)


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_a_quality_outside_the_range_is_refused(quality: int) -> None:
    with pytest.raises(ValueError, match=f"in 1..100, got {quality}"):
        JpegCodec(quality=quality)


@pytest.mark.parametrize("quality", [True, 95.0, "95", None])
def test_a_quality_that_is_no_integer_is_refused(quality: Any) -> None:
    with pytest.raises(TypeError, match="must be an integer"):
        JpegCodec(quality=quality)


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": CODEC_NAME},
        {"name": CODEC_NAME, "configuration": {}},
        {"name": CODEC_NAME, "configuration": {"quality": 95, "chroma": "4:2:0"}},
        {"name": "jpeg", "configuration": {"quality": 95}},
    ],
)
def test_metadata_of_another_codec_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mocrop\.jpeg"):
        JpegCodec.from_dict(metadata)


def test_the_codec_survives_metadata_and_pickle() -> None:
    codec = JpegCodec(quality=83)
    assert JpegCodec.from_dict(codec.to_dict()) == codec
    assert pickle.loads(pickle.dumps(codec)) == codec


def test_zarr_finds_the_codec_by_its_name_and_by_the_entry_point() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["entry-points"]
    point = EntryPoint(CODEC_NAME, declared["zarr.codecs"][CODEC_NAME], "zarr.codecs")
    assert point.load() is JpegCodec
    assert get_codec_class(CODEC_NAME) is JpegCodec


@settings(max_examples=25)
@given(height=st.integers(1, 40), width=st.integers(1, 40), level=st.integers(0, 255), axes=st.integers(0, 3))
def test_a_flat_frame_of_any_size_comes_back_within_one_level(height: int, width: int, level: int, axes: int) -> None:
    shape = (1,) * axes + (height, width, 3)
    values = np.full(shape, level, np.uint8)
    array = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=shape,
        chunks=shape,
        dtype="uint8",
        serializer=JpegCodec(quality=95),
        compressors=None,
        config={"write_empty_chunks": True},
    )
    array[...] = values
    back = np.asarray(array[...])
    assert back.shape == shape
    assert np.abs(back.astype(int) - level).max() <= 1
