"""What is taken first of what has been fetched."""

from types import SimpleNamespace

from aiokafka.consumer.fetcher import FetchError, FetchResult
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition

from stream_cache.kafka.batches import Batches, PartitionReader
from stream_cache.kafka.fetching import take
from tests.raw_batches import Sent, batch_of

BACKLOG, LIVE = TopicPartition("iot_validated_data", 0), TopicPartition("iot_validated_data", 1)
READ_COMMITTED = 1


async def test_take__a_live_partition_does_not_wait_for_the_backlog_of_another() -> None:
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user([BACKLOG, LIVE])
    assignment = subscriptions.subscription.assignment

    def fetched(tp: TopicPartition, *batch_sizes: int) -> FetchResult:
        assignment.state_value(tp).seek(0)
        data, offset = b"", 0
        for size in batch_sizes:
            data += batch_of([Sent(0, b"key", b"value")] * size, base_offset=offset)
            offset += size
        reader = PartitionReader(tp, Batches(data), [], 0, None, None, True, READ_COMMITTED)
        return FetchResult(tp, assignment=assignment, partition_records=reader, backoff=0)

    records = {BACKLOG: fetched(BACKLOG, 40, 40, 40), LIVE: fetched(LIVE, 5)}
    fetcher = SimpleNamespace(
        _records=records, _subscriptions=subscriptions, _notify=lambda _: None, _wait_consume_future=None
    )
    active = {BACKLOG, LIVE}
    assert {tp: len(step.records) for tp, step in take(fetcher, active, 50).items()} == {LIVE: 5, BACKLOG: 45}
    records[LIVE] = fetched(LIVE, 5)
    assignment.state_value(LIVE).seek(0)
    assert list(take(fetcher, active, 5)) == [LIVE]
    records[LIVE] = FetchError(error=TopicAuthorizationFailedError(LIVE.topic), backoff=0)
    assert list(take(fetcher, active, 5)) == [BACKLOG]
