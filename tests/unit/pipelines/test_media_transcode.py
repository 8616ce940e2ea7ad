"""Transcoding with a real ffmpeg: what goes in comes out whole, and what cannot be used is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import cycle
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.media import decoder
from pipelines.media.encoder import EncodeSettings, transcode, write_video
from pipelines.media.ffmpeg_binary import Ffmpeg, FfmpegError, find_ffmpeg
from tests.support.saboteurs import wait_until

FAST = EncodeSettings(preset="ultrafast")


@pytest.fixture(scope="module")
def clips(ucf_clips: Path) -> list[Path]:
    return sorted(ucf_clips.glob("*/*.avi"))


@pytest.fixture(scope="module")
def tool() -> Ffmpeg:
    return find_ffmpeg()


def noise(count: int, height: int = 48, width: int = 64, seed: int = 0) -> list[np.ndarray]:
    """Frames of one random texture that is shifted by a pixel a frame."""
    rng = np.random.default_rng(seed)
    texture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return [np.roll(texture, shift, axis=1) for shift in range(count)]


def decoded_frames(path: Path) -> int:
    """An independent count by PyAV's own convenience API, with its default threads."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_every_frame_of_the_real_clips_is_encoded(clips: list[Path], tool: Ffmpeg, tmp_path: Path) -> None:
    assert len(clips) == 15
    for clip in clips:
        made = transcode(clip, tmp_path / "out.mp4", FAST, tool, 60)
        assert made.frames == decoded_frames(clip) == decoded_frames(tmp_path / "out.mp4"), clip.name
        assert made.survey.notes(made.decoded) == {}


def test_the_stream_is_h264_with_regular_key_frames_one_reference_and_no_b_frames(
    clips: list[Path], tool: Ffmpeg, tmp_path: Path
) -> None:
    target = tmp_path / "out.mp4"
    transcode(clips[0], target, EncodeSettings("veryfast", gop=10), tool, 60)
    with av.open(str(target)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.metadata.get("software") is None
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert not stream.codec_context.has_b_frames
        frames = list(container.decode(stream))
    keys = [number for number, frame in enumerate(frames) if frame.key_frame]
    assert keys == list(range(0, len(frames), 10))
    assert b"ref=1 " in target.read_bytes()


def test_the_same_source_gives_the_same_bytes(clips: list[Path], tool: Ffmpeg, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(clips[3], tmp_path / "copy" / "other name.avi")
    transcode(clips[3], tmp_path / "a.mp4", EncodeSettings(), tool, 60)
    transcode(tmp_path / "copy" / "other name.avi", tmp_path / "copy" / "b.mp4", EncodeSettings(), tool, 60)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "copy" / "b.mp4").read_bytes()


def test_settings_change_the_bytes(clips: list[Path], tool: Ffmpeg, tmp_path: Path) -> None:
    sizes = set()
    for number, encode in enumerate((FAST, EncodeSettings("ultrafast", crf=35), EncodeSettings("superfast"))):
        transcode(clips[0], tmp_path / f"{number}.mp4", encode, tool, 60)
        sizes.add((tmp_path / f"{number}.mp4").stat().st_size)
    assert len(sizes) == 3


def test_odd_sides_lose_the_last_column_and_row(tool: Ffmpeg, tmp_path: Path) -> None:
    frame = np.zeros((47, 65, 3), dtype=np.uint8)
    frame[-1], frame[:, -1] = 255, 255
    write_video(tmp_path / "odd.avi", [frame] * 5, 25, **{"qscale:v": 1})
    made = transcode(tmp_path / "odd.avi", tmp_path / "even.mp4", EncodeSettings(), tool, 60)
    assert made.frames == 5
    pixels = dict(decoder.rgb_frames(tmp_path / "even.mp4", [4]))[4]
    assert pixels.shape == (46, 64, 3)
    assert pixels.mean() < 16


def test_a_side_of_one_pixel_is_refused(tool: Ffmpeg, tmp_path: Path) -> None:
    write_video(tmp_path / "thin.avi", [np.zeros((64, 1, 3), dtype=np.uint8)] * 3, 25)
    with pytest.raises(FfmpegError, match=r"a side of 1 px cannot be encoded.* 0x64 px"):
        transcode(tmp_path / "thin.avi", tmp_path / "out.mp4", FAST, tool, 60)


def test_a_cut_off_file_is_transcoded_up_to_the_cut(clips: list[Path], tool: Ffmpeg, tmp_path: Path) -> None:
    data = clips[0].read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    made = transcode(tmp_path / "cut.avi", tmp_path / "out.mp4", FAST, tool, 60)
    assert 10 < made.frames < decoded_frames(clips[0])
    assert made.frames == decoded_frames(tmp_path / "out.mp4")


def test_frames_that_change_their_size_are_an_error_and_never_stretched(tool: Ffmpeg, tmp_path: Path) -> None:
    for name, frames in (("a", noise(20)), ("b", noise(20, 96, 80))):
        write_video(tmp_path / name, frames, 25, codec="libx264", format="h264")
    (tmp_path / "ab").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    with pytest.raises(FfmpegError, match=r"^frames change their size: frame 20 is 80x96 px after 64x48 px$"):
        transcode(tmp_path / "ab", tmp_path / "out.mp4", FAST, tool, 60)
    assert not (tmp_path / "out.mp4").exists()


def test_frames_that_turn_in_mid_stream_are_an_error_and_never_stretched(tool: Ffmpeg, tmp_path: Path) -> None:
    write_video(tmp_path / "a", noise(20), 25, codec="libx264", format="h264", g=1)
    turned = ["-c", "copy", "-bsf:v", "h264_metadata=display_orientation=insert:rotate=90", "-f", "h264"]
    command = [tool.path, "-v", "error", "-i", str(tmp_path / "a"), *turned, str(tmp_path / "b")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    (tmp_path / "ab").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    with pytest.raises(FfmpegError, match=r"^frames change their rotation: frame 20 is rotated by 90 degrees$"):
        transcode(tmp_path / "ab", tmp_path / "out.mp4", FAST, tool, 60)


def _sound_only(path: Path, clip: Path) -> None:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), dtype=np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))


