"""Downloading large files over HTTP, with resumption, retries and checks of the size."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from data_specs.stored import shown
from pipelines.errors import RunError

TRIES = 6  # consecutive tries of an address without progress
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before the second try and later ones
LONGEST_WAIT = 120.0  # longest Retry-After in seconds that is honoured
FURTHER = 2**20  # bytes that count as progress
REDIRECTS = 10
CHUNK = 2**20  # write buffer in bytes
_TIMEOUT = httpx.Timeout(60.0, connect=30.0)
_PASSING = frozenset([408, 425, 429, 500, 502, 503, 504])
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

OnBytes = Callable[[int, int | None], None]
"""Called with the number of downloaded bytes and the file's size (None if unknown)."""


class DownloadError(RunError):
    """A file cannot be downloaded; the message is one line with the address and advice."""


class _TransientError(Exception):
    """An error that may not occur at the next try; ``wait`` is the server's Retry-After in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class _PermanentError(Exception):
    """An error that another try would not change."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to download: its path, its addresses, its size in bytes if known, and whether its checksum is known."""

    target: Path
    urls: tuple[str, ...]
    size: int | None
    checked: bool


@dataclass(frozen=True, slots=True)
class _Part:
    """The downloaded beginning of a file, and a note that identifies the server's version of the file."""

    path: Path

    @property
    def note(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def read_note(self) -> dict[str, object]:
        try:
            note = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}


def part_of(target: Path) -> Path:
    """Path of the incomplete file while ``target`` is being downloaded."""
    return target.with_name(target.name + ".part")


