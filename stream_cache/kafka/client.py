"""Asks Kafka plain questions: is this topic there, what may be done with it, how far does it go, how far is it read.

Over connections of its own, beside those of Faust's clients: theirs may be what stalls. And not by aiokafka's client:
that says in its log, and not to its caller, why a broker can't be reached, and the way it asks for a topic makes
brokers create one that is missing.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, NamedTuple

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError, NoError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from stream_cache.errors import KafkaRefused, KafkaUnavailable

TIMEOUT_S = 5.0
#: Where to look for an offset. Source: Kafka protocol, ListOffsets.
LATEST, EARLIEST = -1, -2
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
_GROUP = 0  # a kind of coordinator
_OPERATIONS_NOT_TOLD = -(2**31)

_Address = tuple[str, int]


class Topic(NamedTuple):
    """What Kafka says of a topic.

    `error` is None when it is there; `leaders` has each partition's broker, -1 where it has none. `operations` is a set
    of bits by the codes of Kafka's AclOperation, which brokers send since 2.3 (KIP-430).
    """

    error: type[KafkaError] | None
    leaders: Mapping[int, int]
    operations: int

    def allows(self, operation: int) -> bool:
        """Tell whether we may do this with the topic; True where the broker doesn't say."""
        return self.operations == _OPERATIONS_NOT_TOLD or bool(self.operations >> operation & 1)


