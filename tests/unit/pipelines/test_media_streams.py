"""Which video stream of a file is read, and how many frames its container says there are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipelines.media import decoder
from pipelines.media.decoder import VideoError
from pipelines.media.encoder import EncodeSettings, transcode, write_video
from pipelines.media.ffmpeg_binary import FfmpegError, find_ffmpeg

FAST = EncodeSettings(preset="ultrafast")
Videos = dict[str, Path]


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3)).astype(np.uint8)


def mux(target: Path, *words: object) -> Path:
    """What ffmpeg makes of inputs that are copied."""
    command = [find_ffmpeg().path, "-v", "error", "-y", *map(str, words), str(target)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return target


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Videos:
    """H.264 files: 20 frames small and large, a single one that is larger still, and MJPEG for a cover."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "small.mp4", noise(20, 32, 48), 25, "libx264")
    write_video(folder / "large.mp4", noise(20, 64, 96), 25, "libx264")
    write_video(folder / "single.mp4", noise(1, 128, 128), 25, "libx264")
    mux(folder / "cover.mkv", "-i", folder / "single.mp4", "-c:v", "mjpeg")
    return {path.stem: path for path in folder.iterdir()}


def two(target: Path, first: Path, second: Path, *words: object) -> Path:
    """Both videos in one file, in that order."""
    return mux(target, "-i", first, "-i", second, "-map", "0:v", "-map", "1:v", "-c", "copy", *words)


NO_DEFAULT = ("-disposition:v:0", 0, "-disposition:v:1", 0, "-default_mode", "passthrough")
SMALL_DEFAULT = ("-disposition:v:0", "default", "-disposition:v:1", 0, "-default_mode", "passthrough")


def files_with_two(videos: Videos, folder: Path) -> list[tuple[Path, int, int, str]]:
    """A file, the index and the width of the stream that a player shows, what is said of it."""
    small, large, single, cover = (videos[name] for name in ("small", "large", "single", "cover"))
    return [
        (two(folder / "a.mkv", small, large, *NO_DEFAULT), 1, 96,
         "stream 1 (h264 96x64) is used; left out: stream 0 (h264 48x32)"),
        (two(folder / "b.mkv", large, small, *NO_DEFAULT), 0, 96,
         "stream 0 (h264 96x64) is used; left out: stream 1 (h264 48x32)"),
        (two(folder / "c.mkv", small, large, *SMALL_DEFAULT), 0, 48,
         "stream 0 (h264 48x32, default) is used; left out: stream 1 (h264 96x64)"),
        (two(folder / "d.mkv", single, small, *SMALL_DEFAULT), 1, 48,
         "stream 1 (h264 48x32) is used; left out: stream 0 (h264 128x128, default, one frame)"),
        (two(folder / "e.mp4", cover, small, "-disposition:v:0", "attached_pic"), 0, 48,
         "stream 0 (h264 48x32, default) is used; left out: stream 1 (mjpeg 128x128, cover art, one frame)"),
    ]  # fmt: skip


def test_the_stream_is_a_players_and_the_same_everywhere(videos: Videos, tmp_path: Path) -> None:
    cases = files_with_two(videos, tmp_path)
    assert len(cases) == 5
    for path, index, width, said in cases:
        survey = decoder.survey(path)
        assert (survey.stream, survey.choice) == (index, said), path.name
        assert decoder.probe(path).width == width
        assert decoder.decode_all(path).frames == 20
        motion = decoder.extract(path, lambda block: None)
        assert (motion.num_frames, motion.frame_size[1]) == (20, width)
        assert next(decoder.rgb_frames(path, [19]))[1].shape[1] == width
        made = transcode(path, tmp_path / "out.mp4", FAST, find_ffmpeg(), 60)
        assert (made.frames, made.survey.choice) == (20, said)
        assert decoder.probe(tmp_path / "out.mp4").width == width


def test_one_frame_alone_is_a_video_and_cover_art_is_none(videos: Videos, tmp_path: Path) -> None:
    assert decoder.survey(videos["single"]).choice == ""
    assert transcode(videos["single"], tmp_path / "out.mp4", FAST, find_ffmpeg(), 60).frames == 1
    sound = ("-f", "lavfi", "-i", "sine=d=1")
    cover = mux(tmp_path / "music.mp4", *sound, "-i", videos["cover"], "-map", 0, "-map", 1, "-c:v", "copy",
                "-disposition:v:0", "attached_pic")  # fmt: skip
    with pytest.raises(VideoError, match=r"^there is no video stream in it, only cover art$"):
        decoder.extract(cover, lambda block: None)
    with pytest.raises(FfmpegError, match=r"^there is no video stream in it, only cover art$"):
        transcode(cover, tmp_path / "out.mp4", FAST, find_ffmpeg(), 60)


def cut(path: Path, target: Path, share: float) -> Path:
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def found_missing(path: Path) -> tuple[int, dict[str, str]]:
    """How many frames are missing in a file, and what is noted."""
    survey, decoded = decoder.survey(path), decoder.decode_all(path)
    return survey.missing(decoded), survey.notes(decoded)


def test_frames_missing_from_a_cut_off_file_are_counted_by_count_or_duration(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.avi", noise(100, 32, 48), 25)
    for name, words in (("mp4", ("-c", "copy", "-movflags", "faststart")), ("mkv", ("-c", "copy")), ("flv", ())):
        mux(tmp_path / f"whole.{name}", "-i", tmp_path / "whole.avi", *words)
    for name, about in (("avi", "100"), ("mp4", "100"), ("mkv", "about 100"), ("flv", "about ")):
        assert found_missing(tmp_path / f"whole.{name}") == (0, {}), name
        missing, notes = found_missing(cut(tmp_path / f"whole.{name}", tmp_path / f"cut.{name}", 0.6))
        assert 30 < missing < 60, name
        assert re.match(rf"\d+ of {about}\d* frames decoded$", notes["missing"]), name


def test_what_an_edit_list_leaves_out_is_not_missing(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", noise(60, 32, 48), 25, "libx264", g=30)
    trimmed = mux(tmp_path / "trimmed.mp4", "-ss", 0.6, "-i", tmp_path / "whole.mp4", "-c", "copy")
    assert decoder.decode_all(trimmed).frames == 45
    assert found_missing(trimmed) == (0, {})


def test_a_picture_that_is_shown_again_is_not_missing(tmp_path: Path) -> None:
    """MPEG-4 pictures that are not coded give no frame: an encoder writes them where nothing moved."""
    write_video(tmp_path / "whole.avi", noise(40, 32, 48), 25)
    data = bytearray((tmp_path / "whole.avi").read_bytes())
    movi, index = data.index(b"movi"), data.rindex(b"idx1") + 8
    not_coded = bytes.fromhex("000001b650cf")  # type P, time 1/25 s, not coded
    size = len(not_coded).to_bytes(4, "little")
    for entry in range(index + 16 * 20, index + 16 * 40, 16):
        place = movi + int.from_bytes(data[entry + 8 : entry + 12], "little")
        data[place + 4 : place + 8 + len(not_coded)] = size + not_coded
        data[entry + 12 : entry + 16] = size
    (tmp_path / "still.avi").write_bytes(data)
    assert decoder.decode_all(tmp_path / "still.avi").frames < 25
    assert found_missing(tmp_path / "still.avi") == (0, {})
