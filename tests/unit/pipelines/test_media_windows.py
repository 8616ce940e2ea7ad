"""Windows of a long video made of real clips: each is, to the bit, the H.264 file of the clip that was cut out."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_specs.windows import Window, sliding_windows
from pipelines.media import decoder
from pipelines.media.encoder import EncodeSettings, transcode
from pipelines.media.ffmpeg_binary import FfmpegError, find_ffmpeg
from pipelines.media.window_encoder import Cut, WindowTranscoded, transcode_windows

FAST = EncodeSettings(preset="ultrafast")


def ffmpeg(*words: object) -> None:
    """Run ffmpeg, which must succeed."""
    subprocess.run([find_ffmpeg().path, "-v", "error", "-y", *map(str, words)], check=True, stdin=subprocess.DEVNULL)


def frames_of(video: Path) -> list[np.ndarray]:
    """All frames of a video as RGB."""
    count = decoder.decode_all(video).frames
    return [picture for _, picture in decoder.rgb_frames(video, range(count))]


def stream_of(video: Path) -> bytes:
    """The coded pictures of an MP4 file."""
    command = [find_ffmpeg().path, "-v", "error", "-i", video, "-c", "copy", "-f", "h264", "-"]
    coded = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout
    assert coded
    return coded


def cut_out(video: Path, first: int, count: int, target: Path) -> Path:
    """Some frames of a video, by number, as a lossless clip of their own."""
    inside = rf"select=between(n\,{first}\,{first + count - 1})"
    ffmpeg("-i", video, "-vf", inside, "-fps_mode", "passthrough", "-c:v", "ffv1", target)
    return target


def encoded(video: Path, windows: list[Window], folder: Path) -> list[WindowTranscoded | FfmpegError]:
    """What comes of the windows of a video, in files 0.mp4, 1.mp4 and so on."""
    cuts = [Cut(window, folder / f"{number}.mp4") for number, window in enumerate(windows)]
    return transcode_windows(video, cuts, FAST, find_ffmpeg(), 60)


def test_a_window_has_the_h264_file_of_the_clip_that_is_cut_out(long_video: Path, tmp_path: Path) -> None:
    windows = [Window(0.5, 1.5), Window(0, 0.04), Window(1, 2.02), Window(0.999999, 1.039999)]
    expected = [(13, 25), (0, 1), (25, 26), (25, 1)]  # a frame each 0.04 s: frame 25 is shown at 1 s
    found = encoded(long_video, windows, tmp_path)
    for number, (one, (first, count)) in enumerate(zip(found, expected, strict=True)):
        assert isinstance(one, WindowTranscoded)
        assert (one.first_frame, one.frames) == (first, count)
        alone = cut_out(long_video, first, count, tmp_path / f"{number}.mkv")
        transcode(alone, tmp_path / "alone.mp4", FAST, find_ffmpeg(), 60)
        assert stream_of(tmp_path / f"{number}.mp4") == stream_of(tmp_path / "alone.mp4")


def test_windows_are_cut_by_presentation_time_where_the_frame_rate_varies(long_video: Path, tmp_path: Path) -> None:
    varying = tmp_path / "varying.mkv"
    ffmpeg(
        "-i", long_video, "-vf", r"select=lt(n\,20)+not(mod(n\,5))", "-fps_mode", "passthrough", "-c:v", "ffv1", varying
    )
    found = encoded(varying, [Window(0.6, 1.2), Window(1.21, 1.22)], tmp_path)
    assert isinstance(found[0], WindowTranscoded)
    assert (found[0].first_frame, found[0].frames) == (15, 7)  # frames 15 to 19, then those at 0.8 and 1 s
    pixels = frames_of(varying)
    alone = frames_of(cut_out(varying, 15, 7, tmp_path / "alone.mkv"))
    assert all(np.array_equal(*pair) for pair in zip(pixels[15:22], alone, strict=True))
    assert "no frame from 1.21 s to 1.22 s: none of its frames is shown then" in str(found[1])


def test_a_window_without_a_frame_is_an_error_and_the_others_are_encoded(long_video: Path, tmp_path: Path) -> None:
    found = encoded(long_video, [Window(90, 100), Window(0, 1)], tmp_path)
    assert isinstance(found[0], FfmpegError)
    assert str(found[0]) == "the video has no frame from 90 s to 100 s: its last frame is shown at 3.96 s"
    assert isinstance(found[1], WindowTranscoded)
    assert found[1].frames == 25
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.mp4"]


def test_frames_that_a_window_lacks_at_the_end_of_the_video_are_counted(long_video: Path, tmp_path: Path) -> None:
    found = encoded(long_video, [Window(3, 5), Window(3, 4.05)], tmp_path)
    late, fitting = found
    assert isinstance(late, WindowTranscoded)
    assert late.survey.missing(late.decoded) == 25
    assert late.survey.notes(late.decoded) == {"missing": "25 of 50 frames decoded"}
    assert isinstance(fitting, WindowTranscoded)
    assert fitting.survey.missing(fitting.decoded) == 0  # within the error of intact files


def test_only_what_happens_in_a_window_counts_for_it(long_video: Path, tmp_path: Path) -> None:
    data = bytearray(long_video.read_bytes())
    media, end = data.index(b"mdat"), data.index(b"moov")
    damaged = range(media + 4 * (end - media) // 5, end - 50, 97)
    assert len(damaged) > 20
    for place in damaged:
        data[place] ^= 0xFF
    (tmp_path / "damaged.mp4").write_bytes(data)
    early, late = encoded(tmp_path / "damaged.mp4", [Window(0, 1), Window(1, 4)], tmp_path)
    assert isinstance(early, WindowTranscoded)
    assert (early.frames, early.survey.notes(early.decoded)) == (25, {})
    assert isinstance(late, WindowTranscoded)
    assert late.decoded.bad_packets > 0
    assert "could not be decoded" in late.survey.notes(late.decoded)["damage"]


def test_frames_may_change_their_size_before_a_window_and_not_in_it(tmp_path: Path) -> None:
    for name, size in (("a", "64x48"), ("b", "80x96")):
        source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25", "-frames:v", 25, "-pix_fmt", "yuv420p"]
        ffmpeg(*source, "-c:v", "libx264", "-bf", 0, "-f", "h264", tmp_path / name)
    (tmp_path / "turned.h264").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    before, after = encoded(tmp_path / "turned.h264", [Window(0, 1), Window(1.2, 1.6)], tmp_path)
    assert isinstance(before, WindowTranscoded)
    assert isinstance(after, WindowTranscoded)
    assert (before.frames, after.frames, after.first_frame) == (25, 10, 30)
    assert decoder.extract(tmp_path / "1.mp4", lambda block: None).frame_size == (96, 80)
    with pytest.raises(FfmpegError, match=r"frames change their size: frame 5 is 80x96 px after 64x48 px"):
        encoded(tmp_path / "turned.h264", [Window(0.8, 1.2)], tmp_path)


def test_a_killed_ffmpeg_is_run_again_and_its_frames_count_once(long_video: Path, tmp_path: Path) -> None:
    tool, killed = find_ffmpeg(), tmp_path / "ffmpeg"
    once = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -9 $$; }}"
    killed.write_text(f'#!/bin/sh\n"{tool.path}" "$@"\nstatus=$?\n{once}\nexit $status\n')
    killed.chmod(0o755)
    cut = Cut(Window(1, 2), tmp_path / "0.mp4")
    (found,) = transcode_windows(long_video, [cut], FAST, replace(tool, path=str(killed)), 60)
    assert (tmp_path / "once").exists()
    assert isinstance(found, WindowTranscoded)
    assert (found.first_frame, found.frames) == (25, 25)


def test_vectors_of_a_window_are_those_of_its_frames_in_the_video(long_video: Path) -> None:
    window, whole, part = Window(0.5, 2), [], []
    decoder.extract(long_video, whole.append)
    motion = decoder.extract(long_video, part.append, window=window)
    assert (motion.first_frame, motion.num_frames, motion.goes_on) == (13, 37, True)
    vectors = np.concatenate(whole)
    expected = vectors[(vectors["frame"] >= 13) & (vectors["frame"] < 50)]
    expected["frame"] -= 13
    assert len(expected) > 1000
    np.testing.assert_array_equal(np.concatenate(part), expected)


def test_sliding_windows_end_within_the_video() -> None:
    assert sliding_windows(25, 10, 5) == [Window(0, 10), Window(5, 15), Window(10, 20), Window(15, 25)]
    assert sliding_windows(24.9, 10, 5)[-1] == Window(10, 20)
    assert sliding_windows(9, 10, 5) == []
    assert [window.start for window in sliding_windows(1, 0.3, 0.1)][-1] == 0.7


def test_names_of_windows_sort_by_time() -> None:
    windows = [Window(2, 10), Window(10, 20), Window(10.5, 20), Window(100, 110)]
    assert [window.name for window in windows] == [
        "000002-000010", "000010-000020", "000010.5-000020", "000100-000110"
    ]  # fmt: skip
    assert sorted(windows, key=lambda window: window.name) == windows


@pytest.mark.parametrize(("start", "end"), [(2, 2), (3, 2), (-1, 2), (float("nan"), 2), (0, float("inf"))])
def test_a_window_of_no_time_is_refused(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=r"seconds from 0 to|ends after it starts"):
        Window(start, end)
