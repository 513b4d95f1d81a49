"""Every key that is ours in Redis, and every field of its hashes that is not the contract's.

The hashes lie where their devices' ids put them. All of the index lies in one slot, that of `devices`, so that one
script may change it as one; `{devices}` is Redis Cluster's way to say so. (Its specification, "Hash tags".)
"""

from __future__ import annotations

import itertools
import re

from redis.crc import key_slot

_PREFIX = "stream_cache:"

# The contract's own (section 2).
DEVICES = "devices"  # set: the ids of which a hash with `last_updated` lives

# The index, beside it.
IDS = f"{_PREFIX}{{devices}}:ids"  # sorted set, all of score 0: the same ids in the order of their bytes
SEEN = f"{_PREFIX}{{devices}}:seen"  # sorted set: id -> largest Kafka timestamp of its readings, ms: last seen
LATE = f"{_PREFIX}{{devices}}:late"  # sorted set: id -> Kafka timestamp of the winner, where `seen` is much later
SCAN_LEASE = f"{_PREFIX}{{devices}}:scan_lease"  # text: the worker that prunes, while it does
LAYOUT = f"{_PREFIX}{{devices}}:layout"  # text: `LAYOUT_VERSION`
INDEX = (DEVICES, IDS, SEEN, LATE)  # KEYS of the scripts that change it

#: What `LAYOUT` says. Whoever changes the keys' meaning raises it, and says what becomes of the old ones.
LAYOUT_VERSION = "2"
#: A key of version 0.1, whose data this version does not read.
OF_VERSION_0_1 = f"{_PREFIX}ids"

# Fields of a device's hash that are ours.
STAMP = "_at"  # "offset:partition:delay" of the event that won: stamps.py
GONE = "_gone"  # event time of the tombstone that won; there is no `last_updated` then


def metadata_key(device_id: str) -> str:
    """Return the key of a device's hash."""
    return f"device:{device_id}:metadata"


def metadata_key_of(device_id: bytes) -> bytes:
    """Return the key of a device's hash, of an id as Redis holds it: nobody says that it is UTF-8."""
    return b"device:%b:metadata" % device_id


def state_key(tag: str) -> str:
    """Return the key that says whether what one server holds is complete; `tag` puts it on that server."""
    return f"{_PREFIX}{{{tag}}}:state"


def barrier_key(beside: str | bytes) -> bytes:
    """Return the key that is written before a WAIT, in the slot of this key."""
    name = beside if isinstance(beside, bytes) else beside.encode()
    tag = re.search(rb"\{([^}]+)\}", name)
    if not tag and b"}" in name:  # it would end the tag too early: any other text of the slot
        slot = key_slot(name)
        text = next(text for text in map(b"%d".__mod__, itertools.count()) if key_slot(text) == slot)
    else:
        text = tag[1] if tag else name
    return b"%b{%b}:barrier" % (_PREFIX.encode(), text)
