"""Real clips made hostile: 24 ways to break a video file, each drawn from a seed, and files that are no videos."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

Mutation = Callable[[bytearray, random.Random], bytes | bytearray]
SIZES = (0, 1, 2, 15, 16, 17, 319, 321, 4096, 16_384, 30_000, 65_535, 2**31 - 1, 2**32 - 1)
COUNTS = (0, 1, 2, 7, 10**6, 2**31 - 1, 2**32 - 1)
CODECS = (b"H264", b"HEVC", b"MJPG", b"DIVX", b"FFV1", b"mp4v", b"WMV3", b"VP90", b"RV40", b"\0\0\0\0", b"cvid")
MAGICS = (
    b"\0\0\0\x18ftypisom",
    b"\x1aE\xdf\xa3",
    b"FLV\x01\x05",
    b"OggS\0\x02",
    b"0&\xb2u\x8ef\xcf\x11",
    b"GIF89a",
    b"\x89PNG\r\n\x1a\n",
    b"#EXTM3U\n",
    b"ffconcat version 1.0\n",
    b"G@\0\x10",
    b"\0\0\1\xba",
    b"RIFX",
)


def flip_bits(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 10, 100, 1000))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def flip_header(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 3, 10, 50))):
        data[rng.randrange(min(len(data), 2048))] ^= 1 << rng.randrange(8)
    return data


def flip_index(data: bytearray, rng: random.Random) -> bytearray:
    start = max(data.rfind(b"idx1"), len(data) - 4000)
    for _ in range(rng.choice((1, 20))):
        data[rng.randrange(start, len(data))] ^= 0xFF
    return data


def cut_end(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(1, len(data))]


def cut_start(data: bytearray, rng: random.Random) -> bytearray:
    return data[rng.randrange(1, len(data)) :]


def cut_within_header(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(1, 6000)]


def cut_middle(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 100_000) :]


def swap_blocks(data: bytearray, rng: random.Random) -> bytearray:
    size = rng.choice((64, 4096, 65_536))
    for _ in range(rng.randrange(1, 6)):
        a, b = (rng.randrange(max(1, len(data) - size)) for _ in range(2))
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return data


def repeat_block(data: bytearray, rng: random.Random) -> bytearray:
    start, size = rng.randrange(len(data)), rng.randrange(1, 60_000)
    return data[: start + size] + data[start : start + size] * rng.randrange(1, 5) + data[start + size :]


def fill_block(data: bytearray, rng: random.Random) -> bytearray:
    start, size = rng.randrange(len(data)), rng.randrange(1, 60_000)
    data[start : start + size] = bytes([rng.choice((0, 255))]) * len(data[start : start + size])
    return data


def noise_block(data: bytearray, rng: random.Random) -> bytearray:
    start, size = rng.randrange(len(data)), rng.randrange(1, 60_000)
    data[start : start + size] = rng.randbytes(len(data[start : start + size]))
    return data


def noise_behind_header(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.choice((64, 300, 6000))
    return data[:start] + rng.randbytes(50_000)


def insert_noise(data: bytearray, rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(rng.randrange(1, 5000)) + data[start:]


def _put(data: bytearray, mark: bytes, offset: int, value: int, length: int = 4) -> bytearray:
    """Write a number behind a chunk's name, if the chunk is there."""
    place = data.find(mark)
    if place >= 0:
        data[place + offset : place + offset + length] = (value % 2 ** (8 * length)).to_bytes(length, "little")
    return data


def lying_count(data: bytearray, rng: random.Random) -> bytearray:
    _put(data, b"avih", 8 + 16, rng.choice(COUNTS))
    return _put(data, b"strh", 8 + 32, rng.choice(COUNTS))


def lying_size(data: bytearray, rng: random.Random) -> bytearray:
    width, height = rng.choice(SIZES), rng.choice(SIZES)
    _put(data, b"avih", 8 + 32, width)
    _put(data, b"avih", 8 + 36, height)
    _put(data, b"strf", 8 + 4, width)
    return _put(data, b"strf", 8 + 8, height)


def enormous_size(data: bytearray, rng: random.Random) -> bytearray:
    side = rng.choice((30_000, 30_001, 65_000))
    _put(data, b"strf", 8 + 4, side)
    return _put(data, b"strf", 8 + 8, side)


