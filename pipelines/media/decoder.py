"""Reading video files: motion vectors without pixels, and single frames as RGB. This module alone imports
PyAV.

Decoding uses one thread: the stages run one clip a core. A packet that cannot be decoded is passed over and
counted, as ffmpeg does. Frames are numbered from 0 in the order in which they are shown.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter

from pipelines.media.containers import FORMATS, MAX_PIXELS, PROTOCOLS, NoVectors, VideoError, fault, too_large, url
from pipelines.media.motion_vectors import VectorPacker
from pipelines.media.orientation import check_upright, upright
from pipelines.media.sps import CropOffsets
from pipelines.media.streams import (
    Decoded,
    Survey,
    about_choice,
    choose,
    counted_frames,
    covered,
    header_duration,
    single,
)

VECTOR_CODECS = frozenset(
    ("flv", "h263", "h264", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2")
)
"""PyAV's names of the decoders that give motion vectors."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a file's header says: the decoder's name, the frame's ``width`` and ``height`` in px (0 if it does
    not say), and whether that decoder gives motion vectors."""

    codec: str
    width: int
    height: int
    exports_vectors: bool


@dataclass(frozen=True, slots=True)
class Motion:
    """What `extract` found besides the vectors.

    ``frame_size`` is (height, width) in px; ``key_frames`` are the numbers of the frames that can be decoded
    alone; ``motion_scale`` is the number of vector units in a px, 1 where there are no vectors;
    ``bad_packets`` could not be decoded and gave no frame; ``num_interlaced`` frames are interlaced.
    """

    num_frames: int
    frame_size: tuple[int, int]
    key_frames: tuple[int, ...]
    motion_scale: int
    num_vectors: int
    bad_packets: int
    num_interlaced: int = 0


def survey(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Survey:
    """Which video stream of a file is read, and what its container says of it; VideoError if there is none, the file
    cannot be read or the stream claims a larger frame."""
    with _opened(path, max_pixels) as (container, stream):
        streams = container.streams.video
        choice = about_choice(stream, streams, _single(path, streams, max_pixels))
        frames = counted_frames(path, container, stream)
        share = 1.0
        if frames is None and (duration := header_duration(container)):
            share = covered(duration, _packets(container, list(container.streams), _Damage()))
        sound = tuple(one.codec_context.name if one.codec_context else "" for one in container.streams.audio)
        others = len(container.streams) - len(streams) - len(sound)
        return Survey(stream.index, choice, frames, share, stream.time_base, sound, others)


def probe(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Probe:
    """What the header says of the video stream that `survey` chooses; VideoError if it cannot be read or claims a
    larger frame."""
    with _opened(path, max_pixels) as (_, stream):
        context = stream.codec_context
        return Probe(context.name, context.width, context.height, context.name in VECTOR_CODECS)


def extract(
    path: str | os.PathLike[str],
    sink: Callable[[np.ndarray], None],
    *,
    block: int = 8192,
    max_pixels: int = MAX_PIXELS,
    time_limit: float = math.inf,
    on_key_frame: Callable[[np.ndarray], None] | None = None,
) -> Motion:
    """Decode a video for its motion vectors and hand them to ``sink`` in decode order.

    ``sink`` gets new arrays of dtype `mocrop_core.PACKED`, each with ``block`` vectors or up to one frame's more, the
    last with fewer; none if there are no vectors. They are in the coordinates of the frames as they are shown: where
    H.264 leaves out pixels at the left or top, vectors are shifted, and those of blocks wholly left out are dropped.
    Displacements that refer to a later frame are reversed, so that all point back in time. ``on_key_frame`` gets the
    luma of each key frame, uint8 (height, width), decoded without the loop filter; it is gone after the call.
    Memory does not grow with the length of the video. Raises VideoError where nothing can be decoded, frames change
    their size, a header claims more than ``max_pixels`` px, a vector does not fit the type, or it takes more than
    ``time_limit`` seconds; `NoVectors` where the decoder gives none by its kind, or frames are shown turned or
    mirrored.
    """
    damage, reformatter = _Damage(time_limit), VideoReformatter()
    size, number, keys, interlaced = (0, 0), -1, [], 0
    with _opened(path, max_pixels) as (container, stream):
        context = stream.codec_context
        if context.name not in VECTOR_CODECS:
            raise NoVectors(f"its codec {context.name} gives no motion vectors")
        # the loop filter costs a tenth of the decoding, and changes neither vectors nor, to speak of, a frame's texture
        _configure(stream, max_pixels, flags2="+export_mvs", skip_loop_filter="all")
        offsets = CropOffsets(context.extradata) if context.name == "h264" else None
        packer = VectorPacker(sink, block, offsets)
        for number, frame in enumerate(_frames(container, stream, damage, offsets)):
            if (frame.height, frame.width) != size:
                size = _same_size(size, frame, number)
            if frame.key_frame:
                keys.append(number)
                if on_key_frame is not None:
                    on_key_frame(_luma(frame, reformatter))
            interlaced += frame.interlaced_frame
            # not frame.side_data: it and the frame would hold each other until a garbage collection
            side_data = SideDataContainer(frame)  # type: ignore[call-arg]
            if (matrix := side_data.get(SideData.DISPLAYMATRIX)) is not None:
                check_upright(bytes(matrix), number)
            if (vectors := side_data.get(SideData.MOTION_VECTORS)) is not None and packer.add(number, bytes(vectors)):
                packer.flush(size, (context.coded_height, context.coded_width))
        packer.flush(size, (context.coded_height, context.coded_width))
    _some_frames(number + 1, damage)
    return Motion(number + 1, size, tuple(keys), packer.scale or 1, packer.total, damage.total(), interlaced)


def rgb_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int],
    key_frames: Sequence[int] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    time_limit: float = math.inf,
) -> Iterator[tuple[int, np.ndarray]]:
    """Each frame of ``indices`` once, in rising order, as its number and its (height, width, 3) uint8 RGB
    pixels, turned and mirrored as players show it.

    ``key_frames`` are the file's own, from `extract`: when only such frames are wanted, nothing else is
    decoded, and the pixels are the same. Colours are converted by the stream's own matrix, BT.601 where it
    names none. Raises ValueError for a negative index, VideoError where the video ends before a frame, changes
    its size, or takes more than ``time_limit`` seconds.
    """
    wanted = sorted({int(index) for index in indices})
    if wanted and wanted[0] < 0:
        raise ValueError(f"indices hold {wanted[0]}, expected frame numbers from 0")
    alone = key_frames if key_frames is not None and set(wanted) <= set(key_frames) else None
    return _rgb_frames(path, wanted, alone, max_pixels, _Damage(time_limit))


def decode_all(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, time_limit: float = math.inf) -> Decoded:
    """Decode a whole video and look at no pixel.

    VideoError where nothing can be decoded, frames change size or turn, or it takes more than ``time_limit`` seconds.
    """
    damage = _Damage(time_limit)
    size, number, turn = (0, 0), -1, None
    with _opened(path, max_pixels) as (container, stream):
        _configure(stream, max_pixels, skip_loop_filter="all", skip_idct="all")
        for number, frame in enumerate(_frames(container, stream, damage)):
            size = _same_size(size, frame, number)
            if turn not in (None, frame.rotation):
                raise VideoError(f"frames change the way they are turned: frame {number} by {frame.rotation} degrees")
            turn = frame.rotation
    return Decoded(_some_frames(number + 1, damage), damage.total())


def _rgb_frames(
    path: str | os.PathLike[str], wanted: list[int], alone: Sequence[int] | None, max_pixels: int, damage: _Damage
) -> Iterator[tuple[int, np.ndarray]]:
    if not wanted:
        return
    reformatter, left, size, number = VideoReformatter(), iter(wanted), (0, 0), -1
    target = next(left)
    with _opened(path, max_pixels) as (container, stream):
        _configure(stream, max_pixels, **({"skip_frame": "nokey"} if alone is not None else {}))
        for place, frame in enumerate(_frames(container, stream, damage)):
            if alone is not None and (place == len(alone) or not _stands_alone(frame)):
                break
            number = place if alone is None else alone[place]
            size = _same_size(size, frame, number)
            if number == target:
                picture = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                matrix = SideDataContainer(frame).get(SideData.DISPLAYMATRIX)  # type: ignore[call-arg]
                yield number, picture if matrix is None else upright(picture, bytes(matrix))
                target = next(left, -1)
                if target < 0:
                    return
    if alone is not None:  # the rest needs the frames in between
        yield from _rgb_frames(path, [target, *left], None, max_pixels, damage)
        return
    _some_frames(number + 1, damage)
    raise VideoError(f"it ends after {number + 1} frames, before frame {target}")


def _luma(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """The luma (height, width) of a frame as uint8: a view of its memory where it has 8 bits, more are cut to 8.

    A format without a plane of luma is converted to grey."""
    bits = frame.format.components[0].bits
    if not frame.format.is_planar or frame.format.is_rgb or (bits > 8 and frame.format.is_big_endian):
        frame, bits = reformatter.reformat(frame, format="gray", threads=1), 8
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8)[: frame.height * plane.line_size].reshape(
        frame.height, plane.line_size
    )
    return rows[:, : frame.width] if bits == 8 else (rows.view("<u2")[:, : frame.width] >> (bits - 8)).astype(np.uint8)


def _stands_alone(frame: av.VideoFrame) -> bool:
    """Whether a key frame has the same pixels without the frames before it: a damaged one is mended from
    those, and the second field of an interlaced one may depend on them."""
    return frame.key_frame and not frame.is_corrupt and not frame.interlaced_frame


@contextmanager
def _opened(path: str | os.PathLike[str], max_pixels: int) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """The file and the video stream of it that is read, refused before any frame is set up if its header claims too
    large a one."""
    with _container(path, max_pixels) as container:
        streams = container.streams.video
        stream = choose(streams, _single(path, streams, max_pixels))
        if stream is None:
            raise VideoError("there is no video stream in it" + ", only cover art" * bool(streams))
        if stream.codec_context is None:
            raise VideoError("there is no decoder for its video stream")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > max_pixels:
            raise VideoError(too_large(width, height, max_pixels))
        try:
            yield container, stream
        except MemoryError:
            raise
        except av.FFmpegError as error:
            raise VideoError(f"it cannot be decoded ({error.strerror})") from error


def _container(path: str | os.PathLike[str], max_pixels: int) -> InputContainer:
    if problem := fault(path, max_pixels):
        raise VideoError(problem)
    # max_pixels is here for the decoders that opening a file may start to learn the pixel format
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS, "max_pixels": str(max_pixels)}
    try:
        return av.open(url(path), options=options, metadata_errors="replace")
    except av.ArgumentError as error:
        raise VideoError(f"its container format is not among those read here: {FORMATS}") from error
    except av.FFmpegError as error:
        raise VideoError(f"it is not a video, or too damaged to be opened ({error.strerror})") from error


def _single(path: str | os.PathLike[str], streams: Sequence[av.VideoStream], max_pixels: int) -> set[int]:
    """The indices of those of several video streams that have one packet at most; headers may not say."""
    if len(streams) < 2:
        return set()
    with _container(path, max_pixels) as container:
        return single(_packets(container, container.streams.video, _Damage()), [stream.index for stream in streams])


def _configure(stream: av.VideoStream, max_pixels: int, **options: str) -> None:
    """Open the decoder with one thread and these options, and see that it knew them all.

    "unaligned" has the left of a frame cropped to the pixel, as ffmpeg does, and not to a place in memory.
    """
    context = stream.codec_context
    context.thread_count = 1
    context.options = {"max_pixels": str(max_pixels), "flags": "+unaligned", **options}
    try:
        context.open()
    except av.FFmpegError as error:
        raise VideoError(f"its decoder {context.name} cannot be started ({error.strerror})") from error
    if context.options:
        raise VideoError(f"its decoder {context.name} does not know the options {', '.join(context.options)}")


class _Damage(Counter[str]):
    """How often a packet could not be read or decoded, by the reason; and when the time for all of them is over."""

    def __init__(self, time_limit: float = math.inf) -> None:
        super().__init__()
        self.time_limit, self.end = time_limit, time.monotonic() + time_limit

    def check_time(self) -> None:
        """VideoError once the time is over."""
        if time.monotonic() > self.end:
            raise VideoError(f"took longer than {self.time_limit:g} s and was stopped")


def _frames(
    container: InputContainer, stream: av.VideoStream, damage: _Damage, offsets: CropOffsets | None = None
) -> Iterator[av.VideoFrame]:
    """The decoded frames in the order shown; what cannot be read or decoded is counted by its reason in
    ``damage``, and ``offsets`` gets the packets."""
    decode = stream.codec_context.decode
    for packet in _packets(container, stream, damage):
        damage.check_time()
        if offsets is not None and packet is not None:
            offsets.read(bytes(packet))
            if packet.has_sidedata("new_extradata"):
                offsets.read_header(bytes(packet.get_sidedata("new_extradata")))
        try:
            frames = decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            damage[error.strerror or str(error)] += 1
            continue
        yield from frames


def _packets(container: InputContainer, streams: Any, damage: _Damage) -> Iterator[av.Packet[Any] | None]:
    """The packets of one stream or several and a last empty one, also where reading breaks off."""
    try:
        yield from container.demux(streams)
    except av.FFmpegError as error:
        damage[error.strerror or str(error)] += 1
        yield None


def _same_size(size: tuple[int, int], frame: av.VideoFrame, number: int) -> tuple[int, int]:
    new = (frame.height, frame.width)
    if size not in ((0, 0), new):
        before, after = f"{size[1]}x{size[0]}", f"{new[1]}x{new[0]}"
        raise VideoError(f"frames change their size: frame {number} is {after} px after {before} px")
    return new


def _some_frames(count: int, damage: _Damage) -> int:
    if not count:
        reasons = ", ".join(f"{reason} ({times} times)" for reason, times in damage.most_common(2))
        raise VideoError(f"no frame could be decoded{': ' if reasons else ''}{reasons}")
    return count
