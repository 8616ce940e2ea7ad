"""Motion vectors out of real decoders: right, complete, the same as other readers', and in bounded memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type as SideData
from mvextractor.videocap import VideoCap

from mocrop_core import PACKED
from pipelines.acquire.synthetic_scenes import actor_boxes, compose
from pipelines.media import decoder
from pipelines.media.decoder import VideoError, extract
from pipelines.media.encoder import EncodeSettings, transcode, write_video
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.media.video_facts import Motion, Probe
from tests.places import GOLDEN

COLUMNS = {"x": "dst_x", "y": "dst_y", "w": "w", "h": "h", "motion_x": "motion_x", "motion_y": "motion_y"}
SQUARE, LEFT, TOP, SPEED = 64, 24, 32, 2.25  # px, px, px, px a frame


@pytest.fixture(scope="module")
def clips(ucf_clips: Path) -> list[Path]:
    return sorted(ucf_clips.glob("*/*.avi"))


@pytest.fixture(scope="module")
def encoded(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three real clips as H.264: one with B-frames in its source, two without."""
    folder = tmp_path_factory.mktemp("encoded")
    chosen = [clips[0], clips[6], clips[12]]
    for clip in chosen:
        transcode(clip, folder / f"{clip.stem}.mp4", EncodeSettings("veryfast"), find_ffmpeg(), 60)
    return [folder / f"{clip.stem}.mp4" for clip in chosen]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large"
    frames = [np.zeros((4000, 4000, 3), dtype=np.uint8)] * 2
    write_video(path, frames, 25, codec="libx264", preset="ultrafast")
    return path


def read(path: Path, **options: int) -> tuple[Motion, np.ndarray]:
    blocks: list[np.ndarray] = []
    motion = extract(path, blocks.append, **options)
    return motion, np.concatenate([np.empty(0, PACKED), *blocks])


