"""What the hand-written loops share: the decoder, the choice of the latest, and the Redis commands of a batch.

Written as a good engineer would for speed: only the fields that are stored are decoded, into structs that the garbage
collector needn't track; time stamps are compared as text; one SADD names all devices of a batch; nothing is written for
a reading that lost within its batch. It keeps fewer promises than the service: a time stamp in another style, a bad
record, a replay after a restart or a second process would each leave a wrong state.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar

import msgspec
import redis.asyncio
from redis.typing import EncodableT, FieldT

from bench.rows.job import TTL_S
from bench.workload import hash_key


class Metadata(msgspec.Struct, gc=False):
    datatype_id: str | None = None
    datatype_name: str | None = None
    datatype_unit: str | list[str] | None = None
    persist: bool | list[bool] | None = None


class Reading(msgspec.Struct, gc=False):
    timestamp: str
    device_id: str
    metadata: Metadata | None = None


class AnyMetadata(Protocol):
    """`Metadata`, or pydantic's form of it."""

    @property
    def datatype_id(self) -> str | None: ...
    @property
    def datatype_name(self) -> str | None: ...
    @property
    def datatype_unit(self) -> str | list[str] | None: ...
    @property
    def persist(self) -> bool | list[bool] | None: ...


class AnyReading(Protocol):
    """`Reading`, or pydantic's form of it."""

    @property
    def timestamp(self) -> str: ...
    @property
    def device_id(self) -> str: ...
    @property
    def metadata(self) -> AnyMetadata | None: ...


HashFields: TypeAlias = dict[FieldT, EncodableT]
R = TypeVar("R", bound=AnyReading)


class Latest:
    """The newest event time of each device so far, and which readings of a batch beat it."""

    def __init__(self) -> None:
        self._newest: dict[str, str] = {}

    def winners(self, batch: Iterable[R]) -> list[R]:
        """Pick the latest reading of each device, unless an earlier batch had a later one."""
        latest: dict[str, R] = {}
        for reading in batch:
            if reading.metadata is not None:
                held = latest.get(reading.device_id)
                if held is None or reading.timestamp >= held.timestamp:
                    latest[reading.device_id] = reading
        newest = self._newest
        won = [r for r in latest.values() if r.timestamp >= newest.get(r.device_id, "")]
        for reading in won:
            newest[reading.device_id] = reading.timestamp
        return won


decode_reading: Final = msgspec.json.Decoder(Reading).decode
_encode_json: Final = msgspec.json.Encoder().encode


def hash_of(timestamp: str, **fields: object) -> HashFields:
    """Give the hash's fields: a str as it is, null left out, anything else as JSON text (contract, section 2)."""
    texts: HashFields = {"last_updated": timestamp, "persist": "true"}
    for name, value in fields.items():
        if value is not None:
            texts[name] = value if isinstance(value, str) else _encode_json(value).decode()
    return texts


def hash_of_reading(reading: AnyReading, metadata: AnyMetadata) -> HashFields:
    return hash_of(
        reading.timestamp,
        datatype_id=metadata.datatype_id,
        datatype_name=metadata.datatype_name,
        datatype_unit=metadata.datatype_unit,
        persist=metadata.persist,
    )


def queue_writes(
    pipeline: redis.client.Pipeline | redis.asyncio.client.Pipeline, winners: Sequence[AnyReading]
) -> None:
    """Queue HSET and EXPIRE for each reading, and one SADD for all."""
    for reading in winners:
        if reading.metadata is not None:  # it never is: such a reading wins nothing
            key = hash_key(reading.device_id)
            pipeline.hset(key, mapping=hash_of_reading(reading, reading.metadata))
            pipeline.expire(key, TTL_S)
    if winners:
        pipeline.sadd("devices", *[reading.device_id for reading in winners])
