"""Choosing the video stream of a file to read, and reading its number of frames from the container.

The choice is that of a player: never cover art, nor a track of one frame if there is a longer one; the default stream
if any, else the largest. Containers and streams are PyAV objects that `decoder` opens.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from data_specs.windows import Window
from pipelines.media.containers import is_cut_off_avi

_DEFAULT, _COVER = 1, 1 << 10 | 1 << 11  # FFmpeg's AV_DISPOSITION_: default; attached_pic, timed_thumbnails
_NOT_CODED = 16  # bytes; a smaller MPEG-4 packet may only repeat the previous picture and gives no frame
_SLACK = 2  # frames by which the count of an intact file may be off
_SLACK_SECONDS = 0.5  # the same for containers that only give a duration
_WITH_DURATION = ("matroska", "flv")  # containers without a frame count but with a duration in the header


@dataclass(frozen=True, slots=True)
class Decoded:
    """Result of decoding a whole video: the numbers of ``frames``, of ``interlaced`` frames, and of undecodable packets
    (``bad_packets``)."""

    frames: int
    bad_packets: int
    interlaced: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """Properties of a file's video that are known without decoding it.

    ``stream`` is the index of the chosen stream; ``choice`` is one line on which stream is used and which are left
    out, "" if there is only one; ``frames`` is the container's frame count, None if it has none; ``covered`` is the
    fraction of the container's duration that its packets reach, 1 if unknown; ``time_base`` is the unit of timestamps
    in seconds; ``sound`` has FFmpeg's codec name of each sound stream, "" if unknown; ``others`` is the number of
    streams that are neither video nor sound; ``step`` is the average distance of frames in seconds, 0 if unknown.
    """

    stream: int
    choice: str = ""
    frames: int | None = None
    covered: float = 1.0
    time_base: Fraction | None = None
    sound: tuple[str, ...] = ()
    others: int = 0
    step: float = 0.0

    def of_window(self, window: Window, decoded: Decoded, last_time: float, *, goes_on: bool) -> Survey:
        """The survey of a window: how many frames it should have.

        They are the decoded ones, one for each bad packet, and those that are missing at its end if the video ends in
        it: if it does not go on after the window, and its last frame is shown at ``last_time``.
        """
        tail = 0.0 if goes_on or not self.step else (window.end - last_time) / self.step - 1
        return replace(self, frames=decoded.frames + decoded.bad_packets + max(0, round(tail)), covered=1.0)

    def expected(self, decoded: Decoded) -> int:
        """The expected number of frames; if the container does not give it, each bad packet counts as a frame."""
        if self.frames is not None:
            return self.frames
        return round(decoded.frames / self.covered) if self.covered < 1 else decoded.frames + decoded.bad_packets

    def missing(self, decoded: Decoded) -> int:
        """The number of missing frames; 0 if within the error of intact files, up to 2 frames and a tenth of all."""
        expected = self.expected(decoded)
        missing = expected - decoded.frames
        return missing if missing > min(_SLACK, expected // 10) else 0

    def notes(self, decoded: Decoded, combs: str = "their combs kept") -> dict[str, str]:
        """Notes on the choice of the stream and on losses, by kind (`schema.NOTES`).

        ``combs`` says how interlaced frames were handled.
        """
        bad = decoded.bad_packets
        notes = {"stream": self.choice}
        if bad:
            notes["damage"] = f"{bad} {'packet' if bad == 1 else 'packets'} could not be decoded"
        if decoded.interlaced:
            notes["interlaced"] = f"{decoded.interlaced} of {decoded.frames} frames are interlaced, {combs}"
        if self.missing(decoded):
            about = "about " if self.covered < 1 else ""
            notes["missing"] = f"{decoded.frames} of {about}{self.expected(decoded)} frames decoded"
        return {kind: text for kind, text in notes.items() if text}


def choose(streams: Sequence[Any], single: set[int]) -> Any:
    """Choose one of a file's video streams; None if all are cover art.

    ``single`` has the indices of the streams with at most one packet.
    """
    real = [stream for stream in streams if not stream.disposition.value & _COVER]
    longer = [stream for stream in real if stream.index not in single]
    return max(longer or real, key=_rank, default=None)


def single(packets: Iterable[Any], indices: Sequence[int]) -> set[int]:
    """The ``indices`` of the streams that have at most one of the ``packets``."""
    seen = Counter(dict.fromkeys(indices, 0))
    for packet in packets:
        if packet is not None and packet.size:
            seen[packet.stream_index] += 1
            if min(seen.values()) > 1:
                break
    return {index for index, count in seen.items() if count < 2}


def _rank(stream: Any) -> tuple[bool, bool, int, int]:
    context = stream.codec_context
    size = context.width * context.height if context else 0
    return context is not None, bool(stream.disposition.value & _DEFAULT), size, -stream.index


def about_choice(chosen: Any, streams: Sequence[Any], single: set[int]) -> str:
    """One line on which of several streams is used and which are left out; "" if there is only one."""
    if len(streams) == 1:
        return ""
    left_out = ", ".join(_described(stream, single) for stream in streams if stream is not chosen)
    return f"{_described(chosen, single)} is used; left out: {left_out}"


def _described(stream: Any, single: set[int]) -> str:
    context = stream.codec_context
    facts = [f"{context.name} {context.width}x{context.height}" if context else "no decoder"]
    facts += ["default"] * bool(stream.disposition.value & _DEFAULT)
    facts += ["cover art"] * bool(stream.disposition.value & _COVER)
    facts += ["one frame"] * (stream.index in single)
    return f"stream {stream.index} ({', '.join(facts)})"


def counted_frames(path: str | os.PathLike[str], container: Any, stream: Any) -> int | None:
    """The container's frame count of a stream; None if it has none.

    MP4 and AVI have an index; entries that an edit list discards, empty packets and MPEG-4 pictures that are not coded
    do not count. The index of an AVI file is at its end: if that is cut off, the count in its header is used.
    """
    index = stream.index_entries
    if not stream.frames or not {"mov", "avi"} & set(container.format.name.split(",")):
        return None
    if container.format.name == "avi" and (is_cut_off_avi(path) or len(index) < 2):
        return int(stream.frames)
    least = _NOT_CODED if stream.codec_context and stream.codec_context.name == "mpeg4" else 1
    return sum(entry.size >= least and not entry.is_discard for entry in index)


def header_duration(container: Any) -> float:
    """The duration in seconds in the header of a container without a frame count; 0 if it has none."""
    reliable = bool(set(container.format.name.split(",")) & set(_WITH_DURATION))
    return (container.duration or 0) / 1e6 if reliable else 0.0


def covered(duration: float, packets: Iterable[Any]) -> float:
    """The fraction of a ``duration`` in seconds that the packets of all streams reach; 1 if within half a second."""
    end = last_moment(packets)
    return end / duration if 0 < end < duration - _SLACK_SECONDS else 1.0


def last_moment(packets: Iterable[Any]) -> float:
    """When the last of some packets ends, in seconds; 0 if they have no timestamps."""
    timed = (
        packet for packet in packets if packet is not None and packet.pts is not None and packet.time_base is not None
    )
    return max((float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in timed), default=0.0)
