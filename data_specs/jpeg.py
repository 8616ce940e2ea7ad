"""The Zarr v3 codec ``mocrop.jpeg``: one RGB frame per chunk, stored as one JPEG image.

Zarr finds it through the entry point group ``zarr.codecs``, or once this module is imported. It is for caches that
must be small: readers without this codec cannot open the array. Each chunk is a plain baseline JFIF file that any
JPEG decoder can read.
"""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from zarr.abc.codec import ArrayBytesCodec
from zarr.registry import register_codec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer
    from zarr.core.chunk_grids import ChunkGrid
    from zarr.core.common import JSON
    from zarr.core.dtype.wrapper import TBaseDType, TBaseScalar, ZDType

CODEC_NAME = "mocrop.jpeg"
LONGEST_SIDE = 65_500
"""The longest side that libjpeg writes, px."""

_FULL_CHROMA = 0  # Pillow's name for 4:4:4


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Stores a uint8 chunk of shape (1, ..., 1, y, x, 3), RGB 0..255, as one baseline JPEG image.

    `quality` is libjpeg's, 1..100, and goes into the array's metadata; decoding does not need it. The chunk's
    last axes are the array's own, so no transpose comes before this codec. Damaged JPEG data often decodes to
    damaged pixels without an error: put `Crc32cCodec` after it. Equal frames give equal bytes with the same
    Pillow and libjpeg, not across versions of them.

    Chroma is kept at full resolution (4:4:4; ours): on UCF-101 frames of 256 x 256 px, 4:4:4 at quality 90
    has the RGB error of 4:2:0 at quality 95 in 15 % fewer bytes, and half its largest error
    (`tests.benchmarks.frame_codecs` measures both).

    Raises TypeError or ValueError for a quality that is not an integer in 1..100, and ValueError for another data
    type or chunk shape and for bytes that are not a JPEG image of the chunk's size.
    """

    is_fixed_size = False

    quality: int = 95

    def __post_init__(self) -> None:
        if isinstance(self.quality, bool) or not isinstance(self.quality, int):
            raise TypeError(f"{CODEC_NAME}: quality must be an integer in 1..100, got {self.quality!r}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"{CODEC_NAME}: quality must be an integer in 1..100, got {self.quality}")

    @classmethod
    def from_dict(cls, data: Mapping[str, JSON]) -> Self:
        """The codec that ``{"name": "mocrop.jpeg", "configuration": {"quality": 95}}`` in metadata describes.

        The quality is required and nothing else is allowed; ValueError or TypeError otherwise.
        """
        configuration: Any = data.get("configuration")
        if data.get("name") != CODEC_NAME:
            raise ValueError(f"the codec's name must be {CODEC_NAME!r}, got {data.get('name')!r}")
        if not isinstance(configuration, dict) or set(configuration) != {"quality"}:
            raise ValueError(f'{CODEC_NAME}: configuration must be {{"quality": 1..100}}, got {configuration!r}')
        return cls(quality=configuration["quality"])

    def to_dict(self) -> dict[str, JSON]:
        """The codec as it stands in array metadata; `from_dict` reads it back."""
        return {"name": CODEC_NAME, "configuration": {"quality": self.quality}}

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """This codec, unchanged; ValueError for arrays that it cannot store.

        Zarr also calls this for codecs inside a shard, for which it does not call `validate`; without sharding it
        passes the shape of the whole array. Only the data type and the last axis can therefore be checked here.
        """
        _refuse_dtype(array_spec.dtype)
        if len(array_spec.shape) < 3 or array_spec.shape[-1] != 3:
            raise ValueError(f"{CODEC_NAME}: the last axes must be (y, x, 3), got {array_spec.shape}")
        return self

    def validate(
        self,
        *,
        shape: tuple[int, ...],
        dtype: ZDType[TBaseDType, TBaseScalar],
        chunk_grid: ChunkGrid,
    ) -> None:
        """Accepts uint8 arrays whose chunks are one frame each; ValueError otherwise."""
        _refuse_dtype(dtype)
        chunk_shape: tuple[int, ...] | None = getattr(chunk_grid, "chunk_shape", None)
        if chunk_shape is None:
            raise ValueError(f"{CODEC_NAME}: chunks must lie in a regular grid, got {chunk_grid!r}")
        _frame_size(chunk_shape)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raises NotImplementedError, which tells Zarr that the size depends on the data."""
        raise NotImplementedError(f"{CODEC_NAME}: the encoded size depends on the frame")

    def encoded(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        """A chunk's bytes: one RGB frame, (1, ..., 1, y, x, 3) uint8; ValueError for anything else."""
        height, width = _frame_size(pixels.shape)
        if pixels.dtype != np.uint8:
            raise ValueError(f"{CODEC_NAME}: frames must be uint8, got {pixels.dtype}")
        frame = np.ascontiguousarray(pixels.reshape(height, width, 3))
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=self.quality, subsampling=_FULL_CHROMA)
        return file.getvalue()

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return chunk_spec.prototype.buffer.from_bytes(self.encoded(chunk_array.as_numpy_array()))

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        frame = decode_jpeg(chunk_bytes.to_bytes(), *_frame_size(chunk_spec.shape))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(frame.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)


def decode_jpeg(data: Any, height: int, width: int) -> npt.NDArray[np.uint8]:
    """The RGB frame (height, width, 3) in the bytes of a baseline JPEG image; ``ValueError`` for any other content.

    The size in the header is checked before any memory of that size is allocated. Progressive images are refused,
    because each of an unlimited number of scans takes a pass over the frame.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.size != (width, height) or image.mode != "RGB" or image.info.get("progressive"):
                kind = "progressive " if image.info.get("progressive") else ""
                stored = f"{kind}{image.mode} image of {image.width} x {image.height} px"
                raise ValueError(f"{CODEC_NAME}: the chunk holds a {stored}, the array RGB of {width} x {height} px")
            return np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{CODEC_NAME}: the chunk is not a complete JPEG image: {error}") from error


def _refuse_dtype(dtype: ZDType[TBaseDType, TBaseScalar]) -> None:
    native = dtype.to_native_dtype()
    if native != np.dtype(np.uint8):
        raise ValueError(f"{CODEC_NAME}: the data type must be uint8, got {native}")


def _frame_size(chunk_shape: tuple[int, ...]) -> tuple[int, int]:
    """The height and width, px, of the one RGB frame in a chunk of this shape; ValueError for another."""
    *leading, height, width, channels = chunk_shape if len(chunk_shape) >= 3 else (0, 0, 0)
    if channels != 3 or any(length != 1 for length in leading):
        raise ValueError(
            f"{CODEC_NAME}: a chunk must be one RGB frame, of shape (1, ..., 1, y, x, 3), got {chunk_shape}"
        )
    if not (1 <= height <= LONGEST_SIDE and 1 <= width <= LONGEST_SIDE):
        raise ValueError(f"{CODEC_NAME}: a frame's sides must be 1..{LONGEST_SIDE} px, got {chunk_shape}")
    return height, width


register_codec(CODEC_NAME, JpegCodec)