def _without_frames(path: Path, clip: Path) -> None:
    with av.open(str(clip)) as source, av.open(str(path), "w", format="avi") as container:
        container.add_stream_from_template(source.streams.video[0])
        container.start_encoding()


def _playlist(path: Path, clip: Path) -> None:
    path.write_text(f"ffconcat version 1.0\nfile '{clip}'\n")


def _hls(path: Path, clip: Path) -> None:
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n")


WRONG: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "missing": (lambda path, clip: None, "no such file"),
    "folder": (lambda path, clip: path.mkdir(), "not a file"),
    "empty": (lambda path, clip: path.touch(), "the file is empty"),
    "text": (lambda path, clip: path.write_text("not a video at all\n" * 9), "it is not a video"),
    "picture": (lambda path, clip: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "container format"),
    "bytes": (lambda path, clip: path.write_bytes(np.random.default_rng(1).bytes(50_000)), "it is not a video"),
    "header": (lambda path, clip: path.write_bytes(clip.read_bytes()[:3000]), "too damaged to be opened"),
    "sound": (_sound_only, "there is no video stream in it"),
    "frameless": (_without_frames, "no frame could be decoded"),
    "playlist": (_playlist, "its container format is not one of"),
    "hls": (_hls, "m3u8|it is not a video|its container format"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_video_is_refused_in_one_line_by_ffmpeg_and_by_pyav(
    case: str, clips: list[Path], tool: Ffmpeg, tmp_path: Path
) -> None:
    make, message = WRONG[case]
    source, target = tmp_path / "source.avi", tmp_path / "out.mp4"
    make(source, clips[0])
    with pytest.raises(FfmpegError, match=message) as by_ffmpeg:
        transcode(source, target, FAST, tool, 60)
    with pytest.raises(decoder.VideoError, match=message) as by_pyav:
        decoder.extract(source, lambda block: None)
    for error in (by_ffmpeg, by_pyav):
        text = str(error.value)
        assert "\n" not in text
        assert str(tmp_path) not in text
        assert ".part" not in text
    assert not [name for name in os.listdir(tmp_path) if name != "source.avi"]


def test_a_transcode_that_takes_too_long_is_stopped_and_leaves_nothing(
    clips: list[Path], tool: Ffmpeg, tmp_path: Path
) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"what was there")
    with pytest.raises(FfmpegError, match=r"took longer than 0\.05 s and was stopped"):
        transcode(clips[0], target, EncodeSettings("veryslow"), tool, 0.05)
    assert target.read_bytes() == b"what was there"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_a_missing_target_folder_is_named(clips: list[Path], tool: Ffmpeg, tmp_path: Path) -> None:
    with pytest.raises(FfmpegError, match="No such file or directory"):
        transcode(clips[0], tmp_path / "missing" / "out.mp4", FAST, tool, 60)