def moving_square(count: int, speed: float = SPEED) -> Iterator[np.ndarray]:
    """A textured square over a still textured ground, drawn at 8 times the size and averaged: no rounded steps."""
    rng = np.random.default_rng(7)
    ground = rng.integers(0, 256, (128, 256), dtype=np.uint8)
    square = rng.integers(0, 256, (SQUARE // 2, SQUARE // 2)).astype(float).repeat(2, 0).repeat(16, 1)
    for number in range(count):
        shift = round((LEFT + speed * number) * 8)
        fine = ground.astype(float).repeat(8, 1)
        fine[TOP : TOP + SQUARE, shift : shift + SQUARE * 8] = square
        frame = fine.reshape(128, 256, 8).mean(axis=2)
        yield np.repeat(np.rint(frame).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(("codec", "scale"), [("libx264", 4), ("mpeg4", 2)])
def test_vectors_in_a_moving_square_are_its_motion(codec: str, scale: int, tmp_path: Path) -> None:
    quality = {"crf": 10} if codec == "libx264" else {"qscale:v": 2}
    write_video(tmp_path / "square", moving_square(36), 25, codec=codec, **quality)
    motion, vectors = read(tmp_path / "square")
    assert motion.num_frames == 36
    assert motion.frame_size == (128, 256)
    assert motion.key_frames == (0, 12, 24)
    assert motion.motion_scale == scale
    left = LEFT + SPEED * vectors["frame"]
    inside = (vectors["x"] - vectors["w"] / 2 >= left + 3) & (vectors["x"] + vectors["w"] / 2 <= left + SQUARE - 3)
    inside &= (vectors["y"] - vectors["h"] / 2 >= TOP) & (vectors["y"] + vectors["h"] / 2 <= TOP + SQUARE)
    frames = np.setdiff1d(np.arange(36), motion.key_frames)
    for frame in frames:
        own = vectors[inside & (vectors["frame"] == frame)]
        assert len(own) >= 4
        # the way back to where the block came from; MPEG-4 has half pixels only
        assert abs(-np.median(own["motion_x"]) / scale - SPEED) <= 1 / scale, frame
        assert abs(np.median(own["motion_y"]) / scale) <= 1 / scale, frame
    still = vectors[vectors["y"] - vectors["h"] / 2 >= TOP + SQUARE]
    assert len(still) > 100
    assert np.median(np.hypot(still["motion_x"], still["motion_y"])) == 0
    assert not np.isin(vectors["frame"], motion.key_frames).any()


def slow_read(path: Path, **options: str) -> np.ndarray:
    """The vectors as PyAV itself hands them out, frame by frame, with every filter on unless ``options`` say else."""
    rows = [np.empty(0, PACKED)]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"flags2": "+export_mvs", **options}
        for number, frame in enumerate(container.decode(stream)):
            if (data := frame.side_data.get(SideData.MOTION_VECTORS)) is not None:
                raw = data.to_ndarray()
                row = np.empty(len(raw), PACKED)
                row["frame"] = number
                for ours, theirs in COLUMNS.items():
                    row[ours] = raw[theirs]
                rows.append(row)
    return np.concatenate(rows)


def test_vectors_are_the_same_with_and_without_the_loop_filter(encoded: list[Path], clips: list[Path]) -> None:
    for path in (*encoded, clips[0], clips[6]):
        motion, vectors = read(path)
        assert motion.num_vectors == len(vectors) > 10_000
        assert np.array_equal(vectors, slow_read(path))
        assert np.array_equal(vectors, slow_read(path, skip_loop_filter="all"))


def others_read(path: Path, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a video of so many frames as motion-vector-extractor has them, and the scale of each."""
    capture = VideoCap()
    assert capture.open(str(path))
    capture.set_decode_frames(False)
    rows = []
    for number in range(frames):
        ok, _, found, _ = capture.read()
        assert ok
        rows.append(np.insert(found.reshape(-1, 10), 0, number, axis=1))
    assert not capture.read()[0]
    # frame, source, w, h, src_x, src_y, dst_x, dst_y, motion_x, motion_y, motion_scale
    found = np.concatenate(rows)
    packed = np.empty(len(found), PACKED)
    for name, column in {"frame": 0, "w": 2, "h": 3, "x": 6, "y": 7, "motion_x": 8, "motion_y": 9}.items():
        packed[name] = found[:, column]
    return packed, found[:, 10]


def test_vectors_are_those_of_motion_vector_extractor(encoded: list[Path]) -> None:
    for path in encoded:
        motion, vectors = read(path)
        theirs, scales = others_read(path, motion.num_frames)
        assert (scales == motion.motion_scale).all()
        assert np.array_equal(vectors, theirs)


@pytest.mark.parametrize(
    ("name", "motion", "digest"),
    [
        (
            "moving_disc.mp4",
            Motion(50, (240, 320), (0, 12, 24, 36, 48), 4, 13608, 0),
            "62b082d4e7a8acfe50493223fc1114a6134822aa9c755007a2a702f3c0686769",
        ),
        (
            "Basketball/v_Basketball_g01_c01.avi",
            Motion(141, (240, 320), tuple(range(0, 141, 12)), 2, 38689, 0),
            "3f5eb27df47f20122e8f4214322c0574c2d35fea8e5b32ff1fc71c3c6a6f75a2",
        ),
    ],
)
def test_the_vectors_of_encoded_clips_are_known(name: str, motion: Motion, digest: str, ucf_clips: Path) -> None:
    """An H.264 clip kept here, and an MPEG-4 clip of UCF-101: no encoder has a say in what is read.

    The digest is the SHA-256 of all vectors, 14 bytes each, little-endian, in decode order: frame int32; x, y int16;
    w, h uint8; motion_x, motion_y int16. PyAV's own reading and that of motion-vector-extractor have it, too.
    ``moving_disc.mp4`` was made by ffmpeg n9.0.2 with x264 165:

        mocrop synth toy --classes 2 --clips-per-class 3
        python -c "from pipelines.media.encoder import EncodeSettings, find_ffmpeg, transcode
        transcode('toy/UCF-101/MovingDisc/v_MovingDisc_g01_c01.avi', 'tests/support/golden/moving_disc.mp4',
                  EncodeSettings('medium', 45, 12), find_ffmpeg(), 60)"
    """
    kept = GOLDEN / name
    path = kept if kept.is_file() else ucf_clips / name
    found, vectors = read(path)
    assert found == motion
    theirs, _ = others_read(path, motion.num_frames)
    for one in (vectors, slow_read(path), theirs):
        assert len(one) == motion.num_vectors
        assert hashlib.sha256(one.tobytes()).hexdigest() == digest


def test_the_first_vectors_of_the_golden_disc_lead_back_to_where_it_was() -> None:
    """Those beyond a pixel; the disc was drawn 2 to 3 px further left in each frame, so that they lead to the right."""
    (x0, y0, width, height), (x1, *_) = actor_boxes(compose(0, "MovingDisc/v_MovingDisc_g01_c01", 2, 50))[:2]
    assert (x0, y0, width, height, x1) == (71, 30, 36, 36, 68)
    _, vectors = read(GOLDEN / "moving_disc.mp4")
    fast = vectors[np.hypot(vectors["motion_x"], vectors["motion_y"]) > 4]
    assert fast[:4].tolist() == [
        (1, 72, 40, 16, 16, 9, 0),
        (1, 88, 40, 16, 16, 10, 0),
        (1, 104, 40, 16, 16, 12, 0),
        (1, 72, 56, 16, 16, 11, 0),
    ]


def test_the_size_of_a_block_changes_nothing_but_the_blocks(encoded: list[Path]) -> None:
    whole, vectors = read(encoded[0])
    for block in (1, 500, 10**9):
        lengths: list[int] = []
        pieces: list[np.ndarray] = []

        def sink(piece: np.ndarray, lengths: list[int] = lengths, pieces: list[np.ndarray] = pieces) -> None:
            lengths.append(len(piece))
            pieces.append(piece)

        assert extract(encoded[0], sink, block=block) == whole
        assert np.array_equal(np.concatenate(pieces), vectors)
        assert min(lengths[:-1], default=block) >= block
    assert lengths == [len(vectors)]


def test_xvid_sources_give_vectors_in_half_pixels(clips: list[Path]) -> None:
    for clip in (clips[0], clips[6]):  # with packed B-frames; with GOP 12 and no B-frames
        assert decoder.probe(clip) == Probe("mpeg4", 320, 240, True)
        motion, vectors = read(clip)
        with av.open(str(clip)) as container:
            kinds = [frame.pict_type for frame in container.decode(video=0)]
        assert motion.num_frames == len(kinds) == decoder.decode_all(clip).frames
        assert motion.motion_scale == 2
        assert motion.bad_packets == 0
        assert motion.key_frames == tuple(k for k, kind in enumerate(kinds) if kind == av.video.frame.PictureType.I)
        assert not np.isin(vectors["frame"], motion.key_frames).any()
        assert (vectors["w"] >= 8).all()


def test_a_video_of_key_frames_has_no_vectors(tmp_path: Path) -> None:
    write_video(tmp_path / "still", moving_square(4), 25, codec="libx264", g=1)
    motion, vectors = read(tmp_path / "still")
    assert motion == Motion(4, (128, 256), (0, 1, 2, 3), 1, 0, 0)
    assert len(vectors) == 0


def test_damaged_packets_are_passed_over_as_ffmpeg_does(tmp_path: Path) -> None:
    write_video(tmp_path / "whole", moving_square(60), 25, vtag="mp4v", format="mp4")
    whole = np.frombuffer((tmp_path / "whole").read_bytes(), np.uint8)
    with av.open(str(tmp_path / "whole")) as container:  # packets alone: what a broken container holds is its reader's
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    assert len(places) == 60
    lost = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        data = whole.copy()
        for number in rng.choice(np.arange(1, 60), 12, replace=False):
            start, size = places[number]
            data[start + rng.integers(0, size, 20)] = rng.integers(0, 256, 20)
        (tmp_path / "damaged").write_bytes(data.tobytes())
        motion, _ = read(tmp_path / "damaged")
        made = transcode(tmp_path / "damaged", tmp_path / "out", EncodeSettings("ultrafast"), find_ffmpeg(), 60)
        assert motion.num_frames == made.frames == decoder.decode_all(tmp_path / "damaged").frames > 40
        assert motion.bad_packets == made.decoded.bad_packets == 60 - motion.num_frames
        lost += motion.bad_packets
    assert lost > 0


def test_a_size_that_changes_is_an_error(tmp_path: Path) -> None:
    for name, count, rows in (("a", 20, 128), ("b", 20, 96)):
        frames = (frame[:rows] for frame in moving_square(count))
        write_video(tmp_path / name, frames, 25, codec="libx264", format="h264")
    (tmp_path / "ab").write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    with pytest.raises(VideoError, match="frames change their size: frame 20 is 256x96 px after 256x128 px"):
        extract(tmp_path / "ab", lambda block: None)
    with pytest.raises(VideoError, match="frames change their size"):
        list(decoder.rgb_frames(tmp_path / "ab", [25]))


def test_a_codec_without_vectors_is_refused(tmp_path: Path) -> None:
    write_video(tmp_path / "jpegs", moving_square(3), 25, vcodec="mjpeg", pix_fmt="yuvj420p", vtag="MJPG")
    assert not decoder.probe(tmp_path / "jpegs").exports_vectors
    with pytest.raises(VideoError, match="its codec mjpeg gives no motion vectors"):
        extract(tmp_path / "jpegs", lambda block: None)


def test_an_error_in_the_sink_comes_out_as_it_is(encoded: list[Path]) -> None:
    def sink(block: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        extract(encoded[0], sink)


def measured(code: str, *arguments: object) -> dict[str, Any]:
    """What ``code`` prints as JSON in an interpreter of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=600).stdout)


PEAK = """
import json, pathlib, sys
from pipelines.media import decoder as video
limit = int(sys.argv[2]) if len(sys.argv) > 2 else video.MAX_PIXELS
def peak():  # not ru_maxrss, which starts at the parent's
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
try:
    said = {work}
except video.VideoError as error:
    said = str(error)
print(json.dumps({{"said": said, "mb": peak() - before}}, default=str))
"""


def repeated(source: Path, target: Path, times: int) -> None:
    """The packets of a video, ``times`` over."""
    with av.open(str(source)) as one:
        packets = [bytes(packet) for packet in one.demux(video=0) if packet.size]
        with av.open(str(target), "w", format="mp4") as many:
            stream = many.add_stream_from_template(one.streams.video[0])
            for number in range(times * len(packets)):
                packet = av.Packet(packets[number % len(packets)])
                packet.stream, packet.time_base = stream, one.streams.video[0].time_base
                packet.pts = packet.dts = number * 512
                packet.is_keyframe = number % 12 == 0
                many.mux(packet)


@pytest.mark.parametrize("work", ["video.extract(sys.argv[1], len).num_frames", "video.decode_all(sys.argv[1]).frames"])
def test_memory_does_not_grow_with_the_length(work: str, encoded: list[Path], tmp_path: Path) -> None:
    peaks = {}
    for times in (1, 6):
        repeated(encoded[1], tmp_path / f"{times}.mp4", times)
        found = measured(PEAK.format(work=work), tmp_path / f"{times}.mp4")
        assert found["said"] == 141 * times
        peaks[times] = found["mb"]
    assert peaks[6] < peaks[1] + 4
    assert peaks[6] < 16  # 8 MB here; frames that wait for the garbage collector take it beyond 20


@pytest.mark.parametrize(
    "work",
    [
        "video.probe(sys.argv[1], max_pixels=limit)",
        "video.extract(sys.argv[1], len, max_pixels=limit)",
        "video.decode_all(sys.argv[1], max_pixels=limit).frames",
        "len(list(video.rgb_frames(sys.argv[1], [0], max_pixels=limit)))",
    ],
)
def test_a_frame_that_is_too_large_is_refused_before_it_is_set_up(work: str, large: Path) -> None:
    found = measured(PEAK.format(work=work), large, 4000 * 4000 - 1)
    assert found["said"] == "a frame of 4000x4000 px exceeds the limit of 15999999 px"
    assert found["mb"] < 12  # a frame takes 23 MB
    assert "more than" not in str(measured(PEAK.format(work=work), large, 4000 * 4000)["said"])