def lying_rate(data: bytearray, rng: random.Random) -> bytearray:
    _put(data, b"strh", 8 + 20, rng.choice(COUNTS))
    return _put(data, b"strh", 8 + 24, rng.choice(COUNTS))


def lying_streams(data: bytearray, rng: random.Random) -> bytearray:
    return _put(data, b"avih", 8 + 24, rng.choice(COUNTS))


def lying_chunks(data: bytearray, rng: random.Random) -> bytearray:
    for mark in rng.sample((b"RIFF", b"LIST", b"movi", b"idx1", b"00dc", b"01wb", b"strl", b"avih", b"strf"), 3):
        _put(data, mark, 4, rng.choice((0, 1, 3, len(data), 2**31, 2**32 - 1)))
    return data


def other_codec(data: bytearray, rng: random.Random) -> bytearray:
    codec = rng.choice(CODECS)
    for mark, offset in ((b"strh", 12), (b"strf", 8 + 16)):
        _put(data, mark, offset, int.from_bytes(codec, "little"))
    return data


def other_magic(data: bytearray, rng: random.Random) -> bytearray:
    magic = rng.choice(MAGICS)
    data[: len(magic)] = magic
    return data


def two_in_one(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))] + data


def random_bytes(data: bytearray, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 100, 5000, 200_000)))


def bare_stream(data: bytearray, rng: random.Random) -> bytes:
    """MPEG-4 start codes, and noise in which a decoder finds what it likes."""
    codes = (b"\0\0\1\xb0", b"\0\0\1\xb5", b"\0\0\1\0", b"\0\0\1\x20", b"\0\0\1\xb6", b"\0\0\1\xb3", b"\0\0\0\1\x67")
    return b"".join(rng.choice(codes) + rng.randbytes(rng.randrange(2, 400)) for _ in range(300))


def zero_length(data: bytearray, rng: random.Random) -> bytes:
    return b""


KINDS: tuple[Mutation, ...] = (
    flip_bits,
    flip_header,
    flip_index,
    cut_end,
    cut_start,
    cut_within_header,
    cut_middle,
    swap_blocks,
    repeat_block,
    fill_block,
    noise_block,
    noise_behind_header,
    insert_noise,
    lying_count,
    lying_size,
    enormous_size,
    lying_rate,
    lying_streams,
    lying_chunks,
    other_codec,
    other_magic,
    two_in_one,
    random_bytes,
    bare_stream,
    zero_length,
)


