"""The left and top cropping in the sequence parameter sets of an H.264 stream.

A decoder crops its frames accordingly, but its motion vectors are in the coordinates of the coded picture. FFmpeg does
not export the numbers, so they are parsed here. Source: ITU-T H.264, 7.3.2.1.1 and 7.4.2.1.1; ISO/IEC 14496-15,
5.3.3.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

Offset = tuple[int, int]
"""Number of coded pixels (left of the frame, above the frame)."""

_SPS = 7  # nal_unit_type of a sequence parameter set
_WITH_CHROMA_FORMAT = frozenset((44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244))
_START_CODE = re.compile(rb"\x00\x00\x01")


class CropOffsets:
    """Collects the offsets in a stream's parameter sets, from its header and its packets, in ``offsets``."""

    def __init__(self, extradata: bytes | None) -> None:
        self.offsets: set[Offset] = set()
        self._length_size = 0  # bytes of the length before each NAL unit; 0 if start codes separate the units
        self.read_header(extradata or b"")

    def read_header(self, extradata: bytes) -> None:
        """Read a stream's header, including a new one within the stream."""
        if extradata[:1] != b"\x01":  # not an AVCDecoderConfigurationRecord
            self.read(extradata)
            return
        self._length_size = (extradata[4] & 3) + 1 if len(extradata) > 4 else 4
        self._take(_with_lengths(extradata[6:], 2, count=extradata[5] & 31 if len(extradata) > 5 else 0))

    def read(self, packet: bytes) -> None:
        """Read a packet."""
        self._take(_with_lengths(packet, self._length_size) if self._length_size else _with_start_codes(packet))

    def _take(self, units: Iterator[bytes]) -> None:
        for unit in units:
            if unit and unit[0] & 31 == _SPS:
                try:
                    self.offsets.add(crop_offset(unit))
                except ValueError:  # truncated or garbled: no decoder uses it
                    continue


def _with_lengths(data: bytes, size: int, count: int = -1) -> Iterator[bytes]:
    """Yield the NAL units of data with a length of ``size`` bytes before each; at most ``count`` units if not -1."""
    start = 0
    while count and start + size <= len(data):
        end = start + size + int.from_bytes(data[start : start + size], "big")
        yield data[start + size : end]
        start, count = end, count - 1


def _with_start_codes(data: bytes) -> Iterator[bytes]:
    """Yield the NAL units of data with a start code before each."""
    starts = [code.end() for code in _START_CODE.finditer(data)]
    for start, after in pairwise([*starts, len(data) + 3]):
        yield data[start : after - 3]


def crop_offset(unit: bytes) -> Offset:
    """The left and top cropping of a sequence parameter set in luma px; ValueError if it is truncated.

    ``unit`` is the NAL unit including its header byte.
    """
    bits = _Bits(unit[1:].replace(b"\x00\x00\x03", b"\x00\x00"))
    profile, _, _ = bits.fixed(8), bits.fixed(16), bits.golomb()
    chroma_format = _chroma_format(bits) if profile in _WITH_CHROMA_FORMAT else 1
    bits.golomb()  # log2_max_frame_num_minus4
    order_type = bits.golomb()
    if order_type == 0:
        bits.golomb()
    elif order_type == 1:
        bits.fixed(1)
        bits.skip_golombs(2)
        bits.skip_golombs(bits.golomb())
    bits.golomb()  # max_num_ref_frames
    bits.fixed(1)
    bits.skip_golombs(2)  # width and height in macroblocks
    frames_only = bits.fixed(1)
    bits.fixed(1 if frames_only else 2)
    if not bits.fixed(1):
        return 0, 0
    left, _, top, _ = (bits.golomb() for _ in range(4))
    across, down = {1: (2, 2), 2: (2, 1)}.get(chroma_format, (1, 1))
    return left * across, top * down * (2 - frames_only)


def _chroma_format(bits: _Bits) -> int:
    """Read chroma_format_idc, and skip the fields after it up to and including the scaling lists."""
    chroma_format = bits.golomb()
    if chroma_format == 3:
        bits.fixed(1)
    bits.skip_golombs(2)  # bit depths
    bits.fixed(1)
    if bits.fixed(1):
        for index in range(12 if chroma_format == 3 else 8):
            if bits.fixed(1):
                _skip_scaling_list(bits, 16 if index < 6 else 64)
    return chroma_format


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = 8
    for _ in range(size):
        scale = (last + bits.signed_golomb()) % 256
        if not scale:  # the remaining entries repeat the last one
            return
        last = scale


class _Bits:
    """Reads successive numbers from a bit string; ValueError at its end."""

    def __init__(self, data: bytes) -> None:
        self._bits, self._place = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}", 0

    def fixed(self, count: int) -> int:
        """The next number of ``count`` bits."""
        self._place += count
        if self._place > len(self._bits):
            raise ValueError("it ends too early")
        return int(self._bits[self._place - count : self._place], 2)

    def golomb(self) -> int:
        """The next Exp-Golomb number, ue(v)."""
        zeros = self._bits.index("1", self._place) - self._place
        self._place += zeros
        return self.fixed(zeros + 1) - 1

    def signed_golomb(self) -> int:
        """The next signed Exp-Golomb number, se(v)."""
        number = self.golomb()
        return (number + 1) // 2 if number % 2 else -(number // 2)

    def skip_golombs(self, count: int) -> None:
        """Skip ``count`` Exp-Golomb numbers."""
        for _ in range(count):
            self.golomb()
