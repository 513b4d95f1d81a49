"""The store's promises on the kinds of Redis that the normal run leaves out: the same suite."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_store_promises import *  # noqa: F403 - its fixture `kind` is the one below
from tests.services.redis import VALKEY, ValkeyServer
from tests.services.redis_kinds import (
    ClusterKind,
    OneRedisKind,
    RedisKind,
    SentinelKind,
    TlsRedisKind,
    acl_rules_of_the_manual,
)

KINDS: dict[str, Callable[[Path], RedisKind]] = {
    "TLS and the smallest ACL": lambda folder: TlsRedisKind(folder, acl_rules_of_the_manual()),
    "Sentinel": SentinelKind,
    "Cluster with replicas": ClusterKind,
}
if shutil.which(VALKEY):
    KINDS["Valkey"] = lambda folder: OneRedisKind(folder, ValkeyServer)


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisKind]:
    kind = KINDS[request.param](tmp_path_factory.mktemp("redis"))
    yield kind
    kind.stop()
