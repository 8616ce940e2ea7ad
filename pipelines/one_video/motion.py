"""The motion vectors of one video in bounded memory, from a temporary H.264 file if the video has none."""

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
from mocrop_core.texture import Bars, bars, key_frame_textures, picture_area
from mocrop_core.vectors import PACKED, Vectors, in_pixels
from pipelines.media import decoder
from pipelines.media.containers import NoVectors
from pipelines.media.encoder import EncodeSettings, transcode
from pipelines.media.ffmpeg_binary import find_ffmpeg
from pipelines.media.streams import Decoded, Survey
from pipelines.media.video_facts import Motion

TIME_LIMIT = 7 * 86400.0
"""Time limit of ffmpeg for one video, in seconds; long, because the user can stop it."""
_BLOCK = 1 << 16  # vectors

OnProgress = Callable[[str, int, int], None]
"""Called with the current step, the frames done, and all frames (0 if not known yet)."""


def silent(what: str, done: int, total: int) -> None:
    """An `OnProgress` that shows nothing."""


@dataclass(frozen=True, slots=True)
class Scan:
    """Result of decoding a video for its vectors.

    ``motion`` and ``keys`` belong to the file that has the vectors; ``survey`` and ``decoded`` to the video itself;
    ``combs`` says how its interlaced frames were handled.
    """

    motion: Motion
    keys: KeyFrames
    survey: Survey
    decoded: Decoded
    combs: str
    _packed: IO[bytes]

    def notes(self, combs: str = "") -> tuple[str, ...]:
        """One line per thing that was passed over, chosen or repaired; ``combs`` replaces `self.combs` if given."""
        return tuple(self.survey.notes(self.decoded, combs or self.combs).values())

    def blocks(self) -> Iterator[Vectors]:
        """The vectors in decode order, in blocks of bounded size; each call starts at the beginning."""
        self._packed.seek(0)
        while content := self._packed.read(_BLOCK * PACKED.itemsize):
            yield in_pixels(np.frombuffer(content, PACKED), self.motion.motion_scale)


@contextmanager
def scanned(path: Path, on_progress: OnProgress = silent) -> Iterator[Scan]:
    """Decode a file for its motion vectors, which are kept in a temporary file.

    Raises ``VideoError`` if it cannot be read, `NoVectors` if it has none.
    """
    survey = decoder.survey(path)
    textures: list[np.ndarray] = []
    borders: list[Bars | None] = []
    with tempfile.TemporaryFile() as packed:

        def take(block: np.ndarray) -> None:
            packed.write(block.tobytes())
            on_progress("motion", int(block["frame"][-1]) + 1, survey.frames or 0)

        def keep(lumas: np.ndarray) -> None:
            textures.append(key_frame_textures(lumas))
            borders.extend(map(bars, lumas))

        motion = decoder.extract(path, take, on_key_frames=keep)
        textures.append(np.empty((0, *cell_grid(motion.frame_size).shape), np.uint8))  # for a video without key frames
        keys = KeyFrames(motion.key_frames, np.concatenate(textures), picture_area(motion.frame_size, borders))
        decoded = Decoded(motion.num_frames, motion.bad_packets, motion.num_interlaced)
        on_progress("motion", motion.num_frames, motion.num_frames)
        yield Scan(motion, keys, survey, decoded, "their combs kept", packed)


@contextmanager
def with_vectors(path: Path, on_progress: OnProgress = silent) -> Iterator[Scan]:
    """Decode a file for its motion vectors; if it has none, transcode it to a temporary H.264 file and use that.

    This concerns codecs such as HEVC, VP9 and AV1, and pictures that players rotate or mirror; the H.264 file has the
    settings of the recipe ``ucf101``. Raises ``VideoError`` or ``FfmpegError`` if that fails, too.
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
