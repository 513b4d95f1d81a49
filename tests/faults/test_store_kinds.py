"""The store's promises on the kinds of Redis that the normal run leaves out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_store_promises import *  # noqa: F403 - the same suite, with another fixture `kind`
from tests.services.redis_kinds import ClusterKind, RedisKind, SentinelKind, TlsRedisKind, acl_rules_of_the_manual

KINDS = {
    "TLS and the smallest ACL": lambda folder: TlsRedisKind(folder, acl_rules_of_the_manual()),
    "Sentinel": SentinelKind,
    "Cluster with replicas": ClusterKind,
}


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisKind]:
    make = KINDS[request.param]
    folder: Path = tmp_path_factory.mktemp("redis")
    kind: RedisKind = make(folder)
    yield kind
    kind.stop()
