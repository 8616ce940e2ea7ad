"""One video in, the cropped video out: by ``mocrop.crop_video`` and ``mocrop crop``."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

import mocrop
from mocrop_core.box_path import BoxPath
from pipelines.media.crop_encoder import write_crop
from pipelines.media.decoder import rgb_frames, survey
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.one_video import crop_videos
from tests.conftest import Said
from tests.unit.pipelines.test_media_orientation import SHOWN, with_matrix

WIDTH, HEIGHT, FRAMES = 160, 96, 30
PATTERN = "128+60*sin(X/5)*sin(Y/7)"
SCENE = (
    f"nullsrc=s={WIDTH}x{HEIGHT}:r=30:d=1,"
    f"geq=lum='if(between(X,20+2*N,41+2*N)*between(Y,31,52),200+40*sin(X+Y-2*N),{PATTERN})':cb=100:cr=150"
)


def encode(target: Path, *words: str, sound: bool = True, scene: str = SCENE) -> Path:
    """A video of 30 frames: a bright square moves to the right over a pattern; with a tone of one second."""
    tone = ["-f", "lavfi", "-i", "sine=d=1"] if sound else []
    command = [find_ffmpeg().path, "-v", "error", "-y", "-f", "lavfi", "-i", scene, *tone, *words, str(target)]
    subprocess.run(command, check=True, timeout=120)
    return target


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("clip") / "in.mp4", "-c:v", "libx264", "-crf", "12", "-c:a", "aac")


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def difference(path: Path, expected: list[np.ndarray]) -> float:
    """The mean difference of the pictures of a video from what they should be, in levels."""
    pictures = [picture for _, picture in rgb_frames(path, range(len(expected)))]
    assert [picture.shape for picture in pictures] == [picture.shape for picture in expected]
    return float(np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(pictures, expected, strict=True)]))


def even(box: mocrop.Box) -> tuple[slice, slice]:
    """The box without the last column or row of an odd side."""
    return slice(box.y0, box.y0 + box.height // 2 * 2), slice(box.x0, box.x0 + box.width // 2 * 2)


def test_the_pictures_are_those_in_the_box_with_their_times_and_sound(clip: Path, tmp_path: Path) -> None:
    found = mocrop.crop_video(clip, tmp_path / "out.mp4", area=0.4)
    assert found.box == mocrop.find_box(clip, area=0.4).box
    assert found.box.area < 0.5 * WIDTH * HEIGHT
    expected = [picture[even(found.box)] for _, picture in rgb_frames(clip, range(FRAMES))]
    assert difference(tmp_path / "out.mp4", expected) < 4
    assert times(tmp_path / "out.mp4") == times(clip)
    assert sound(tmp_path / "out.mp4") == sound(clip) != []
    with av.open(str(tmp_path / "out.mp4")) as made, av.open(str(clip)) as source:
        assert made.streams.video[0].codec_context.name == "h264"
        assert made.streams.video[0].average_rate == source.streams.video[0].average_rate


def at_rest(x0: int, y0: int) -> BoxPath:
    return BoxPath((0.0,), (mocrop.Box(x0, y0, x0 + 81, y0 + 60),))


@pytest.mark.parametrize("corner", [(3, 5), (4, 4)])
def test_a_box_begins_at_any_pixel(corner: tuple[int, int], clip: Path, tmp_path: Path) -> None:
    x0, y0 = corner
    count = write_crop(clip, tmp_path / "o.mkv", at_rest(x0, y0), None, survey(clip), find_ffmpeg(), 60)
    assert count == FRAMES
    expected = [picture[y0 : y0 + 60, x0 : x0 + 80] for _, picture in rgb_frames(clip, range(FRAMES))]
    shifted = [picture[y0 : y0 + 60, x0 + 1 : x0 + 81] for _, picture in rgb_frames(clip, range(FRAMES))]
    assert difference(tmp_path / "o.mkv", expected) < 3 < difference(tmp_path / "o.mkv", shifted)


def test_a_box_moves_as_its_path_says(clip: Path, tmp_path: Path) -> None:
    fast = mocrop.create_method("actor", max_speed=0.2)
    found = mocrop.crop_video(clip, tmp_path / "out.mp4", fast, area=0.3, segments=3)
    assert found.path == mocrop.find_box(clip, fast, 0.3, segments=3).path
    assert found.path is not None
    assert found.path.box_at(0).x0 < found.path.box_at(FRAMES - 1).x0 - 10, "the square moves to the right"
    expected = [picture[even(found.path.box_at(n))] for n, picture in rgb_frames(clip, range(FRAMES))]
    assert difference(tmp_path / "out.mp4", expected) < 4


@pytest.mark.parametrize("places", [(0, 7, 30, 2), (5, 6, 9, 60), (60, 0, 61, 1)])
def test_every_frame_of_a_path_is_cut_to_the_pixel(places: tuple[int, ...], clip: Path, tmp_path: Path) -> None:
    path = BoxPath((1.5, 9.5, 20.0, 24.0), tuple(mocrop.Box(x, x // 2, x + 80, x // 2 + 60) for x in places))
    write_crop(clip, tmp_path / "out.mkv", path, None, survey(clip), find_ffmpeg(), 60)
    cut = [picture for _, picture in rgb_frames(tmp_path / "out.mkv", range(FRAMES))]
    for number, whole in rgb_frames(clip, range(FRAMES)):
        box = path.box_at(number)
        errors = {
            (dy, dx): np.abs(whole[box.y0 + dy :, box.x0 + dx :][:60, :80].astype(int) - cut[number]).mean()
            for dy in (-1, 0, 1) for dx in (-1, 0, 1)
            if min(box.y0 + dy, box.x0 + dx) >= 0 and box.y1 + dy <= HEIGHT and box.x1 + dx <= WIDTH
        }  # fmt: skip
        assert min(errors, key=errors.__getitem__) == (0, 0), f"frame {number}: {errors}"


def test_frames_of_uneven_times_keep_them(tmp_path: Path) -> None:
    uneven = SCENE + r",select=not(mod(n\,3))+lt(n\,10)"
    source = encode(tmp_path / "in.mkv", "-fps_mode", "passthrough", "-c:v", "libx264", sound=False, scene=uneven)
    mocrop.crop_video(source, tmp_path / "out.mp4")
    assert len({b - a for a, b in pairwise(times(source))}) > 2
    assert times(tmp_path / "out.mp4") == times(source)


@pytest.mark.parametrize(("codec", "suffix"), [("libx265", "mp4"), ("libvpx-vp9", "webm"), ("libsvtav1", "mkv")])
def test_a_codec_without_vectors_goes_in(codec: str, suffix: str, tmp_path: Path) -> None:
    source = encode(tmp_path / f"in.{suffix}", "-c:v", codec, sound=False)
    found = mocrop.crop_video(source, tmp_path / "out.mp4", area=0.4)
    assert found.source == mocrop.SOURCE_MOTION
    expected = [picture[even(found.box)] for _, picture in rgb_frames(source, range(FRAMES))]
    assert difference(tmp_path / "out.mp4", expected) < 4


@pytest.mark.parametrize("turned", ["a quarter to the right", "mirrored, three quarters"])
def test_a_turned_video_comes_out_as_players_show_it(turned: str, clip: Path, tmp_path: Path) -> None:
    values, show = SHOWN[turned]
    source = with_matrix(clip, tmp_path / "turned.mp4", values)
    found = mocrop.crop_video(source, tmp_path / "out.mp4", area=0.4)
    shown = [show(picture) for _, picture in rgb_frames(clip, range(FRAMES))]
    assert difference(tmp_path / "out.mp4", [picture[even(found.box)] for picture in shown]) < 4


def test_a_size_resizes_the_box_and_sound_that_does_not_fit_is_encoded(tmp_path: Path) -> None:
    source = encode(tmp_path / "in.mkv", "-c:v", "libx264", "-c:a", "libvorbis")
    with pytest.warns(UserWarning, match=r"in\.mkv: sound: vorbis is encoded as AAC$"):
        mocrop.crop_video(source, tmp_path / "out.mp4", size=(64, 96))
    assert mocrop.read_motion_vectors(tmp_path / "out.mp4").frame_size == (64, 96)
    assert sound(tmp_path / "out.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mocrop.crop_video(source, tmp_path / "out.mkv")
    assert sound(tmp_path / "out.mkv") == sound(source)


def test_a_target_stays_as_it_was_where_the_encoding_fails(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.mp4").write_text("before")
    monkeypatch.setattr(crop_videos, "TIME_LIMIT", 0.001)
    with pytest.raises(mocrop.VideoError, match=r"in\.mp4: took longer than 0\.001 s"):
        mocrop.crop_video(clip, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "before"


@pytest.mark.parametrize(
    ("target", "size", "message"),
    [
        ("out.avi", None, "the name must end in .mp4, .m4v, .mov, .mkv"),
        ("none/out.mp4", None, "its folder does not exist"),
        ("in.mp4", None, "itself; choose another name"),
        ("out.mp4", (65, 64), "size 64x65 (width x height): give even numbers of at least 2"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    target: str, size: tuple[int, int] | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / "in.mp4").write_bytes(b"not a video, which is not looked at")
    with pytest.raises(ValueError, match=r"target|size") as raised:
        mocrop.crop_video(tmp_path / "in.mp4", tmp_path / target, size=size)
    assert message in str(raised.value)


def test_the_command_writes_the_video_or_prints_the_boxes(
    clip: Path, tmp_path: Path, mocrop_here: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = mocrop_here("crop", clip, "--json", "--area", 0.4)
    found = json.loads(said.out)
    box = mocrop.find_box(clip, area=0.4).box
    assert found["boxes"] == [{"start": 0, "stop": FRAMES, "box": list(box.corners)}]
    assert (found["frame_size"], found["num_frames"], found["source"]) == ([HEIGHT, WIDTH], FRAMES, "motion")
    assert list(tmp_path.iterdir()) == []
    assert (found["segments"], found["area"]) == (1, round(box.area / (WIDTH * HEIGHT), 6))
    said = json.loads(mocrop_here("crop", clip, "--json", "--segments", 3).out)
    moving = said["boxes"]
    assert said["segments"] == 3
    assert len(moving) > 3
    assert [one["start"] for one in moving] == [0, *(one["stop"] for one in moving[:-1])]
    said = mocrop_here("crop", clip, "out.mp4", "--area", 0.4, "--size", "96x64")
    assert said.status == 0
    where = f"box {', '.join(map(str, box.corners))} ("
    assert said.out.startswith(f"out.mp4: {FRAMES} frames of 96x64 px; {where}")
    assert mocrop.read_motion_vectors("out.mp4").frame_size == (64, 96)
    assert list(tmp_path.iterdir()) == [tmp_path / "out.mp4"]


def test_a_size_of_one_number_is_a_square_and_an_odd_box_is_reported_as_it_is_written(
    clip: Path, tmp_path: Path, mocrop_here: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mocrop_here("crop", clip, "square.mp4", "--size", "64").out.startswith(
        f"square.mp4: {FRAMES} frames of 64x64 px"
    )
    assert mocrop.read_motion_vectors("square.mp4").frame_size == (64, 64)
    odd = [area for area in (0.35, 0.37, 0.41, 0.43) if mocrop.find_box(clip, area=area).box.width % 2]
    assert odd
    said = mocrop_here("crop", clip, "odd.mp4", "--area", odd[0])
    height, width = mocrop.read_motion_vectors("odd.mp4").frame_size
    assert said.out.startswith(f"odd.mp4: {FRAMES} frames of {width}x{height} px; box ")


def test_an_existing_file_is_replaced_only_on_request(
    clip: Path, tmp_path: Path, mocrop_here: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out.mp4").write_text("before")
    said = mocrop_here("crop", clip, "out.mp4")
    assert (said.status, said.err) == (1, "mocrop: 'out.mp4' already exists; pass --overwrite to replace it\n")
    assert Path("out.mp4").read_text() == "before"
    assert mocrop_here("crop", clip, "out.mp4", "--overwrite").status == 0
    assert mocrop.read_motion_vectors("out.mp4").num_frames == FRAMES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.mp4"], "OUT: name the file to write, or pass --json to print only the boxes"),
        (["in.mp4", "out.mp4", "--area", "2"], "area must lie in (0, 1], got 2.0"),
        (["in.mp4", "out.mp4", "--area", "half"], "Invalid value for '--area'"),
        (["in.mp4", "out.mp4", "--method", "x"], "method 'x': give one of "),
        (["in.mp4", "out.mp4", "--size", "2x"], "--size '2x': give width and height in px, such as 320x240, or one "),
        (["in.mp4", "out.mp4", "--size", "65x64"], "size 65x64 (width x height): give even numbers of at least 2"),
        (["in.mp4", "--json", "--size", "65x64"], "size 65x64 (width x height): give even numbers of at least 2"),
        (
            ["in.mp4", "out.mp4", "--method", "paper-v1", "--segments", "2"],
            "segments 2: only the method actor has a box that moves; give 1",
        ),
    ],
)
def test_a_wrong_flag_ends_with_status_2(
    words: list[str], message: str, tmp_path: Path, mocrop_here: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = mocrop_here("crop", *words)
    assert said.status == 2
    assert message in said.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_video_is_refused_in_one_line(tmp_path: Path, mocrop_here: Callable[..., Said]) -> None:
    said = mocrop_here("crop", "none.mp4", tmp_path / "out.mp4")
    assert (said.status, said.err) == (1, "mocrop: none.mp4: no such file\n")
    assert list(tmp_path.iterdir()) == []
