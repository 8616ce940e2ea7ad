"""H.264 that codes more than it shows: frames and motion vectors are in the same coordinates."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mocrop_core import PACKED
from pipelines.media.decoder import VideoError, extract, rgb_frames
from pipelines.media.encoder import EncodeSettings, transcode, write_video
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.media.sps import CropOffsets, crop_offset
from pipelines.media.video_facts import Motion

FRAMES, HEIGHT, WIDTH = 14, 240, 320
SPS = bytes.fromhex("6764000dacb20283f831831e0220000003002000000641e2854901")  # crops 96 px at the left and top


def scene() -> list[np.ndarray]:
    """A textured square that moves 3 px a frame to the right, over still texture."""
    rng = np.random.default_rng(5)
    ground = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    square = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    frames = [ground.copy() for _ in range(FRAMES)]
    for number, frame in enumerate(frames):
        frame[80:176, 60 + 3 * number : 156 + 3 * number] = square
    return frames


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that shows all of what is coded."""
    path = tmp_path_factory.mktemp("cropping") / "whole.mp4"
    write_video(path, scene(), 25, codec="libx264", crf=10)
    return path


def ffmpeg(*arguments: object) -> None:
    command = [find_ffmpeg().path, "-y", "-v", "error", "-nostdin", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=600)


def cropped(source: Path, target: Path, left: int, top: int, right: int, bottom: int) -> Path:
    """The same coded pictures with other cropping in their parameter sets, written there by FFmpeg."""
    crop = f"h264_metadata=crop_left={left}:crop_top={top}:crop_right={right}:crop_bottom={bottom}"
    start_codes = "h264_mp4toannexb," if target.suffix in (".h264", ".ts") else ""
    ffmpeg("-i", source, "-c", "copy", "-bsf:v", f"{start_codes}{crop}", target)
    return target


