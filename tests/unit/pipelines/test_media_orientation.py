"""Videos that players turn or mirror: ffmpeg does as they do; as they are, they are refused."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.media.decoder import VideoError, extract, rgb_frames
from pipelines.media.encoder import EncodeSettings, transcode, write_video
from pipelines.media.ffmpeg_binary import find_ffmpeg

ONE, FRAMES = 1 << 16, 4
HEIGHT, WIDTH = 96, 160


def matrix(a: int, b: int, c: int, d: int, x: int = 0, y: int = 0) -> list[int]:
    """A display matrix as in ISO/IEC 14496-12, 8.3.2: 16.16 fixed point, its last column 2.30."""
    return [a, b, 0, c, d, 0, x, y, 1 << 30]


SHOWN = {
    "a quarter to the right": (matrix(0, ONE, -ONE, 0), lambda frame: np.rot90(frame, -1)),
    "a half": (matrix(-ONE, 0, 0, -ONE), lambda frame: np.rot90(frame, 2)),
    "a quarter to the left": (matrix(0, -ONE, ONE, 0), lambda frame: np.rot90(frame)),
    "mirrored": (matrix(-ONE, 0, 0, ONE), lambda frame: frame[:, ::-1]),
    "upside down": (matrix(ONE, 0, 0, -ONE), lambda frame: frame[::-1]),
    "mirrored, a quarter": (matrix(0, ONE, ONE, 0), lambda frame: frame.transpose(1, 0, 2)),
    "mirrored, three quarters": (matrix(0, -ONE, -ONE, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip whose four corners differ, without a display matrix."""
    path = tmp_path_factory.mktemp("orientation") / "plain.mp4"
    coarse = np.random.default_rng(2).integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
    picture = coarse.repeat(16, 0).repeat(16, 1)
    write_video(path, [np.roll(picture, 2 * number, 1) for number in range(FRAMES)], 25, codec="libx264", crf=5)
    return path


def with_matrix(plain: Path, target: Path, values: list[int]) -> Path:
    with av.open(str(plain)) as source, av.open(str(target), "w") as copy:
        (stream,) = source.streams.video
        twin = copy.add_stream_from_template(stream)
        twin.set_display_matrix(values)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = twin
                copy.mux(packet)
    return target


@pytest.mark.parametrize("turned", SHOWN)
def test_transcoding_turns_and_mirrors_as_the_matrix_says(turned: str, plain: Path, tmp_path: Path) -> None:
    values, show = SHOWN[turned]
    source = with_matrix(plain, tmp_path / "turned.mp4", values)
    transcode(source, tmp_path / "upright.mp4", EncodeSettings("veryfast", 5), find_ffmpeg(), 60)
    motion = extract(tmp_path / "upright.mp4", lambda _: None)
    assert motion.num_frames == FRAMES
    pairs = zip(rgb_frames(tmp_path / "upright.mp4", range(FRAMES)), rgb_frames(plain, range(FRAMES)), strict=True)
    compared = 0
    for (_, picture), (_, coded) in pairs:
        expected = show(coded)
        assert picture.shape == expected.shape == (*motion.frame_size, 3)
        assert np.abs(picture.astype(int) - expected).mean() < 4
        compared += 1
    assert compared == FRAMES


@pytest.mark.parametrize("turned", SHOWN)
def test_pictures_are_read_as_the_matrix_shows_them(turned: str, plain: Path, tmp_path: Path) -> None:
    values, show = SHOWN[turned]
    source = with_matrix(plain, tmp_path / "turned.mp4", values)
    pairs = list(zip(rgb_frames(source, range(FRAMES)), rgb_frames(plain, range(FRAMES)), strict=True))
    assert len(pairs) == FRAMES
    for (_, picture), (_, coded) in pairs:
        np.testing.assert_array_equal(picture, show(coded))


def test_transcoding_turns_by_other_angles_within_the_frame(plain: Path, tmp_path: Path) -> None:
    half = round(ONE * 0.5**0.5)
    source = with_matrix(plain, tmp_path / "turned.mp4", matrix(half, half, -half, half))
    transcode(source, tmp_path / "upright.mp4", EncodeSettings("veryfast", 5), find_ffmpeg(), 60)
    motion = extract(tmp_path / "upright.mp4", lambda _: None)
    assert (motion.num_frames, motion.frame_size) == (FRAMES, (HEIGHT, WIDTH))
    ((_, picture),) = rgb_frames(tmp_path / "upright.mp4", [0])
    assert picture[:4, :4].max() < 40, "the corners are outside the turned picture"


@pytest.mark.parametrize("turned", [*SHOWN, "an eighth"])
def test_vectors_of_a_turned_or_mirrored_picture_are_refused(turned: str, plain: Path, tmp_path: Path) -> None:
    half = round(ONE * 0.5**0.5)
    values = SHOWN[turned][0] if turned in SHOWN else matrix(half, half, -half, half)
    source = with_matrix(plain, tmp_path / "turned.mp4", values)
    with pytest.raises(
        VideoError, match=r"display matrix rotates or mirrors the picture \(frame 0\).*: transcode it to H.264$"
    ):
        extract(source, lambda _: None)


@pytest.mark.parametrize(
    "values", [matrix(ONE, 0, 0, ONE), matrix(2 * ONE, 0, 0, ONE, 5 * ONE, 7 * ONE)], ids=["same", "moved"]
)
def test_a_matrix_that_leaves_it_upright_changes_nothing(values: list[int], plain: Path, tmp_path: Path) -> None:
    source = with_matrix(plain, tmp_path / "same.mp4", values)
    blocks: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    assert extract(source, blocks.append) == extract(plain, expected.append)
    assert np.array_equal(np.concatenate(blocks), np.concatenate(expected))
