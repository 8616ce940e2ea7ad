"""A store on an object store (S3 and compatible ones): retried requests and one-line errors.

Credentials, region and endpoint come from the environment (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_REGION``, ``AWS_ENDPOINT_URL`` …, or an instance's role). Each object is written by one request, so that it is
either complete or missing and a killed run leaves no upload behind. obstore has its own threads: a process forked after
its parent has used a store hangs, so processes must be spawned.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store
from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from data_specs.local_files import MOST
from data_specs.locations import Replaced, StoreError, shown, split_url
from data_specs.schema import MAX_DOCUMENT

if TYPE_CHECKING:
    from pathlib import Path

    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

RETRY_SECONDS = 60.0  # total for one request, with growing pauses; MOCROP_RETRY_SECONDS overrides it
REQUEST_SECONDS = 300.0  # limit for one request: a shard of frames over a slow line
PIECE = 1 << 22  # bytes in memory while an object is hashed
PAUSES = (0.1, 0.4, 1.6, 6.4)  # before a request whose response was cut off is sent again
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

T = TypeVar("T")
AnyStore = S3Store | GCSStore | AzureStore


def open_remote(location: str, *, read_only: bool) -> RemoteStore:
    """The store at an object store's URL; makes no request yet. ``StoreError`` for an invalid URL."""
    scheme, bucket, key = split_url(location)
    return RemoteStore(
        _connected(scheme, bucket, key, location), read_only=read_only, where=shown(location), bucket=bucket
    )


def download(location: str, target: Path) -> None:
    """Write the object at an object store's URL into a file, in pieces; ``StoreError`` if that fails."""
    scheme, bucket, key = split_url(location)
    store = _connected(scheme, bucket, None, location)
    try:
        with target.open("wb") as file:
            for piece in obstore.get(store, key).stream(min_chunk_size=1 << 22):
                file.write(piece)
    except FileNotFoundError as error:
        raise StoreError(f"{shown(location)!r}: no such object") from error
    except BaseError as error:
        raise StoreError(f"{shown(location)!r}: {reason(error)}") from error


def _connected(scheme: str, bucket: str, prefix: str | None, location: str) -> AnyStore:
    options: dict[str, Any] = {"client_options": _client(), "retry_config": _retries(), "prefix": prefix}
    try:
        if scheme == "s3":
            return S3Store(bucket, **options)
        if scheme == "gs":
            return GCSStore(bucket, **options)
        return AzureStore(bucket, **options)
    except (BaseError, ValueError) as error:
        raise StoreError(f"store {shown(location)!r}: {reason(error)}") from error


def _client() -> ClientConfig:
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    wanted: ClientConfig = {"timeout": timedelta(seconds=REQUEST_SECONDS), "connect_timeout": timedelta(seconds=10)}
    if plain:  # an http:// endpoint is an explicit choice; other clients do not ask for confirmation either
        wanted["allow_http"] = True
    return wanted


def _retries() -> RetryConfig:
    given = os.environ.get("MOCROP_RETRY_SECONDS", "")
    try:
        seconds = float(given or RETRY_SECONDS)
    except ValueError:
        raise StoreError(f"MOCROP_RETRY_SECONDS {given!r}: give a number of seconds") from None
    backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 2}
    return {"max_retries": 12, "retry_timeout": timedelta(seconds=seconds), "backoff": backoff}  # type: ignore[typeddict-item]


