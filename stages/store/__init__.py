"""The ground floor: files that are whole, shards, fingerprints, and the cache of what was made once."""

from stages.store.cache import Entry, adding, cache_folder, entries, find, folder_of, locked, made, usable_cache
from stages.store.codec import CODECS, decode, encode
from stages.store.files import (
    StoreError,
    broken,
    emptied,
    file_digest,
    link,
    nothing,
    remove,
    replacing,
    write_json,
)
from stages.store.fingerprint import fingerprint
from stages.store.shard import Shard, opened, write_shard

__all__ = [
    "CODECS",
    "Entry",
    "Shard",
    "StoreError",
    "adding",
    "broken",
    "cache_folder",
    "decode",
    "emptied",
    "encode",
    "entries",
    "file_digest",
    "find",
    "fingerprint",
    "folder_of",
    "link",
    "locked",
    "made",
    "nothing",
    "opened",
    "remove",
    "replacing",
    "usable_cache",
    "write_json",
    "write_shard",
]
