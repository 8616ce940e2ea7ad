"""Which video stream of a file is read, and how many frames the container says that it has.

The choice is a player's: never cover art or a track of one frame beside a longer one; else the default stream, else
the largest. Containers and streams are PyAV's, which `decoder` opens.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipelines.media.containers import is_cut_off_avi

_DEFAULT, _COVER = 1, 1 << 10 | 1 << 11  # FFmpeg's AV_DISPOSITION_: default; attached_pic, timed_thumbnails
_NOT_CODED = 16  # bytes: a smaller MPEG-4 packet may say that the picture before is shown again, and gives no frame
_SLACK = 2  # frames by which the count of an intact file may be off
_SLACK_SECONDS = 0.5  # the same where a container gives only a duration
_WITH_DURATION = ("matroska", "flv")  # of containers without a count, those whose header has a duration


@dataclass(frozen=True, slots=True)
class Decoded:
    """What decoding a whole video came to: ``frames``, ``interlaced`` ones of them, and ``bad_packets`` that could not
    be decoded."""

    frames: int
    bad_packets: int
    interlaced: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """What a file says of its video before it is decoded.

    ``stream`` is the index of the stream that is read; ``choice`` one line on what was taken and what was left out,
    empty where there was no choice; ``frames`` the container's count of its frames, None where it has none;
    ``covered`` the share of the container's duration that its packets reach, 1 where that is not known; ``time_base``
    what the time stamps of its frames count in, seconds; ``sound`` FFmpeg's name of the codec of each sound stream,
    empty for one that it does not know; ``others`` the number of streams that are neither video nor sound.
    """

    stream: int
    choice: str = ""
    frames: int | None = None
    covered: float = 1.0
    time_base: Fraction | None = None
    sound: tuple[str, ...] = ()
    others: int = 0

    def expected(self, decoded: Decoded) -> int:
        """How many frames there should be; where the container does not say, a packet that is bad is one."""
        if self.frames is not None:
            return self.frames
        return round(decoded.frames / self.covered) if self.covered < 1 else decoded.frames + decoded.bad_packets

    def missing(self, decoded: Decoded) -> int:
        """How many frames are missing; 0 for up to two and up to a tenth, by which counts of intact files are off."""
        expected = self.expected(decoded)
        missing = expected - decoded.frames
        return missing if missing > min(_SLACK, expected // 10) else 0

    def notes(self, decoded: Decoded, combs: str = "their combs kept") -> dict[str, str]:
        """What there is to say of the stream and of what was lost, by kind (`schema.NOTES`); ``combs`` is what became
        of interlaced frames."""
        bad = decoded.bad_packets
        found = {"stream": self.choice}
        if bad:
            found["damage"] = f"{bad} {'packet' if bad == 1 else 'packets'} could not be decoded"
        if decoded.interlaced:
            found["interlaced"] = f"{decoded.interlaced} of {decoded.frames} frames are interlaced, {combs}"
        if self.missing(decoded):
            about = "about " if self.covered < 1 else ""
            found["missing"] = f"{decoded.frames} of {about}{self.expected(decoded)} frames decoded"
        return {kind: text for kind, text in found.items() if text}


def choose(streams: Sequence[Any], single: set[int]) -> Any:
    """The stream to read of a file's video streams; None if all are cover art. ``single`` are the indices of those
    that have just one packet."""
    real = [stream for stream in streams if not stream.disposition.value & _COVER]
    longer = [stream for stream in real if stream.index not in single]
    return max(longer or real, key=_rank, default=None)


def single(packets: Iterable[Any], indices: Sequence[int]) -> set[int]:
    """Those of the streams that have one packet at most among the packets of all."""
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
    """One line on which of several streams is read and which are not; empty for a file with one."""
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
    """The container's own count of a stream's frames; None where it has none.

    MP4 and AVI have an index; what an edit list leaves out, empty packets and MPEG-4 pictures that are not coded are
    no frames. The index of an AVI file is at its end: where that is cut off, its header's count is taken.
    """
    index = stream.index_entries
    if not stream.frames or not {"mov", "avi"} & set(container.format.name.split(",")):
        return None
    if container.format.name == "avi" and (is_cut_off_avi(path) or len(index) < 2):
        return int(stream.frames)
    least = _NOT_CODED if stream.codec_context and stream.codec_context.name == "mpeg4" else 1
    return sum(entry.size >= least and not entry.is_discard for entry in index)


def header_duration(container: Any) -> float:
    """The duration in seconds that the header of a container without a count of frames gives; 0 where it has none."""
    known = bool(set(container.format.name.split(",")) & set(_WITH_DURATION))
    return (container.duration or 0) / 1e6 if known else 0.0


def covered(duration: float, packets: Iterable[Any]) -> float:
    """The share of a ``duration`` in seconds that the packets of all streams reach: 1 within half a second of it."""
    timed = (
        packet for packet in packets if packet is not None and packet.pts is not None and packet.time_base is not None
    )
    end = max((float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in timed), default=0.0)
    return end / duration if 0 < end < duration - _SLACK_SECONDS else 1.0
