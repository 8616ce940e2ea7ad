"""Single frames as RGB: the same pixels whichever way they are reached."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.media import decoder
from pipelines.media.decoder import VideoError, extract, rgb_frames
from pipelines.media.encoder import EncodeSettings, transcode, write_video
from pipelines.media.ffmpeg_binary import find_ffmpeg


@pytest.fixture(scope="module")
def clips(ucf_clips: Path) -> list[Path]:
    return sorted(ucf_clips.glob("*/*.avi"))


@pytest.fixture(scope="module")
def encoded(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("encoded") / "clip.mp4"
    transcode(clips[2], target, EncodeSettings("veryfast"), find_ffmpeg(), 60)
    return target


def whole_decode(path: Path) -> list[np.ndarray]:
    """Every frame by PyAV's convenience API."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_frames_are_those_of_a_whole_decode(encoded: Path) -> None:
    frames = whole_decode(encoded)
    found = list(rgb_frames(encoded, [84, 0, 7, 7, 30, 1]))
    assert [number for number, _ in found] == [0, 1, 7, 30, 84]
    for number, pixels in found:
        assert pixels.shape == (240, 320, 3)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, frames[number])


def test_frames_stay_as_they_were_when_the_next_ones_are_read(encoded: Path) -> None:
    frames = dict(rgb_frames(encoded, range(20)))
    assert len({pixels.tobytes() for pixels in frames.values()}) == 20


def test_key_frames_alone_have_the_pixels_of_a_whole_decode(clips: list[Path], encoded: Path) -> None:
    for path in (encoded, clips[0], clips[6], clips[11]):
        keys = extract(path, len).key_frames
        frames = whole_decode(path)
        found = dict(rgb_frames(path, keys, keys))
        assert tuple(found) == keys
        assert keys
        for number, pixels in found.items():
            assert np.array_equal(pixels, frames[number]), (path.name, number)


def test_key_frames_alone_decode_nothing_else(encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = extract(encoded, len).key_frames
    seen: list[int] = []
    original = decoder._frames
    monkeypatch.setattr(
        decoder,
        "_frames",
        lambda *args: (seen.append(frame.pts) or frame for frame in original(*args)),  # type: ignore[func-returns-value]
    )
    assert len(list(rgb_frames(encoded, keys, keys))) == len(keys) == len(seen)
    seen.clear()
    assert len(list(rgb_frames(encoded, [keys[-1], keys[-1] - 1], keys))) == 2
    assert len(seen) == keys[-1] + 1


def test_damaged_key_frames_have_the_pixels_of_a_whole_decode(encoded: Path, tmp_path: Path) -> None:
    mended = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        data = np.frombuffer(encoded.read_bytes(), np.uint8).copy()
        data[rng.integers(30_000, len(data) - 10_000, 60)] ^= 255
        (tmp_path / "damaged.mp4").write_bytes(data.tobytes())
        motion = extract(tmp_path / "damaged.mp4", len)
        whole = dict(rgb_frames(tmp_path / "damaged.mp4", range(motion.num_frames)))
        alone = dict(rgb_frames(tmp_path / "damaged.mp4", motion.key_frames, motion.key_frames))
        assert tuple(alone) == motion.key_frames
        for number, pixels in alone.items():
            assert np.array_equal(pixels, whole[number]), (seed, number)
            mended += 1
    assert mended > 20


def test_interlaced_key_frames_have_the_pixels_of_a_whole_decode(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    texture = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    frames = [np.roll(texture, 2 * k, axis=1) for k in range(20)]
    write_video(tmp_path / "interlaced", frames, 25, codec="libx264", g=5, **{"flags:v": "+ildct+ilme"})
    keys = extract(tmp_path / "interlaced", len).key_frames
    assert keys == (0, 5, 10, 15)
    whole = whole_decode(tmp_path / "interlaced")
    for number, pixels in rgb_frames(tmp_path / "interlaced", keys, keys):
        assert np.array_equal(pixels, whole[number])


def test_colours_are_those_that_were_written(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (120, 60, 200)]
    frames = [np.full((64, 64, 3), colour, dtype=np.uint8) for colour in colours]
    write_video(tmp_path / "colours", frames, 25, codec="libx264", crf=1)
    found = dict(rgb_frames(tmp_path / "colours", range(len(colours))))
    assert len(found) == len(colours)
    for number, colour in enumerate(colours):
        assert np.abs(found[number].reshape(-1, 3).mean(axis=0) - colour).max() < 6, colour


def test_frames_that_are_not_there_are_an_error(encoded: Path) -> None:
    keys = extract(encoded, len).key_frames
    assert list(rgb_frames(encoded, [])) == []
    with pytest.raises(ValueError, match="indices hold -1"):
        rgb_frames(encoded, [3, -1])
    with pytest.raises(VideoError, match="it ends after 85 frames, before frame 85"):
        list(rgb_frames(encoded, [0, 85, 90]))
    with pytest.raises(VideoError, match="it ends after 85 frames, before frame 96"):
        list(rgb_frames(encoded, [0, 96], [*keys, 96]))