NAMES = [
    "-x.avi",
    "a%03d.avi",
    "two\nlines.avi",
    'it\'s "quoted".avi',
    "a:b,c;d=[e].avi",
    "pipe:0",
    "x" * 250,
    "ä✓.avi",
]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"\xff\xfe.avi")], ids=ascii)
def test_file_names_mean_nothing_but_files(
    name: str, tool: Ffmpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(name, noise(6), 25)
    (tmp_path / "out").mkdir()
    made = transcode(name, os.path.join("out", name), FAST, tool, 60)
    assert made.frames == 6
    assert os.listdir("out") == [name]
    assert decoder.extract(name, lambda block: None).num_frames == 6
    assert len(list(decoder.rgb_frames(os.path.join("out", name), [0, 5]))) == 2


def test_write_video_gives_what_it_was_given(tmp_path: Path) -> None:
    frames = noise(30)
    for codec, name in (("mpeg4", "mpeg4"), ("libx264", "h264")):
        for target in (tmp_path / f"{codec}1", tmp_path / f"{codec}2"):
            write_video(target, iter(frames), Fraction(30000, 1001), codec=codec)
        assert (tmp_path / f"{codec}1").read_bytes() == (tmp_path / f"{codec}2").read_bytes()
        found = decoder.probe(tmp_path / f"{codec}1")
        assert (found.codec, found.width, found.height) == (name, 64, 48)
        assert decoder.extract(tmp_path / f"{codec}1", lambda block: None).key_frames == (0, 12, 24)
        near = dict(decoder.rgb_frames(tmp_path / f"{codec}1", range(30)))
        assert len(near) == 30
        assert all(np.corrcoef(near[k].ravel(), frames[k].ravel())[0, 1] > 0.5 for k in near)
        with av.open(str(tmp_path / f"{codec}1")) as container:
            assert container.streams.video[0].average_rate == Fraction(30000, 1001)


def test_write_video_refuses_frames_that_do_not_fit(tmp_path: Path) -> None:
    for frames, message in (
        ([], "no frames"),
        ([np.zeros((8, 8), dtype=np.uint8)], r"\(8, 8\), expected uint8 \(height, width, 3\)"),
        ([np.zeros((8, 8, 3))], "float64"),
        ([*noise(3), *noise(1, 50)], "frame 3 is uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / "out.avi", frames, 25)
    with pytest.raises(FfmpegError):
        write_video(tmp_path / "out.avi", noise(3), 25, nonsense=1)
    with pytest.raises(FfmpegError, match=r"took longer than 0\.001 s"):
        write_video(tmp_path / "out.avi", cycle(noise(3)), 25, time_limit=0.001)
    assert os.listdir(tmp_path) == []


def test_settings_out_of_range_are_refused() -> None:
    for wrong, message in (({"preset": "quick"}, "preset"), ({"crf": 52}, "crf is 52"), ({"gop": 0}, "gop is 0")):
        with pytest.raises(ValueError, match=message):
            EncodeSettings(**wrong)


def test_the_build_names_versions_and_no_path(tool: Ffmpeg) -> None:
    assert tool.version in tool.build
    assert "/" not in tool.build
    assert "unknown" not in tool.build
    assert find_ffmpeg() == tool


def _program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_chosen_ffmpeg_that_will_not_do_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program, message in (
        (str(tmp_path / "missing"), "No such file or directory"),
        (_program(tmp_path / "mute", "exit 1"), "fails with -version"),
        (_program(tmp_path / "old", 'test "$1" = -version || exit 3'), "cannot encode with libx264"),
    ):
        monkeypatch.setenv("MOCROP_FFMPEG", program)
        with pytest.raises(FfmpegError, match=f"MOCROP_FFMPEG.*{message}.*5.1 or later"):
            find_ffmpeg()


def test_a_system_ffmpeg_without_libx264_is_passed_over(
    tool: Ffmpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path / "ffmpeg", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("MOCROP_FFMPEG", raising=False)
    assert find_ffmpeg().path != str(tmp_path / "ffmpeg")


def test_a_hanging_ffmpeg_is_killed_with_all_it_started(tmp_path: Path, clips: list[Path]) -> None:
    note = tmp_path / "pid"
    hanging = _program(
        tmp_path / "ffmpeg", f"{sys.executable} -c 'import time; time.sleep(600)' & echo $! > {note}; wait"
    )
    for limit in (1, 4, 16, 64):  # the first but where the machine is too busy to start it in that time
        with pytest.raises(FfmpegError, match=f"took longer than {limit} s"):
            transcode(clips[0], tmp_path / "out.mp4", FAST, Ffmpeg(hanging, "", ""), limit)
        if note.exists() and note.read_text():
            break
    status = Path(f"/proc/{note.read_text().strip()}/status")
    assert wait_until(lambda: not status.exists() or "State:\tZ" in status.read_text())


def test_a_good_ffmpeg_of_the_system_is_preferred_to_the_bundled_one(
    tool: Ffmpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ffmpeg").symlink_to(tool.path)
    monkeypatch.delenv("MOCROP_FFMPEG", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg() == Ffmpeg(str(tmp_path / "ffmpeg"), tool.version, tool.build)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find_ffmpeg().path != str(tmp_path / "ffmpeg")


def test_an_encoder_that_loses_frames_is_found_out(clips: list[Path], tool: Ffmpeg, tmp_path: Path) -> None:
    liar = tmp_path / "ffmpeg"
    counted = "sed -uE 's/^frame= *[0-9]+/frame=7/'"
    liar.write_text(f'#!/bin/bash\n"{tool.path}" "$@" | {counted}\nexit ${{PIPESTATUS[0]}}\n')
    liar.chmod(0o755)
    lying = Ffmpeg(str(liar), tool.version, tool.build)
    with pytest.raises(FfmpegError, match=r"^131 frames were decoded but 7 encoded$"):
        transcode(clips[3], tmp_path / "out.mp4", FAST, lying, 60)
    assert clips[3].stem == "v_Archery_g01_c01"
    assert not (tmp_path / "out.mp4").exists()


LINES = """x
Exiting normally, received signal 15.
[info] Exiting normally, received signal 15.
Input stream #0:0 (video): 3 packets read (9 bytes); 3 frames decoded; 0 decode errors
Output stream #0:0 (video): 7 frames encoded; 7 packets muxed (9 bytes)
Stream #0:0: Video: h264, yuv420p, 16x16, q=2-31
frame:0    pts:0       pts_time:0
frame=7
progress=end
[error] No space left on device
[fatal] Conversion failed!"""


@pytest.mark.parametrize("kind", ["avi", "mkv", "mp4"])
def test_text_in_a_files_metadata_decides_nothing(kind: str, tool: Ffmpeg, tmp_path: Path) -> None:
    """Neither the count, the size, nor how often ffmpeg is started."""
    write_video(tmp_path / "plain.avi", noise(20), 25)
    source = tmp_path / f"said.{kind}"
    with av.open(str(tmp_path / "plain.avi")) as plain, av.open(str(source), "w") as container:
        container.metadata.update({"title": LINES, "comment": LINES})
        stream = container.add_stream_from_template(plain.streams.video[0])
        stream.metadata["title"] = LINES
        for packet in plain.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    assert b"Exiting normally" in source.read_bytes()
    counting = Ffmpeg(
        _program(tmp_path / "ffmpeg", f'echo x >> {tmp_path}/calls; exec {tool.path} "$@"'), tool.version, tool.build
    )
    made = transcode(source, tmp_path / "out.mp4", FAST, counting, 60)
    assert (made.frames, made.decoded.bad_packets) == (20, 0)
    assert (tmp_path / "calls").read_text() == "x\n"
    found = decoder.probe(tmp_path / "out.mp4")
    assert (found.width, found.height) == (64, 48)


def test_an_ffmpeg_that_a_signal_ends_in_order_is_started_again(tool: Ffmpeg, tmp_path: Path) -> None:
    write_video(tmp_path / "clip.avi", noise(20), 25)
    script = f'test -e {tmp_path}/once || {{ touch {tmp_path}/once; exit 255; }}\nexec {tool.path} "$@"'
    ended = Ffmpeg(_program(tmp_path / "ffmpeg", script), tool.version, tool.build)
    assert transcode(tmp_path / "clip.avi", tmp_path / "out.mp4", FAST, ended, 60).frames == 20
    assert (tmp_path / "once").exists()


def test_an_ffmpeg_that_is_killed_while_it_is_tried_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = find_ffmpeg(), tmp_path / "calls"
    script = tmp_path / "ffmpeg"
    script.write_text(
        f'#!/bin/sh\necho x >> {calls}\n[ $(($(wc -l < {calls}) % 2)) = 1 ] && kill -9 $$\nexec {real.path} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("MOCROP_FFMPEG", str(script))
    assert find_ffmpeg().build == real.build
    assert len(calls.read_text().split()) == 4, "-version and the trial, each killed once"
