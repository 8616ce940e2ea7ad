"""Reading video files: motion vectors without pixels, and single frames as RGB. Only this module imports PyAV.

Decoding uses one thread, as the stages process one clip per core. Undecodable packets are skipped, as by ffmpeg, and
counted. Frames are numbered from 0 in display order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter

from data_specs.windows import Window
from pipelines.media.containers import FORMATS, MAX_PIXELS, PROTOCOLS, NoVectors, VideoError, fault, too_large, url
from pipelines.media.damage import Damage
from pipelines.media.frame_times import WindowFrames
from pipelines.media.luma_batches import LumaBatches
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
    last_moment,
    single,
)
from pipelines.media.video_facts import Motion, Probe

VECTOR_CODECS = frozenset(
    ("flv", "h263", "h264", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2")
)
"""PyAV's names of the decoders that export motion vectors."""


def survey(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Survey:
    """Choose the video stream of a file to read, and return what the container says about it.

    Raises VideoError if there is none, the file cannot be read, or the frame exceeds ``max_pixels``.
    """
    with _opened(path, max_pixels) as (container, stream):
        streams = container.streams.video
        choice = about_choice(stream, streams, _single(path, streams, max_pixels))
        frames = counted_frames(path, container, stream)
        share = 1.0
        if frames is None and (duration := header_duration(container)):
            share = covered(duration, _packets(container, list(container.streams), Damage()))
        sound = tuple(audio.codec_context.name if audio.codec_context else "" for audio in container.streams.audio)
        others = len(container.streams) - len(streams) - len(sound)
        step = float(1 / stream.average_rate) if stream.average_rate else 0.0
        return Survey(stream.index, choice, frames, share, stream.time_base, sound, others, step)


def probe(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Probe:
    """The header's properties of the video stream that `survey` chooses.

    Raises VideoError if the file cannot be read or the frame exceeds ``max_pixels``.
    """
    with _opened(path, max_pixels) as (_, stream):
        context = stream.codec_context
        return Probe(context.name, context.width, context.height, context.name in VECTOR_CODECS)


def duration(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> float:
    """When the video stream that `survey` chooses ends, in seconds from the beginning of the container.

    Taken from the header, which may be wrong; if it does not say, from the timestamps of all packets. Raises VideoError
    if the file cannot be read.
    """
    with _opened(path, max_pixels) as (container, stream):
        begin = (container.start_time or 0) / 1e6
        if stream.duration and stream.time_base:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - begin
        return (
            container.duration / 1e6
            if container.duration
            else last_moment(_packets(container, stream, Damage())) - begin
        )


def extract(
    path: str | os.PathLike[str],
    sink: Callable[[np.ndarray], None],
    *,
    block: int = 8192,
    max_pixels: int = MAX_PIXELS,
    time_limit: float = math.inf,
    on_key_frames: Callable[[np.ndarray], None] | None = None,
    window: Window | None = None,
) -> Motion:
    """Decode the motion vectors of a video, or of a ``window`` of it, and pass them to ``sink``.

    ``sink`` gets new arrays of dtype `mocrop_core.PACKED`, each with ``block`` vectors or up to one frame's more, the
    last with fewer; it is not called if there are no vectors. Vectors are in the coordinates of the displayed frames:
    if H.264 crops pixels at the left or top, vectors are shifted, and those of completely cropped blocks are dropped.
    Displacements that refer to a later frame are reversed, so that all point back in time. ``on_key_frames`` gets the
    luma of the key frames, a few at a time, decoded without the loop filter: uint8 (frames, height, width), valid
    during the call only. The frames of a window count from 0; those before it are decoded, too, as its first frames may
    refer to them. Memory use does not depend on the length of the video. Raises VideoError if nothing can be decoded,
    frames change their size, a frame exceeds ``max_pixels``, a vector does not fit the dtype, or it takes more than
    ``time_limit`` seconds; `NoVectors` if the decoder exports none, or frames are displayed rotated or mirrored.
    """
    damage, reformatter = Damage(time_limit), VideoReformatter()
    size, number, keys, interlaced = (0, 0), -1, [], 0
    lumas = LumaBatches(on_key_frames) if on_key_frames is not None else None
    with _opened(path, max_pixels) as (container, stream):
        context = stream.codec_context
        if context.name not in VECTOR_CODECS:
            raise NoVectors(f"its codec {context.codec.canonical_name} gives no motion vectors: transcode it to H.264")
        # the loop filter takes a tenth of the decoding time; it does not change vectors, and hardly the texture
        _configure(stream, max_pixels, flags2="+export_mvs", skip_loop_filter="all")
        offsets = CropOffsets(context.extradata) if context.name == "h264" else None
        packer, part = VectorPacker(sink, block, offsets), WindowFrames(container, stream, window, damage)
        for number, frame in part.of(_frames(container, stream, damage, offsets)):
            if (frame.height, frame.width) != size:
                size = _same_size(size, frame, number)
            if frame.key_frame:
                keys.append(number)
                if lumas is not None:
                    lumas.add(_luma(frame, reformatter))
            interlaced += frame.interlaced_frame
            # not frame.side_data: its reference cycle with the frame would keep both until a garbage collection
            side_data = SideDataContainer(frame)  # type: ignore[call-arg]
            if (matrix := side_data.get(SideData.DISPLAYMATRIX)) is not None:
                check_upright(bytes(matrix), number)
            if (vectors := side_data.get(SideData.MOTION_VECTORS)) is not None and packer.add(number, bytes(vectors)):
                packer.flush(size, (context.coded_height, context.coded_width))
        packer.flush(size, (context.coded_height, context.coded_width))
        if lumas is not None:
            lumas.flush()
    part.check(number + 1)
    found = (number + 1, size, tuple(keys), packer.scale or 1, packer.total, damage.total(), interlaced)
    return Motion(*found, part.first_frame, part.last_time, part.goes_on)


def rgb_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int],
    key_frames: Sequence[int] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    time_limit: float = math.inf,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each frame of ``indices`` once, in increasing order, as (number, pixels).

    Pixels are (height, width, 3) uint8 RGB in display orientation, converted with the stream's colour matrix, by
    default BT.601. ``key_frames`` are those of the file, from `extract`: if only such frames are requested, only these
    are decoded, with the same pixels. Raises ValueError for a negative index, VideoError if the video ends before a
    frame, changes its size, or takes more than ``time_limit`` seconds.
    """
    wanted = sorted({int(index) for index in indices})
    if wanted and wanted[0] < 0:
        raise ValueError(f"indices hold {wanted[0]}, expected frame numbers from 0")
    alone = key_frames if key_frames is not None and set(wanted) <= set(key_frames) else None
    return _rgb_frames(path, wanted, alone, max_pixels, Damage(time_limit))


def decode_all(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = MAX_PIXELS,
    time_limit: float = math.inf,
    window: Window | None = None,
) -> Decoded:
    """Decode a whole video, or a ``window`` of it, without its pixels.

    Raises VideoError if nothing can be decoded, frames change size or rotation, the window has no frame, or it takes
    more than ``time_limit`` seconds.
    """
    damage = Damage(time_limit)
    size, number, rotation = (0, 0), -1, None
    with _opened(path, max_pixels) as (container, stream):
        _configure(stream, max_pixels, skip_loop_filter="all", skip_idct="all")
        part = WindowFrames(container, stream, window, damage)
        for number, frame in part.of(_frames(container, stream, damage)):
            size = _same_size(size, frame, number)
            if rotation not in (None, frame.rotation):
                raise VideoError(f"frames change their rotation: frame {number} is rotated by {frame.rotation} degrees")
            rotation = frame.rotation
    part.check(number + 1)
    return Decoded(number + 1, damage.total())


def _rgb_frames(
    path: str | os.PathLike[str], wanted: list[int], alone: Sequence[int] | None, max_pixels: int, damage: Damage
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
    if alone is not None:  # the remaining frames need those in between
        yield from _rgb_frames(path, [target, *left], None, max_pixels, damage)
        return
    damage.check_some(number + 1)
    raise VideoError(f"it ends after {number + 1} frames, before frame {target}")


def _luma(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """The luma (height, width) of a frame as uint8: a view of its memory for 8-bit formats, else truncated to 8 bits.

    Formats without a luma plane are converted to grey.
    """
    pixels = frame.format
    bits = pixels.components[0].bits
    if not pixels.is_planar or pixels.is_rgb or (bits > 8 and pixels.is_big_endian):
        frame, bits = reformatter.reformat(frame, format="gray", threads=1), 8
    plane, size = frame.planes[0], (frame.height, frame.width)
    dtype = np.dtype(np.uint8 if bits == 8 else "<u2")
    luma = np.ndarray(size, dtype, memoryview(plane), strides=(plane.line_size, dtype.itemsize))
    return luma if bits == 8 else (luma >> (bits - 8)).astype(np.uint8)


def _stands_alone(frame: av.VideoFrame) -> bool:
    """Return whether a key frame has the same pixels without the frames before it.

    A damaged one is concealed with them, and the second field of an interlaced one may depend on them.
    """
    return frame.key_frame and not frame.is_corrupt and not frame.interlaced_frame


@contextmanager
def _opened(path: str | os.PathLike[str], max_pixels: int) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Open a file and choose its video stream; a frame above ``max_pixels`` in the header is refused before decoding.

    Errors of PyAV in the block become VideoError.
    """
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
    # max_pixels is for decoders that PyAV may start when opening a file, to find out its pixel format
    options = {"protocol_whitelist": PROTOCOLS, "format_whitelist": FORMATS, "max_pixels": str(max_pixels)}
    try:
        return av.open(url(path), options=options, metadata_errors="replace")
    except av.ArgumentError as error:
        raise VideoError(f"its container format is not one of {FORMATS}") from error
    except av.FFmpegError as error:
        raise VideoError(f"it is not a video, or too damaged to be opened ({error.strerror})") from error


def _single(path: str | os.PathLike[str], streams: Sequence[av.VideoStream], max_pixels: int) -> set[int]:
    """The indices of the video streams with at most one packet, if there are several; headers may not tell."""
    if len(streams) < 2:
        return set()
    with _container(path, max_pixels) as container:
        return single(_packets(container, container.streams.video, Damage()), [stream.index for stream in streams])


def _configure(stream: av.VideoStream, max_pixels: int, **options: str) -> None:
    """Open the decoder with one thread and these options; VideoError if it does not know them all.

    The flag "unaligned" crops the left of a frame exactly, as ffmpeg does, instead of to an aligned address.
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


def _frames(
    container: InputContainer, stream: av.VideoStream, damage: Damage, offsets: CropOffsets | None = None
) -> Iterator[av.VideoFrame]:
    """Yield the decoded frames in display order; count errors in ``damage`` and pass the packets to ``offsets``."""
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


def _packets(container: InputContainer, streams: Any, damage: Damage) -> Iterator[av.Packet[Any] | None]:
    """Yield the packets of one or several streams and a final flush packet, also if reading fails."""
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
