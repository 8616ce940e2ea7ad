"""Packing the records of a finished store: one object for about a thousand shards, in place of a group for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zarr.abc.store import Store as ZarrStore

from data_specs import schema
from data_specs.objects import parse_attributes
from data_specs.record_packs import MAX_PACK, PACK, REMOVED, encoded, is_packed, pack, pack_of, record_documents
from data_specs.stored import Damaged
from pipelines.store.progress import Key
from pipelines.store.record_blocks import BLOCK
from pipelines.store.record_index import record_stamps
from pipelines.store.writer import put_object, remove_groups, settle


def pack_records(store: ZarrStore, keys: Iterable[Key], num_shards: int, check: Callable[[], None]) -> bool:
    """Pack all records of a store that are groups of their own; return whether there were any.

    ``keys`` are the stages and views of its records. No task may be running: a record that is written meanwhile would
    be lost. ``check`` raises if the store's lock is lost. A record in a group takes precedence over a packed one, and
    groups are removed when the object that has their records is on disk, so that a kill at any moment loses none.
    """
    if not is_packed(num_shards):
        return False
    own, any_packed = record_stamps(store).own, False
    for key in keys:
        for first in range(0, num_shards, PACK):
            shards = range(first, min(first + PACK, num_shards))
            paths = [path for path in (schema.progress_path(*key, shard) for shard in shards) if path in own]
            if paths and _pack(store, key, shards, check):
                remove_groups(store, paths)
                any_packed = True
    return any_packed


def _pack(store: ZarrStore, key: Key, shards: range, check: Callable[[], None]) -> bool:
    """Write the object with the records of some shards; False, without writing it, unless all are there and sound."""
    chunks: dict[int, bytes] = {}
    taken = 0
    for first in range(0, len(shards), BLOCK):
        some = shards[first : first + BLOCK]
        found = record_documents(store, *key, some)
        taken += sum(map(len, found.values()))
        if len(found) < len(some) or taken > MAX_PACK or not all(map(_is_sound, found.values())):
            return False
        chunks |= {shard: encoded(document) for shard, document in found.items()}
    packed = pack(chunks)
    if len(packed) > MAX_PACK:
        return False
    check()
    target = pack_of(schema.progress_path(*key, shards.start))
    put_object(store, target, packed)
    settle(store, [target])
    check()
    return True


def _is_sound(document: bytes) -> bool:
    attributes = parse_attributes("", document)
    return not isinstance(attributes, Damaged) and attributes != REMOVED and document.isascii()