class RemoteStore(ObjectStore[AnyStore]):
    """zarr's object store, which raises one-line ``StoreError``s and never writes an object partially."""

    most = MOST

    def __init__(self, store: AnyStore, *, read_only: bool, where: str, bucket: str) -> None:
        super().__init__(store, read_only=read_only)
        self.where, self.bucket = where, bucket

    def with_most(self, most: int) -> Self:
        """The same store, limited to reading ``most`` bytes of an object at once."""
        other = self.with_read_only(self.read_only)
        other.most = most
        return other

    def with_read_only(self, read_only: bool = False) -> Self:
        return type(self)(self.store, read_only=read_only, where=self.where, bucket=self.bucket)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        async def request() -> Buffer | None:
            if isinstance(byte_range, RangeByteRequest) and not (
                0 <= byte_range.start <= byte_range.end <= byte_range.start + self.most
            ):
                raise ValueError(f"bytes {byte_range.start} to {byte_range.end} of {key!r} are outside it")
            if byte_range is not None:
                return await ObjectStore.get(self, key, prototype, byte_range)
            try:
                found = await obstore.get_async(self.store, key)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
            if found.meta["size"] > self.most:
                raise ValueError(f"{key!r} has {found.meta['size']} bytes: at most {self.most} are expected there")
            return prototype.buffer.from_bytes(await found.bytes_async())  # type: ignore[arg-type]

        return await self._steadily(request)

    async def digest(self, key: str, most: int) -> str | None:
        """The SHA-256 of an object, read in pieces; None if it is missing, "" above ``most`` bytes."""

        async def request() -> str | None:
            try:
                found = await obstore.get_async(self.store, key)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None
            if found.meta["size"] > most:
                return ""
            hashed = hashlib.sha256()
            async for piece in found.stream(PIECE):
                hashed.update(piece)
            return hashed.hexdigest()

        return await self._steadily(request)

    async def end(self, key: str, length: int) -> tuple[bytes | None, str | None]:
        """The last bytes of an object, at most ``length``, and its version tag; None if it is missing."""

        async def request() -> tuple[bytes | None, str | None]:
            try:
                try:
                    found = await obstore.get_async(self.store, key, options={"range": {"suffix": length}})
                except NotSupportedError:  # Azure
                    size = (await obstore.head_async(self.store, key))["size"]
                    where = (max(0, size - length), size)
                    found = await obstore.get_async(self.store, key, options={"range": where})
                return bytes(await found.bytes_async()), found.meta["e_tag"]
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None, None

        return await self._steadily(request)

    async def part(self, key: str, start: int, stop: int, tag: str | None) -> bytes | None:
        """The bytes ``start`` to ``stop`` of an object, None if it is missing; `Replaced` if its tag has changed."""

        async def request() -> bytes | None:
            options: Any = {"range": (start, stop), **({"if_match": tag} if tag else {})}
            try:
                found = await obstore.get_async(self.store, key, options=options)
                return bytes(await found.bytes_async())
            except PreconditionError as error:
                raise Replaced from error
            except FileNotFoundError as error:
                self._check_bucket(error)
                return None

        return await self._steadily(request)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        content = value.as_buffer_like()
        await self._steadily(lambda: obstore.put_async(self.store, key, content, use_multipart=False))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        await self._steadily(lambda: self.exchange(key, None, value.to_bytes()))

    async def delete(self, key: str) -> None:
        await self._steadily(lambda: ObjectStore.delete(self, key))

    async def delete_all(self, keys: Sequence[str]) -> None:
        """Delete many objects, on S3 a thousand with each request."""
        self._check_writable()
        await self._steadily(lambda: obstore.delete_async(self.store, keys))

    async def exists(self, key: str) -> bool:
        return await self._steadily(lambda: ObjectStore.exists(self, key))

    async def getsize(self, key: str) -> int:
        return await self._steadily(lambda: ObjectStore.getsize(self, key))

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        async for item in self._list(f"{prefix.rstrip('/')}/"):
            await self.delete(item["path"])

    async def _list(self, prefix: str | None = None) -> AsyncGenerator[ObjectMeta, None]:
        for item in await self._steadily(lambda: obstore.list(self.store, prefix).collect_async()):
            yield item

    async def tags(self, prefix: str) -> dict[str, str]:
        """The tags of the versions of all objects below a prefix, by key; a thousand with each request."""
        return {item["path"]: item["e_tag"] or "" async for item in self._list(prefix)}

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        async def request() -> list[str]:
            return [name async for name in ObjectStore.list_dir(self, prefix)]

        for name in await self._steadily(request):
            yield name

    async def exchange(self, key: str, expected: bytes | None, value: bytes | None) -> bool:
        """Replace ``expected`` with ``value`` (None: no object); False if the object is not ``expected``.

        Of several concurrent calls one succeeds. A removal is not atomic: an object written meanwhile may be lost. A
        request that was carried out but whose response was lost gives False or an error: read again to find out.
        """
        self._check_writable()
        with self._failures():
            try:
                if expected is None and value is not None:
                    await obstore.put_async(self.store, key, value, mode="create")
                    return True
                found = await obstore.get_async(self.store, key)
                large = found.meta["size"] > MAX_DOCUMENT
                if (
                    b"" if large else bytes(await found.bytes_async())
                ) != expected:  # the form in which `read_objects` reads it
                    return False
                if value is None:
                    await self.delete(key)
                else:
                    mode: Any = {"e_tag": found.meta["e_tag"]}
                    await obstore.put_async(self.store, key, value, mode=mode, use_multipart=False)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return expected is None
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def _check_bucket(self, error: FileNotFoundError) -> None:
        if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
            raise StoreError(f"store {self.where!r}: there is no bucket {self.bucket!r}; create it first") from error

    async def _steadily(self, request: Callable[[], Awaitable[T]]) -> T:
        """The response of a repeatable request. obstore retries most failures, but not a response that was cut off."""
        for pause in PAUSES:
            try:
                with self._failures():
                    return await request()
            except StoreError as error:
                if "body error" not in str(error.__cause__):
                    raise
            await asyncio.sleep(pause)
        with self._failures():
            return await request()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._check_bucket(error)
            raise
        except BaseError as error:
            if "NoSuchBucket" in str(error):
                self._check_bucket(FileNotFoundError(str(error)))
            raise StoreError(f"store {self.where!r}: {reason(error)}") from error


_ANSWER = re.compile(
    r"status code: (\d+ [A-Z][A-Za-z ]+)(?:.*?<Code>([^<]+)</Code>)?(?:.*?<Message>([^<]+)</Message>)?", re.DOTALL
)


def reason(error: Exception) -> str:
    """The cause of an obstore error in one line.

    The error's type marks refused requests; other causes are only in its text, which fills a page.
    """
    text, _, details = str(error).partition("Debug source")
    if "169.254." in text or "instance credentials" in text:  # credentials from the machine's role
        return "no credentials; put AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY into the environment"
    retries = re.search(r"after (\d+) retries", text)
    tried = f", tried {int(retries[1]) + 1} times" if retries else ""
    if answer := _ANSWER.search(text):
        refused = isinstance(error, PermissionDeniedError | UnauthenticatedError)
        hint = "; check the credentials in the environment and the permissions on the bucket" if refused else ""
        return f"it answers {' '.join(part.strip() for part in answer.groups('') if part)[:200]}{tried}{hint}"
    causes = re.findall(r'message: "([^"]+)"', details) or re.findall(r"\b(TimedOut|Timeout|BadScheme)\b", details)
    if causes:
        host = re.search(r"https?://[^/\s?]+", text)
        return f"{host[0] if host else 'the object store'} does not answer: {causes[-1]}{tried}; check AWS_ENDPOINT_URL"
    return " ".join(text.split())[:300] + tried
