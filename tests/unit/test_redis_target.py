"""Which servers Redis' settings name, and which contradict each other (the contract, section 6)."""

import pytest

from stream_cache.errors import InvalidSetting
from stream_cache.redis_target import Address, Kind, Target
from stream_cache.settings import RedisSettings


def target(url: str = "", **environ: str) -> Target:
    return RedisSettings.from_env({**({"REDIS_URL": url} if url else {}), **environ}).target()


def test_nothing_set__is_the_contracts_default() -> None:
    found = target()
    assert (found.kind, found.addresses, found.db) == (Kind.ONE, (Address("redis", 6379),), 0)
    assert target(REDIS_HOST="::1", REDIS_PORT=" 7 ").addresses == (Address("::1", 7),)


@pytest.mark.parametrize(
    ("url", "kind", "addresses", "db", "is_tls"),
    [
        ("redis://h", Kind.ONE, (("h", 6379),), 0, False),
        ("rediss://u:p%40%2F@h:1/2", Kind.ONE, (("h", 1),), 2, True),
        ("redis://[::1]:7/0", Kind.ONE, (("::1", 7),), 0, False),
        ("unix:///run/redis.sock", Kind.ONE, (("/run/redis.sock", None),), 0, False),
        ("unix://u:p@/run/a%20b.sock?db=3", Kind.ONE, (("/run/a b.sock", None),), 3, False),
        ("redis+sentinel://a,b:1/main", Kind.SENTINEL, (("a", 26379), ("b", 1)), 0, False),
        ("rediss+sentinel://u:p@a:1,b:2/main/4", Kind.SENTINEL, (("a", 1), ("b", 2)), 4, True),
        ("redis+cluster://a,b:7001", Kind.CLUSTER, (("a", 6379), ("b", 7001)), 0, False),
        ("rediss+cluster://a:1/0", Kind.CLUSTER, (("a", 1),), 0, True),
    ],
)
def test_url__names_its_servers(
    url: str, kind: Kind, addresses: tuple[tuple[str, int | None], ...], db: int, *, is_tls: bool
) -> None:
    found = target(url)
    assert (found.kind, found.addresses, found.db, found.is_tls) == (kind, addresses, db, is_tls)


def test_user_and_password__come_from_the_url_decoded_or_from_their_settings() -> None:
    found = target("redis://us%3Aer:p%40%2F@h")
    assert (found.username, found.password) == ("us:er", "p@/")
    assert target("redis://:only@h").password == "only"
    found = target("redis+cluster://h", REDIS_USERNAME="u", REDIS_PASSWORD="p@:/")
    assert (found.username, found.password) == ("u", "p@:/")


@pytest.mark.parametrize(
    "url",
    [
        "h:6379",
        "tcp://h:1",
        "redis://",
        "redis://a,b",
        "redis://h:0",
        "redis://h:x",
        "redis://h/x",
        "redis://h/-1",
        "redis://h?db=1",
        "REDIS://h",
        "redis+sentinel://h",
        "redis+sentinel://h/",
        "redis+sentinel://h/m/x",
        "redis+cluster://h/1",
        "redis+cluster://a,,b",
        "unix://",
        "unix://h/x",
        "unix:///x?db=y",
        "unix:///x?a=1",
        "redis://h:1:2",
    ],
)
def test_other_url__is_an_invalid_setting(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^invalid setting REDIS_URL="):
        target(url)


@pytest.mark.parametrize(
    ("variable", "environ"),
    [
        ("REDIS_HOST", {"REDIS_URL": "redis://h", "REDIS_HOST": "h"}),
        ("REDIS_PORT", {"REDIS_URL": "redis://h", "REDIS_PORT": "1"}),
        ("REDIS_DB", {"REDIS_URL": "redis://h", "REDIS_DB": "1"}),
        ("REDIS_USERNAME", {"REDIS_URL": "redis://a@h", "REDIS_USERNAME": "b"}),
        ("REDIS_PASSWORD", {"REDIS_URL": "redis://:a@h", "REDIS_PASSWORD": "b"}),
        ("REDIS_TLS", {"REDIS_URL": "unix:///x", "REDIS_TLS": "true"}),
    ],
)
def test_contradiction__is_an_invalid_setting(variable: str, environ: dict[str, str]) -> None:
    with pytest.raises(InvalidSetting) as raised:
        RedisSettings.from_env(environ)
    assert raised.value.variable == variable


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://u:hunter2@a:x/main",
        "redis://:hunter/2@h:x",
        "redis://u://hunter@2@h:x",
        "u:hunter2@h",
    ],
)
def test_password_of_a_url__is_in_no_error(url: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        target(url)
    assert "hunter" not in str(raised.value)


def test_words__name_the_servers() -> None:
    assert str(target("redis://u:p@h:1/2")) == "h:1/2"
    assert str(target("redis+sentinel://a,b:1/main/4")) == "'main' of a:26379,b:1/4"
    assert str(target("unix:///run/redis.sock")) == "/run/redis.sock/0"