def read(path: Path) -> tuple[Motion, np.ndarray]:
    blocks: list[np.ndarray] = []
    motion = extract(path, blocks.append)
    return motion, np.concatenate([np.empty(0, PACKED), *blocks])


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "h264", "ts"])
@pytest.mark.parametrize("crop", [(96, 96, 0, 0), (2, 0, 0, 8), (0, 34, 50, 0), (100, 82, 6, 4)])
def test_vectors_of_a_cropped_stream_are_those_of_its_pixels(
    crop: tuple[int, int, int, int], suffix: str, whole: Path, tmp_path: Path
) -> None:
    """What is left out at the left moves by a part of 32 px too, where a decoder cuts at places in memory only."""
    left, top, right, bottom = crop
    height, width = HEIGHT - top - bottom, WIDTH - left - right
    path = cropped(whole, tmp_path / f"cropped.{suffix}", *crop)
    motion, vectors = read(path)
    assert motion.frame_size == (height, width)
    coded_motion, expected = read(whole)
    expected["x"] -= left
    expected["y"] -= top
    outside = (expected["x"] + expected["w"] // 2 <= 0) | (expected["x"] - expected["w"] // 2 >= width)
    outside |= (expected["y"] + expected["h"] // 2 <= 0) | (expected["y"] - expected["h"] // 2 >= height)
    assert outside.any() or max(left, top) < 8  # the smallest block
    assert np.array_equal(vectors, expected[~outside])
    assert motion.num_vectors == len(vectors) > 500
    assert motion.key_frames == coded_motion.key_frames
    pictures = zip(rgb_frames(path, range(FRAMES)), rgb_frames(whole, range(FRAMES)), strict=True)
    compared = 0
    for (_, picture), (_, coded) in pictures:
        part = coded[top : top + height, left : left + width]
        assert picture.shape == part.shape
        assert np.abs(picture[2:-2, 2:-2].astype(int) - part[2:-2, 2:-2]).max() <= 3  # chroma is filtered at the edges
        compared += 1
    assert compared == FRAMES


@pytest.mark.parametrize("crop", [(0, 0, 0, 8), (0, 0, 14, 0), (0, 0, 0, 0)])
def test_cropping_at_the_right_and_bottom_alone_changes_no_vector(
    crop: tuple[int, int, int, int], whole: Path, tmp_path: Path
) -> None:
    path = cropped(whole, tmp_path / "cropped.mp4", *crop)
    motion, vectors = read(path)
    assert motion.frame_size == (HEIGHT - crop[3], WIDTH - crop[2])
    assert np.array_equal(vectors, read(whole)[1])


def test_motion_is_where_a_transcoded_copy_has_it(whole: Path, tmp_path: Path) -> None:
    kept = cropped(whole, tmp_path / "cropped.mp4", 96, 72, 0, 0)
    transcode(kept, tmp_path / "copy.mp4", EncodeSettings("veryfast", 10), find_ffmpeg(), 60)
    places = []
    for path in (kept, tmp_path / "copy.mp4"):
        motion, vectors = read(path)
        assert motion.frame_size == (168, 224)
        moving = vectors[np.abs(vectors["motion_x"]) > 4]
        assert len(moving) > 100
        places.append((np.median(moving["x"]), np.median(moving["y"])))
    assert np.abs(np.subtract(*places)).max() <= 8


def test_cropping_that_changes_in_mid_stream_is_refused(whole: Path, tmp_path: Path) -> None:
    parts = [
        cropped(whole, tmp_path / "left.h264", 16, 0, 0, 0).read_bytes(),
        cropped(whole, tmp_path / "right.h264", 0, 0, 16, 0).read_bytes(),
    ]
    both = tmp_path / "both.h264"
    both.write_bytes(b"".join(parts))
    with pytest.raises(VideoError, match="its cropping changes: frames start at the pixels 0,0 and 16,0 of the coded"):
        read(both)
    both.write_bytes(parts[0] * 2)
    assert read(both)[0].num_frames == 2 * FRAMES


@pytest.mark.parametrize(
    "options",
    [
        {"profile:v": "baseline"},
        {"pix_fmt": "yuv422p", "profile:v": "high422"},
        {"pix_fmt": "yuv444p", "profile:v": "high444"},
        {"x264-params": "cqm=jvt"},
        {"x264-params": "interlaced=1"},
        {"pix_fmt": "yuv444p", "x264-params": "cqm=jvt:interlaced=1:bframes=3"},
    ],
    ids=lambda options: " ".join(options.values()),
)
def test_the_cropping_of_every_kind_of_parameter_set_is_read(options: dict[str, str], tmp_path: Path) -> None:
    write_video(tmp_path / "plain.mp4", scene()[:4], 25, codec="libx264", **options)
    path = cropped(tmp_path / "plain.mp4", tmp_path / "cropped.mp4", 48, 20, 2, 4)
    with av.open(str(path)) as container:
        assert CropOffsets(container.streams.video[0].codec_context.extradata).offsets == {(48, 20)}
    coded = 256 if "interlaced" in options.get("x264-params", "") else 240  # rows in whole pairs of macroblocks
    assert read(path)[0].frame_size == (coded - 20 - 4, WIDTH - 48 - 2)


def test_the_cropping_of_an_encoder_with_another_picture_order_is_read() -> None:
    """A parameter set with pic_order_cnt_type 1, written bit by bit by the tables of H.264, 7.3.2.1.1."""

    def ue(number: int) -> str:
        code = f"{number + 1:b}"
        return "0" * (len(code) - 1) + code

    fields = (
        f"{66:08b}", f"{0:08b}", f"{30:08b}", ue(0), ue(0),  # profile, constraints, level, id, log2_max_frame_num
        ue(1), "0", ue(3), ue(4), ue(2), ue(5), ue(6),  # order type 1 with a cycle of two frames
        ue(1), "0", ue(19), ue(14), "1", "1",  # reference frames, gaps, 20 by 15 macroblocks, frames only, direct
        "1", ue(4), ue(5), ue(6), ue(7), "0", "1",  # cropping in units of 2 px; no VUI; stop bit
    )  # fmt: skip
    bits = "".join(fields)
    bits += "0" * (-len(bits) % 8)
    unit = b"\x67" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    assert crop_offset(unit) == (8, 12)


@settings(max_examples=100)
@given(st.integers(0, len(SPS)), st.integers(0, 255), st.integers(0, len(SPS)), st.binary(max_size=40))
def test_a_garbled_parameter_set_is_passed_over(place: int, value: int, end: int, noise: bytes) -> None:
    assert crop_offset(SPS) == (96, 96)
    garbled = bytearray(SPS)
    garbled[place : place + 1] = bytes([value])
    for header in (bytes(garbled[:end]), noise, b"\x01" + noise, b"\x00\x00\x01\x67" + noise):
        offsets = CropOffsets(header)
        offsets.read(noise)
        assert len(offsets.offsets) <= 2
    try:
        left, top = crop_offset(bytes(garbled[:end]))
    except ValueError:
        return
    assert left >= 0
    assert top >= 0