class KafkaClient:
    """Questions to Kafka. Each raises KafkaUnavailable, with address and reason, after 5 s for each address tried.

    Not for several tasks at once.

    Args:
        options: what a connection needs besides its address: security protocol, credentials.
    """

    def __init__(self, bootstrap_servers: str, group: str, options: Callable[[], Mapping[str, Any]]) -> None:
        self._bootstrap_servers, self._group, self._options = bootstrap_servers, group, options
        self._connections: dict[_Address, AIOKafkaConnection] = {}
        #: By the broker's id, where it is to be reached: its `advertised.listeners`.
        self._brokers: dict[int, _Address] = {}
        self._coordinator: _Address | None = None

    async def topics(self, names: Sequence[str]) -> dict[str, Topic]:
        """Look topics up. Only a broker at an address that Kafka itself advertises counts as an answer."""
        request, failures = _TopicsRequest(names), dict[_Address, str]()
        for knows_brokers in (False, True):
            for address in self._brokers.values():
                if address not in failures:
                    try:
                        return self._read_topics(await self._ask(address, request))
                    except KafkaUnavailable as error:
                        failures[address] = str(error)
            if not knows_brokers:
                await self._bootstrap(request, failures)
        advertised = "; ".join(failures[address] for address in self._brokers.values())
        raise KafkaUnavailable(
            f"{self._bootstrap_servers} (KAFKA_BOOTSTRAP_SERVERS) answers, but the brokers that it names "
            f"(advertised.listeners) can't be reached: {advertised}"
        )

    async def offsets(self, topic: str, leaders: Mapping[int, int], where: int, isolation: int) -> dict[int, int]:
        """Return an offset for each of these partitions: LATEST or EARLIEST."""
        partitions_of: dict[int, list[tuple[int, int]]] = {}
        for partition, leader in leaders.items():
            partitions_of.setdefault(leader, []).append((partition, where))
        answers = await asyncio.gather(
            *(
                self._ask(self._address(leader), OffsetRequest(-1, isolation, [(topic, partitions)]))
                for leader, partitions in partitions_of.items()
            )
        )
        found = {}
        for partition, error_code, _, offset in (
            place for answer in answers for _, some in answer.topics for place in some
        ):
            _raise_refusal(error_code, f"partition {partition} of {topic!r}")
            found[partition] = offset
        return found

    async def committed(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Return the group's committed offset of each of these partitions; one without a commit is left out."""
        what = f"the offsets of group {self._group!r} (KAFKA_CONSUMER_GROUP_ID)"
        if self._coordinator is None:
            found = await self._ask(self._address(), FindCoordinatorRequest(self._group, _GROUP))
            _raise_refusal(found.error_code, what)
            self._coordinator = found.host, found.port
        try:
            answer = await self._ask(self._coordinator, OffsetFetchRequest(self._group, [(topic, list(partitions))]))
            _raise_refusal(answer.error_code, what)
            places = [place for _, places in answer.topics for place in places]
            for place in places:
                _raise_refusal(place[3], what)
        except KafkaUnavailable:
            self._coordinator = None  # it may have moved
            raise
        return {partition: offset for partition, offset, *_ in places if offset >= 0}

    async def close(self) -> None:
        """Close all connections."""
        for address in list(self._connections):
            self._drop(address)

    async def _bootstrap(self, request: _TopicsRequest, failures: dict[_Address, str]) -> None:
        """Learn the brokers' addresses. Raises: KafkaUnavailable when none of the configured servers answers."""
        for host, port, _ in collect_hosts(self._bootstrap_servers):
            if (host, port) not in failures:
                try:
                    self._read_topics(await self._ask((host, port), request))
                except KafkaUnavailable as error:
                    failures[host, port] = str(error)
                else:
                    return
        raise KafkaUnavailable(f"{'; '.join(failures.values())} (KAFKA_BOOTSTRAP_SERVERS)")

    def _read_topics(self, answer: Any) -> dict[str, Topic]:
        self._brokers = {broker: (host, port) for broker, host, port, _rack in answer.brokers}
        for address in self._connections.keys() - set(self._brokers.values()) - {self._coordinator}:
            self._drop(address)
        topics = {}
        for error_code, name, _is_internal, partitions, *operations in answer.topics:
            error = for_code(error_code)
            leaders = {partition[1]: partition[2] for partition in partitions}
            topics[name] = Topic(None if error is NoError else error, leaders, *(operations or [_OPERATIONS_NOT_TOLD]))
        return topics

    def _address(self, broker: int | None = None) -> _Address:
        """Return where a broker, or any, is to be reached."""
        address = next(iter(self._brokers.values()), None) if broker is None else self._brokers.get(broker)
        if address is None:
            raise KafkaRefused("no broker leads some of the partitions")
        return address

    async def _ask(self, address: _Address, request: Request[Any]) -> Any:
        try:
            connection = self._connections.get(address)
            if connection is not None and connection.connected():
                with suppress(KafkaConnectionError):  # closed meanwhile, by a broker that was restarted, say
                    return await connection.send(request)
            host, port = address
            self._connections[address] = connection = await create_conn(
                host, port, client_id="stream_cache", request_timeout_ms=int(TIMEOUT_S * 1000), **self._options()
            )
            return await connection.send(request)
        except Exception as error:  # whatever a stranger at that address makes of it
            self._drop(address)
            raise KafkaUnavailable(f"{address[0]}:{address[1]}: {_in_words(error)}") from error

    def _drop(self, address: _Address) -> None:
        connection = self._connections.pop(address, None)
        if connection is not None:
            connection.close()


def _raise_refusal(error_code: int, what: str) -> None:
    error = for_code(error_code)
    if error is not NoError:
        raise KafkaRefused(f"{what}: {error.__name__}")


def _in_words(error: Exception) -> str:
    match error:
        case socket.gaierror(errno=socket.EAI_NONAME | socket.EAI_NODATA):
            return "name not known"
        case socket.gaierror():
            return f"the name can't be looked up ({error.strerror})"
        case TimeoutError(errno=None):
            return f"no answer within {TIMEOUT_S:g} s"
        case ConnectionResetError() | KafkaConnectionError():
            return "closes the connection; is it a Kafka listener, without TLS?"
        case OSError(errno=int(number)) if number in errno.errorcode:
            return os.strerror(number).lower()
    return str(error) or repr(error)


class _TopicsResponse_v8(Response):  # type: ignore[misc]  # noqa: N801 - as aiokafka names them
    API_KEY, API_VERSION = 3, 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", String()), ("port", Int32), ("rack", String()))),
        ("cluster_id", String()),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String()),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _TopicsRequest_v8(RequestStruct):  # type: ignore[misc]  # noqa: N801 - as aiokafka names them
    API_KEY, API_VERSION = 3, 8
    RESPONSE_TYPE = _TopicsResponse_v8
    SCHEMA = Schema(
        ("topics", Array(String())),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _TopicsRequest(Request[MetadataRequest_v5 | _TopicsRequest_v8]):  # type: ignore[misc]
    """Metadata of topics that are not created by it. aiokafka's own ends at v5, which doesn't say what is allowed.

    Source: Kafka protocol, Metadata v8.
    """

    API_KEY: ClassVar[int] = 3

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

    def build(self, request_struct_class: type[Any]) -> Any:
        is_v8 = request_struct_class is _TopicsRequest_v8
        return request_struct_class(self._names, False, *((False, True) if is_v8 else ()))
