"""The motion vectors of one video, in bounded memory, and a copy that has some where it has none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from mocrop_core.actor_map import KeyFrames
from mocrop_core.cells import cell_grid
from mocrop_core.texture import Bars, bars, key_frame_texture, picture_area
from mocrop_core.vectors import PACKED, Vectors, in_pixels
from pipelines.media import decoder
from pipelines.media.containers import NoVectors
from pipelines.media.encoder import EncodeSettings, transcode
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.media.streams import Decoded, Survey
from pipelines.media.video_facts import Motion

TIME_LIMIT = 7 * 86400.0
"""Seconds that ffmpeg may take for one video that a person waits for."""
_BLOCK = 1 << 16  # vectors

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, and the frames done and in all; 0 in all where that is not known yet."""


def silent(what: str, done: int, total: int) -> None:
    """The `OnProgress` that shows nothing."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What decoding a video for its vectors found.

    ``motion`` and ``keys`` are of the file that has the vectors; ``survey`` and ``decoded`` are of the video itself;
    ``combs`` is what became of its interlaced frames.
    """

    motion: Motion
    keys: KeyFrames
    survey: Survey
    decoded: Decoded
    combs: str
    _packed: IO[bytes]

    def notes(self, combs: str = "") -> tuple[str, ...]:
        """A line for whatever was passed over, chosen or repaired; with other words on interlaced frames if given."""
        return tuple(self.survey.notes(self.decoded, combs or self.combs).values())

    def blocks(self) -> Iterator[Vectors]:
        """The vectors in decode order, in blocks of bounded size, from the beginning each time."""
        self._packed.seek(0)
        while content := self._packed.read(_BLOCK * PACKED.itemsize):
            yield in_pixels(np.frombuffer(content, PACKED), self.motion.motion_scale)


@contextmanager
def scanned(path: Path, on_progress: OnProgress = silent) -> Iterator[Scan]:
    """Decode a file for its motion vectors, which wait in a temporary file.

    ``VideoError`` where it cannot be read, `NoVectors` where it has none.
    """
    survey = decoder.survey(path)
    textures: list[np.ndarray] = []
    borders: list[Bars | None] = []
    with tempfile.TemporaryFile() as packed:

        def take(block: np.ndarray) -> None:
            packed.write(block.tobytes())
            on_progress("motion", int(block["frame"][-1]) + 1, survey.frames or 0)

        def keep(luma: np.ndarray) -> None:
            textures.append(key_frame_texture(luma))
            borders.append(bars(luma))

        motion = decoder.extract(path, take, on_key_frame=keep)
        texture = np.stack(textures) if textures else np.empty((0, *cell_grid(motion.frame_size).shape), np.uint8)
        keys = KeyFrames(motion.key_frames, texture, picture_area(motion.frame_size, borders))
        decoded = Decoded(motion.num_frames, motion.bad_packets, motion.num_interlaced)
        on_progress("motion", motion.num_frames, motion.num_frames)
        yield Scan(motion, keys, survey, decoded, "their combs kept", packed)


@contextmanager
def with_vectors(path: Path, on_progress: OnProgress = silent) -> Iterator[Scan]:
    """Decode a file for its motion vectors; where it has none, those of a temporary H.264 file that is made of it.

    That is so for codecs such as HEVC, VP9 and AV1, and for a picture that players turn or mirror; the H.264 file is
    made as the recipe ``ucf101`` makes it. ``VideoError`` or ``FfmpegError`` where neither can be had.
    """
    with ExitStack() as stack:
        try:
            found = stack.enter_context(scanned(path, on_progress))
        except NoVectors:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mocrop-"))
            copy = Path(folder, "video.mp4")
            total = decoder.survey(path).frames or 0
            made = transcode(
                path, copy, EncodeSettings(), find_ffmpeg(), TIME_LIMIT, lambda done: on_progress("H.264", done, total)
            )
            found = stack.enter_context(scanned(copy, on_progress))
            found = replace(found, survey=made.survey, decoded=made.decoded, combs="deinterlaced")
        yield found
