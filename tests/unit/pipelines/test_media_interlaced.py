"""Interlaced video: deinterlaced frame by frame where the decoder says so, counted, and nothing else touched."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from data_specs.recipes import parse_recipe
from pipelines.media.decoder import extract, rgb_frames
from pipelines.media.encoder import EncodeSettings, transcode, write_video
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.runs.options import Options
from tests.conftest import run_stages

FRAMES, HEIGHT, WIDTH, SPEED = 8, 96, 160, 6
INTERLACED = {"vf": "setfield=tff", "flags:v": "+bitexact+ildct+ilme"}
KINDS = {
    "h264": {"codec": "libx264", "vf": "setfield=tff", "x264-params": "tff=1", "crf": 5},
    "mpeg4": {"codec": "mpeg4", "qscale:v": 1, **INTERLACED},
    "mpeg2": {"vcodec": "mpeg2video", "format": "mpegts", "qscale:v": 1, **INTERLACED},
}


def fields() -> list[np.ndarray]:
    """A textured square that moves to the right in every field, on grey: frames of two moments in alternate lines."""
    coarse = np.random.default_rng(1).integers(0, 256, (6, 12, 1), dtype=np.uint8)
    square = coarse.repeat(8, 0).repeat(4, 1).repeat(3, 2)

    def moment(time: int) -> np.ndarray:
        picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
        picture[24:72, 8 + SPEED * time : 56 + SPEED * time] = square
        return picture

    frames = [moment(2 * number) for number in range(FRAMES)]
    for number, frame in enumerate(frames):
        frame[1::2] = moment(2 * number + 1)[1::2]
    return frames


def combs(path: Path) -> float:
    """How far lines are from the mean of their neighbours, on average: high where two moments alternate."""
    pictures = np.stack([picture for _, picture in rgb_frames(path, range(FRAMES))]).astype(float)
    return float(np.abs(pictures[:, 1:-1] - (pictures[:, :-2] + pictures[:, 2:]) / 2).mean())


def flags(path: Path) -> list[bool]:
    with av.open(str(path)) as container:
        return [frame.interlaced_frame for frame in container.decode(video=0)]


@pytest.fixture(scope="module", params=KINDS)
def interlaced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("interlaced") / request.param
    write_video(path, fields(), 25, **KINDS[request.param])
    assert flags(path) == [True] * FRAMES
    return path


def test_interlaced_frames_lose_their_combs_and_none_is_lost(interlaced: Path, tmp_path: Path) -> None:
    tool = find_ffmpeg()
    made = transcode(interlaced, tmp_path / "even.mp4", EncodeSettings("veryfast", 5), tool, 60)
    kept = transcode(interlaced, tmp_path / "kept.mp4", EncodeSettings("veryfast", 5, deinterlace=False), tool, 60)
    assert made.frames == kept.frames == made.decoded.interlaced == kept.decoded.interlaced == FRAMES
    assert flags(tmp_path / "even.mp4") == [False] * FRAMES
    assert combs(tmp_path / "kept.mp4") > 0.8 * combs(interlaced) > 3 * combs(tmp_path / "even.mp4") > 0
    middles = zip(rgb_frames(tmp_path / "even.mp4", range(FRAMES)), fields(), strict=True)
    compared = 0
    for (_, picture), field in middles:  # the first field of each frame, at its time
        assert np.abs(picture[32:64:2].astype(int) - field[32:64:2]).mean() < 3
        compared += 1
    assert compared == FRAMES


def test_a_single_interlaced_frame_comes_out(tmp_path: Path) -> None:
    write_video(tmp_path / "one", fields()[:1], 25, **KINDS["mpeg2"])
    made = transcode(tmp_path / "one", tmp_path / "one.mp4", EncodeSettings("veryfast"), find_ffmpeg(), 60)
    assert (made.frames, made.decoded.interlaced) == (1, 1)


def test_progressive_frames_are_left_as_they_are_beside_interlaced_ones(tmp_path: Path) -> None:
    """Broadcast changes between the two; a decoder may say so late."""
    progressive = {**KINDS["mpeg2"], "vf": "setfield=prog", "flags:v": "+bitexact"}
    write_video(tmp_path / "a", fields(), 25, **progressive)
    write_video(tmp_path / "b", fields(), 25, output_ts_offset=FRAMES / 25, **KINDS["mpeg2"])
    both = tmp_path / "both"
    both.write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    assert flags(both) == [False] * FRAMES + [True] * FRAMES
    made = transcode(both, tmp_path / "both.mp4", EncodeSettings("veryfast", 5), find_ffmpeg(), 60)
    assert (made.frames, made.decoded.interlaced) == (2 * FRAMES, FRAMES)
    pictures = [picture.astype(float) for _, picture in rgb_frames(tmp_path / "both.mp4", range(2 * FRAMES))]
    rough = [np.abs(picture[1:-1] - (picture[:-2] + picture[2:]) / 2).mean() for picture in pictures]
    assert min(rough[:FRAMES]) > 3 * max(rough[FRAMES:])


def test_progressive_clips_give_the_same_bytes_with_and_without(ucf_clips: Path, tmp_path: Path) -> None:
    clips = sorted(ucf_clips.glob("*/*.avi"))[::7]
    assert len(clips) > 1
    for clip in clips:
        made = [
            transcode(clip, tmp_path / f"{on}.mp4", EncodeSettings("ultrafast", deinterlace=on), find_ffmpeg(), 60)
            for on in (True, False)
        ]
        assert made[0] == made[1]
        assert made[0].decoded.interlaced == 0
        assert (tmp_path / "True.mp4").read_bytes() == (tmp_path / "False.mp4").read_bytes()


RECIPE = {"name": "small", "shard_clips": 4, "frames": {"slots": 2, "size": 32}}
SAID = f"{FRAMES} of {FRAMES} frames are interlaced, "


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "ultrafast"}, f"{SAID}deinterlaced"),
        ({"preset": "ultrafast", "deinterlace": False}, f"{SAID}their combs kept: deinterlace = false"),
        ("keep", f'{SAID}their combs kept: transcode = "keep"'),
    ],
    ids=["on", "off", "keep"],
)
def test_interlaced_clips_are_counted(settings: object, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "source" / "Hop"
    folder.mkdir(parents=True)
    write_video(folder / "combs.mp4", fields(), 25, **KINDS["h264"])
    write_video(folder / "plain.mp4", fields(), 25, codec="libx264")
    recipe = parse_recipe({**RECIPE, "transcode": settings}, "small")
    summary, _ = run_stages(Options(str(tmp_path / "source"), str(tmp_path / "s.zarr"), recipe=recipe))
    assert summary.done == 2
    assert summary.notes == {"interlaced": {"Hop/combs": said}}


def test_reading_vectors_counts_interlaced_frames(interlaced: Path) -> None:
    assert extract(interlaced, lambda _: None).num_interlaced == FRAMES