def download(
    wanted: Wanted,
    on_bytes: OnBytes = lambda done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Download a file to ``wanted.target``, which appears only when it is complete.

    An interrupted download is resumed with Range and If-Range, also by a later call; a server whose file has changed,
    or that does not support ranges, sends the whole file. Without a checksum or a validator from the server, the
    download starts over. After ``TRIES`` consecutive tries of an address without progress, the next one is tried.
    Raises ``DownloadError`` if no address provides the file.
    """
    part = _Part(part_of(wanted.target))
    reasons = []
    with _client() as client:
        for url in wanted.urls:
            if wanted.checked and part.size() == wanted.size:
                break
            try:
                _persist(client, url, wanted, part, on_bytes, say)
            except _PermanentError as error:
                reasons.append(f"{shown(url)}: {error}")
                say(reasons[-1])
            else:
                break
        else:
            kept = f"; {part.size():,} bytes are kept, run the same command again to resume" if part.size() else ""
            raise DownloadError(
                f"{wanted.target.name} cannot be downloaded: {'; '.join(reasons)}. Give another address with --url, "
                f"or save the file in {wanted.target.parent} yourself{kept}"
            )
    with part.path.open("rb") as file:
        os.fsync(file.fileno())
    part.path.replace(wanted.target)
    part.note.unlink(missing_ok=True)


def _client() -> httpx.Client:
    try:
        return httpx.Client(timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
    except (ValueError, httpx.InvalidURL) as error:
        raise DownloadError(
            f"a proxy of the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY) cannot be used: {error}"
        ) from None


def _persist(
    client: httpx.Client,
    url: str,
    wanted: Wanted,
    part: _Part,
    on_bytes: OnBytes,
    say: Callable[[str], None],
) -> None:
    """Download from one address until the file is complete; ``_PermanentError`` if that is impossible."""
    tries, furthest = 0, part.size()
    while True:
        try:
            return _once(client, url, wanted, part, on_bytes)
        except _TransientError as trouble:
            reached = part.size()
            tries = 1 if reached >= furthest + FURTHER else tries + 1
            furthest = max(furthest, reached)
            if tries >= TRIES:
                raise _PermanentError(f"{trouble}, {tries} times in a row") from None
            wait = WAITS[min(tries, len(WAITS)) - 1] if trouble.wait is None else min(trouble.wait, LONGEST_WAIT)
            say(f"{urlsplit(shown(url)).netloc}: {trouble}; trying again in {wait:g} s")
            time.sleep(wait)


def _once(client: httpx.Client, url: str, wanted: Wanted, part: _Part, on_bytes: OnBytes) -> None:
    headers = _resuming(url, wanted, part)
    try:
        with _opened(client, url, headers, secure=not wanted.checked) as response:
            start, total = _begin(response, part, wanted, asked=part.size() if "Range" in headers else 0)
            if start is None:
                return
            note = {"address": _mark(url), "validator": _validator(response.headers), "total": total}
            part.note.write_text(json.dumps(note))
            _receive(response, part, start, total, on_bytes)
    except httpx.TransportError as error:
        if _certificate(error):
            raise _PermanentError(
                f"its certificate cannot be verified ({_reason(error)}), as is common with UCF's server: set "
                "SSL_CERT_FILE to a file of certificates, or use the copy (--zip)"
            ) from None
        if isinstance(error, httpx.UnsupportedProtocol | httpx.ProxyError):
            raise _PermanentError(_reason(error)) from None
        raise _TransientError(_reason(error)) from None
    except httpx.InvalidURL as error:
        raise _PermanentError(f"invalid address: {error}") from None
    if total is not None and part.size() < total:
        raise _TransientError(f"interrupted after {part.size():,} of {total:,} bytes")


def _resuming(url: str, wanted: Wanted, part: _Part) -> Mapping[str, str]:
    """Headers to request the rest of a part; if the rest may not match it, delete the part and return none."""
    have = part.size()
    if not have:
        return {}
    note = part.read_note()
    validator = note.get("validator")
    same = note.get("address") == _mark(url) and isinstance(validator, str)
    if not (same or wanted.checked):
        part.clear()
        return {}
    return {"Range": f"bytes={have}-"} | ({"If-Range": str(validator)} if same else {})


def _mark(url: str) -> str:
    """Identifier of an address in a part's note; a hash, as the address may contain credentials."""
    return hashlib.sha256(url.encode()).hexdigest()


@contextmanager
def _opened(client: httpx.Client, url: str, headers: Mapping[str, str], *, secure: bool) -> Iterator[httpx.Response]:
    """Yield the response at ``url`` after following redirects."""
    for _ in range(REDIRECTS):
        with client.stream("GET", url, headers=headers) as response:
            if not response.is_redirect:
                yield response
                return
            url = redirected(url, response.headers["Location"], secure=secure)
    raise _PermanentError(f"was redirected {REDIRECTS} times")


def redirected(url: str, location: str, *, secure: bool) -> str:
    """The target of a redirect; ``secure`` forbids redirects from https to http, other schemes are always forbidden."""
    target = urljoin(url, location)
    scheme = urlsplit(target).scheme.lower()
    if scheme not in ("http", "https"):
        raise _PermanentError(f"redirects to {shown(target)!r}, which is neither http nor https")
    if secure and scheme == "http" and urlsplit(url).scheme.lower() == "https":
        raise _PermanentError(f"redirects from https to {shown(target)!r}, and no checksum is known to verify the file")
    return target


def _begin(response: httpx.Response, part: _Part, wanted: Wanted, asked: int) -> tuple[int | None, int | None]:
    """The offset of the response's bytes in the file and the file's size; the offset is None for a complete part."""
    status = response.status_code
    if status in _PASSING:
        raise _TransientError(f"status {status} {response.reason_phrase}", _retry_after(response.headers))
    if status == 416 and asked:
        if wanted.size == asked:
            return None, asked
        part.clear()
        raise _TransientError(f"has no bytes after {asked:,}: starting over")
    if status not in (200, 206):
        raise _PermanentError(f"status {status} {response.reason_phrase}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _PermanentError(f"sends the file with the content encoding {response.headers['Content-Encoding']!r}")
    length = response.headers.get("Content-Length", "")
    start, total = 0, int(length) if length.isdigit() else None
    if status == 206:
        span = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != asked:
            part.clear()
            raise _TransientError("sent another range than requested: starting over")
        start, total = asked, None if span[3] == "*" else int(span[3])
    if total is not None and wanted.size is not None and total != wanted.size:
        raise _PermanentError(f"has a file of {total:,} bytes, expected {wanted.size:,}")
    return start, wanted.size if total is None else total


def _receive(response: httpx.Response, part: _Part, start: int, total: int | None, on_bytes: OnBytes) -> None:
    with part.path.open("r+b" if part.path.exists() else "wb", CHUNK) as file:
        file.truncate(start)
        file.seek(start)
        done = start
        on_bytes(done, total)
        for chunk in response.iter_raw():
            done += len(chunk)
            if total is not None and done > total:
                raise _PermanentError(f"sends more than the {total:,} bytes of the file")
            file.write(chunk)
            on_bytes(done, total)


def _validator(headers: httpx.Headers) -> str | None:
    """The validator for If-Range: a strong entity tag, else the date of the last modification."""
    tag = str(headers.get("ETag", ""))
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _retry_after(headers: httpx.Headers) -> float | None:
    value = str(headers.get("Retry-After", "")).strip()
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
