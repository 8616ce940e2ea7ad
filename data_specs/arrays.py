"""Opening an array of a store: its ``zarr.json`` is compared with the schema before any chunk is read.

Only Zarr format 3 is read, without consolidated metadata; other metadata documents are ignored. An untrusted
``zarr.json`` therefore determines neither shape, type nor chunks, and can only choose among the codecs that this
package writes, which decode in bounded memory (`data_specs.decoding`).
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import zarr
from zarr.abc.codec import Codec
from zarr.abc.store import Store as ZarrStore
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.array import AsyncArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.metadata import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import StorePath

from data_specs.decoding import CheckedBlosc, CheckedStrings, CheckedZstd, text_bound
from data_specs.documents import parse_json
from data_specs.jpeg import CODEC_NAME, JpegCodec
from data_specs.schema import SEPARATOR, ArraySpec

_MOST_DOCUMENT = 1 << 20  # bytes of an array's zarr.json
_SLACK = 1 << 20  # bytes by which a chunk may exceed its decoded size
_INDEX_CODECS: list[Any] = [BytesCodec(), Crc32cCodec()]


def open_array(store: ZarrStore, spec: ArraySpec, document: dict[str, Any] | None = None) -> zarr.Array[Any]:
    """Open the array of a store that the schema describes with ``spec``; it is writable if the store is.

    ``document`` is its ``zarr.json`` if that has been read. Raises ``FileNotFoundError`` if it is missing,
    ``ValueError`` if its ``zarr.json`` describes another array. Chunks are decoded within the sizes of ``spec``;
    reading a damaged one raises ``ValueError`` or ``RuntimeError``.
    """
    codecs = _codecs(read_document(store, spec.path) if document is None else document, spec)
    metadata = ArrayV3Metadata.from_dict(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": spec.shape,
            "data_type": spec.dtype,
            "chunk_grid": _grid(spec.shards or spec.chunks),
            "chunk_key_encoding": _KEYS,
            "fill_value": _fill(spec),
            "codecs": cast(Any, codecs),
            "attributes": {},
            "dimension_names": spec.dims,
        }
    )
    return zarr.Array(AsyncArray(metadata=metadata, store_path=StorePath(bounded(store, spec), spec.path)))


def read_document(store: ZarrStore, path: str) -> dict[str, Any]:
    """The ``zarr.json`` of an array; ``FileNotFoundError`` if it is missing, ``ValueError`` if not a JSON object."""
    found = sync(store.get(f"{path}/zarr.json", default_buffer_prototype()))
    if found is None:
        raise FileNotFoundError(f"{path}/zarr.json is missing")
    document = parse_json(found.to_bytes(), _MOST_DOCUMENT)
    if not isinstance(document, dict):
        raise ValueError("zarr.json is not an object")
    return document


def stored_length(store: ZarrStore, path: str, most: int) -> int:
    """The length of an array's first axis according to its ``zarr.json``; ``ValueError`` unless it is 0 to ``most``."""
    shape = read_document(store, path).get("shape")
    length = shape[0] if isinstance(shape, list) and shape else None
    if type(length) is not int or not 0 <= length <= most:
        raise ValueError(f"shape {str(shape)[:60]}: a length of 0 to {most:,} is expected")
    return length


_KEYS: dict[str, Any] = {"name": "default", "configuration": {"separator": SEPARATOR}}


def _grid(chunks: tuple[int, ...]) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}


def _fill(spec: ArraySpec) -> Any:
    return "NaN" if isinstance(spec.fill, float) and math.isnan(spec.fill) else spec.fill


def _codecs(document: dict[str, Any], spec: ArraySpec) -> list[Codec]:
    """The codecs in ``zarr.json``; ``ValueError`` unless everything that affects the bytes matches the schema."""
    expected = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(spec.shape),
        "data_type": spec.dtype,
        "chunk_grid": _grid(spec.shards or spec.chunks),
        "chunk_key_encoding": _KEYS,
        "fill_value": _fill(spec),
    }
    for key, value in expected.items():
        if document.get(key) != value:
            raise ValueError(f"{key} is {str(document.get(key))[:80]}, expected {value}")
    if document.get("storage_transformers"):
        raise ValueError("storage_transformers are not read")
    if spec.shards is None:
        return _chain(document.get("codecs"), spec)
    match document.get("codecs"):
        case [{"name": "sharding_indexed", "configuration": {"index_location": "end"} as sharding}]:
            if sharding.get("chunk_shape") != list(spec.chunks):
                raise ValueError(f"chunk_shape is {str(sharding.get('chunk_shape'))[:80]}, expected {spec.chunks}")
            if not _is_index_chain(sharding.get("index_codecs")):
                raise ValueError("index_codecs are not bytes and crc32c")
            chain = _chain(sharding.get("codecs"), spec)
            return [ShardingCodec(chunk_shape=spec.chunks, codecs=chain, index_codecs=_INDEX_CODECS)]
    raise ValueError("codecs are not sharding_indexed with its index at the end")


def _is_index_chain(codecs: Any) -> bool:
    match codecs:
        case [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]:
            return True
    return False


def _chain(codecs: Any, spec: ArraySpec) -> list[Codec]:
    """Array to bytes, at most one compressor, and the checksum last."""
    if not isinstance(codecs, list) or not all(isinstance(codec, dict) for codec in codecs):
        raise ValueError("codecs are not a list of objects")
    names = [codec.get("name") for codec in codecs]
    first = "vlen-utf8" if spec.dtype == "string" else "bytes"
    allowed = [[first, "crc32c"], [first, "zstd", "crc32c"]]
    if spec.dtype != "string":
        allowed.append([first, "blosc", "crc32c"])
    if spec.frames:
        allowed.append([CODEC_NAME, "crc32c"])
    if names not in allowed:
        raise ValueError(f"codecs are {str(names)[:100]}, expected one of {allowed}")
    return [_codec(codec, spec) for codec in codecs]


def _codec(document: dict[str, Any], spec: ArraySpec) -> Codec:
    configuration = document.get("configuration", {})
    if not isinstance(configuration, dict):
        raise ValueError(f"configuration of {document['name']} is not an object")
    match document["name"]:
        case "bytes":
            if configuration not in ({}, {"endian": "little"}):
                raise ValueError("only little-endian numbers are read")
            return BytesCodec(endian="little" if np.dtype(spec.dtype).itemsize > 1 else None)
        case "zstd":
            return CheckedZstd.from_dict(document)
        case "blosc":
            if configuration.get("cname") not in ("lz4", "zstd"):
                raise ValueError(f"Blosc with {str(configuration.get('cname'))[:20]!r} is not read, only lz4 and zstd")
            return CheckedBlosc.from_dict(document)
        case "vlen-utf8":
            return CheckedStrings()
        case "crc32c":
            return Crc32cCodec()
    return JpegCodec.from_dict(document)


def bounded(store: ZarrStore, spec: ArraySpec) -> ZarrStore:
    """The store, limited to reading at most the size of a chunk or shard of this array from one object."""
    if not hasattr(store, "with_most"):
        return store
    outer = spec.shards or spec.chunks
    if spec.dtype == "string":
        return cast(ZarrStore, store.with_most(text_bound(math.prod(outer)) + _SLACK))
    size = math.prod(outer) * np.dtype(spec.dtype).itemsize
    inner = math.prod(outer) // math.prod(spec.chunks)
    return cast(ZarrStore, store.with_most(size + size // 8 + inner * 1040 + _SLACK))
