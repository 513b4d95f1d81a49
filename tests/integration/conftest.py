"""The kinds of Redis that the store's promises are tested on in the normal run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services import OldRedisServer
from tests.services.redis_kinds import ClusterKind, OneRedisKind, RedisKind

KINDS: dict[str, Callable[[Path], RedisKind]] = {
    "6.2": lambda folder: OneRedisKind(folder, OldRedisServer),
    "7": OneRedisKind,
    "Cluster": lambda folder: ClusterKind(folder, replicas=0),
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisKind]:
    kind = KINDS[request.param](tmp_path_factory.mktemp("redis"))
    yield kind
    kind.stop()