def mutants(clips: list[Path], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """``count`` files that were real clips: the kind of mutation, a file name, and the bytes; the same every time."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        rng = random.Random(f"{seed} {number}")
        clip = clips[rng.randrange(len(clips))]
        yield kind.__name__, f"m{number:04}{clip.suffix}", bytes(kind(bytearray(clip.read_bytes()), rng))


def references(canary: Path, port: int) -> dict[str, bytes]:
    """Files that name other files or addresses, by file name: playlists, lists, redirections, external tracks."""
    url, file = f"http://127.0.0.1:{port}/canary.ts", str(canary)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-VERSION:3\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    key = (
        f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{file}\n#EXT-X-ENDLIST\n'
    )
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        f'<Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    texts = {
        "hls-address.avi": playlist.format(url),
        "hls-file.avi": playlist.format(file),
        "hls-key.avi": key,
        "hls-file-address.ts": playlist.format(f"file://{file}"),
        "hls-concat.mp4": playlist.format(f"concat:{file}|{file}"),
        "hls-nested.mkv": playlist.format(f"tcp://127.0.0.1:{port}"),
        "m3u.mpg": f"#EXTM3U\n{file}\n{url}\n",
        "ffconcat.avi": f"ffconcat version 1.0\nfile '{file}'\n",
        "ffconcat-address.mov": f"ffconcat version 1.0\nfile {url}\n",
        "concat.mp4": f"file '{file}'\nfile '{file}'\n",
        "dash.mp4": dash,
        "asx.asf": f'<asx><entry><ref href="{url}"/></entry></asx>',
        "redirect.wmv": f"[Reference]\nRef1={url}\nRef2=file://{file}\n",
        "sdp.avi": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\n"
        f"c=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "address.avi": f"{url}\n",
        "path.avi": f"{file}\n",
        "ffmetadata.avi": f";FFMETADATA1\ntitle={file}\n",
        "subtitles.avi": f"1\n00:00:00,000 --> 00:00:01,000\n{file}\n",
        "script.avi": "#!/bin/sh\ntouch pwned\n",
    }
    return {name: text.encode() for name, text in texts.items()} | {"external.mov": _external_track(file)}


def _external_track(file: str) -> bytes:
    """A QuickTime file whose one track says that its samples lie in another file."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        inside = b"".join(parts)
        return struct.pack(">I", 8 + len(inside)) + kind + inside

    name = file.encode() + b"\0"
    alias = box(b"alis", bytes(4), name.ljust(160, b"\0"))
    address = box(b"url ", bytes(4), b"file://" + name)
    entry = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", 320, 240) + bytes(50)
    table = box(
        b"stbl",
        box(b"stsd", bytes(4), struct.pack(">I", 1), box(b"mp4v", entry)),
        box(b"stts", bytes(4), struct.pack(">III", 1, 9, 512)),
        box(b"stsc", bytes(4), struct.pack(">IIII", 1, 1, 9, 1)),
        box(b"stsz", bytes(4), struct.pack(">II", 4000, 9)),
        box(b"stco", bytes(4), struct.pack(">II", 1, 6000)),
    )
    data = box(b"dinf", box(b"dref", bytes(4), struct.pack(">I", 2), alias, address))
    media = box(
        b"mdia",
        box(b"mdhd", bytes(12), struct.pack(">II", 12800, 4608), bytes(4)),
        box(b"hdlr", bytes(8), b"vide", bytes(13)),
        box(b"minf", box(b"vmhd", bytes(12)), data, table),
    )
    header = box(b"mvhd", bytes(12), struct.pack(">II", 1000, 360), bytes(80))
    track = box(b"trak", box(b"tkhd", bytes(12), struct.pack(">I", 1), bytes(68)), media)
    return box(b"ftyp", b"qt  ", bytes(4), b"qt  ") + box(b"moov", header, track) + box(b"mdat", bytes(64))


def claims(motion_jpeg: bytes) -> dict[str, bytes]:
    """Files whose own stream claims 30,000 × 30,000 px, by file name; from a small AVI of Motion JPEG."""
    sized = struct.pack(">HH", 30_000, 30_000)
    jpeg = re.sub(rb"(\xff\xc0\x00\x11\x08)....", lambda found: found[1] + sized, motion_jpeg, flags=re.DOTALL)
    sides = _exp_golomb(30_000 // 16 - 1) * 2
    # profile 66, level 5.1; set 0, 4-bit frame numbers, order by them, one reference, no gaps; progressive, no crop
    bits = "01000010" + "0" * 8 + "00110011" + "1" + "1" + "011" + "010" + "0" + sides + "1" + "1" + "0" + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    parameters = b"\0\0\0\1\x67" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    picture = b"\0\0\0\1\x68\xce\x38\x80" + b"\0\0\1\x65\x88\x84" + bytes(range(1, 200))
    return {"motion-jpeg.avi": jpeg, "h264.ts": (parameters + picture) * 20}


def _exp_golomb(value: int) -> str:
    """The bits of an unsigned number as H.264 writes it."""
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


NAMES = (
    b"-y.avi",
    b"--help.avi",
    b"-i.avi",
    b"new\nline.avi",
    b"tab\there.avi",
    b"quo'te\"s.avi",
    b"%d.avi",
    b"frame%03d.avi",
    b"a:b.avi",
    b"http:.avi",
    b"pipe:1.avi",
    b"|true.avi",
    b"$(touch pwned).avi",
    b"`touch pwned`.avi",
    b"; touch pwned.avi",
    b"back\\slash.avi",
    b"*.avi",
    b"?[a].avi",
    b"~.avi",
    b" .avi",
    b"..avi.avi",
    b"\xff\xfe\x80.avi",
    b"\xe9t\xe9.avi",
    b"\x1b[31mred\x07.avi",
    "é‮ü\u2028.avi".encode(),
    "🎬.avi".encode(),
    b"x" * 240 + b".avi",
    b"nul.avi",
    b"{}.avi",
)
"""Names for files that are whole: all of them must be done."""
