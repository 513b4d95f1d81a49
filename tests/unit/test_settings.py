"""The settings: each variable's default, what is read, and how an invalid one is said (the contract, section 6)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stream_cache.app import create_app
from stream_cache.environment import Area, variables
from stream_cache.errors import InvalidSetting
from stream_cache.settings import VARIABLES, RedisSettings, Settings

LONG_NAME = "n" * 249
SECRETS = [variable.name for variable in VARIABLES if variable.is_secret]

OWNERS_DEFAULTS = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "KAFKA_VALIDATED_DATA_TOPIC": "iot_validated_data",
    "KAFKA_ERROR_TOPIC": "iot_errors",
    "KAFKA_CONSUMER_GROUP_ID": "cache_service_group",
    "KAFKA_CONSUMER_POLL_TIMEOUT_S": 1.0,
    "REDIS_HOST": "redis",
    "REDIS_PORT": 6379,
    "REDIS_DB": 0,
    "REDIS_PASSWORD": "",
    "REDIS_METADATA_TTL": 86400,
    "LOG_LEVEL": "INFO",
}
OUR_DEFAULTS_IN_THE_CONTRACT = {
    "FLUSH_INTERVAL_S": 0.5,
    "MAX_CLOCK_SKEW_S": 3600,
    "BULK_MAX_DEVICES": 1000,
    "ERROR_ORIGINAL_MAX_BYTES": 262144,
    "WEB_PORT": 6066,
    "WEB_BIND": "0.0.0.0",
}
GOOD: dict[str, list[tuple[str, Any]]] = {
    "KAFKA_BOOTSTRAP_SERVERS": [
        ("broker-1.example.org:19092", "broker-1.example.org:19092"),
        ("a:1, b:2", "a:1,b:2"),
        ("127.0.0.1:65535", "127.0.0.1:65535"),
        ("[::1]:9092", "[::1]:9092"),
        (" a:1 ", "a:1"),
    ],
    "KAFKA_VALIDATED_DATA_TOPIC": [("a.b_c-D9", "a.b_c-D9"), (LONG_NAME, LONG_NAME), ("...", "...")],
    "KAFKA_ERROR_TOPIC": [("errors", "errors"), (LONG_NAME, LONG_NAME)],
    "KAFKA_CONSUMER_GROUP_ID": [("group of ours/é", "group of ours/é"), (LONG_NAME, LONG_NAME)],
    "KAFKA_CONSUMER_POLL_TIMEOUT_S": [("0.01", 0.01), ("30", 30.0), ("2.5", 2.5)],
    "REDIS_HOST": [("10.0.0.7", "10.0.0.7"), ("::1", "::1"), ("redis.internal", "redis.internal"), ("[::1]", "::1")],
    "REDIS_PORT": [("1", 1), ("65535", 65535)],
    "REDIS_DB": [("0", 0), ("063", 63)],
    "REDIS_PASSWORD": [("", ""), ("p@ss word:/%é", "p@ss word:/%é"), ("hunter2\n", "hunter2")],
    "REDIS_METADATA_TTL": [("0", 0), ("1", 1), ("31536000", 31536000)],
    "LOG_LEVEL": [("debug", "DEBUG"), ("Info", "INFO"), ("WARN", "WARNING"), ("ERROR", "ERROR"), ("crit", "CRITICAL")],
    "FLUSH_INTERVAL_S": [("0.01", 0.01), ("60", 60.0), ("1e-1", 0.1), (".5", 0.5)],
    "MAX_CLOCK_SKEW_S": [("0", 0.0), ("86400", 86400.0), ("0.5", 0.5)],
    "BULK_MAX_DEVICES": [("1", 1), ("5000", 5000)],
    "ERROR_ORIGINAL_MAX_BYTES": [("0", 0), ("1024", 1024), ("10485760", 10485760)],
    "WEB_PORT": [("80", 80), ("65535", 65535)],
    "WEB_BIND": [("127.0.0.1", "127.0.0.1"), ("::", "::")],
    "MAX_UNACKED_READINGS": [("1", 1), ("200000", 200000)],
    "COMMIT_INTERVAL_S": [("0.05", 0.05), ("4", 4.0)],
    "REDIS_TIMEOUT_S": [("0.05", 0.05), ("10", 10.0)],
    "PRUNE_INTERVAL_S": [("0.1", 0.1), ("20", 20.0)],
    "KAFKA_SESSION_TIMEOUT_S": [("1", 1.0), ("45", 45.0)],
    "KAFKA_METADATA_MAX_AGE_S": [("0.5", 0.5), ("300", 300.0)],
    "KAFKA_GROUP_INSTANCE_ID": [("", ""), ("worker-1", "worker-1")],
    "SHUTDOWN_TIMEOUT_S": [("0.1", 0.1), ("8", 8.0)],
    "STALL_TIMEOUT_S": [("1", 1.0), ("600", 600.0)],
    "STALL_EXIT_S": [("1", 1.0), ("600", 600.0)],
    "REDIS_DURABILITY": [("none", "none"), ("replica", "replica"), ("aof", "aof")],
    "API_TOKEN": [("", ""), ("s3cret~!", "s3cret~!")],
    "HEALTH_NEEDS_TOKEN": [("true", True), ("false", False)],
    "WEB_MAX_CONNECTIONS": [("1", 1), ("5000", 5000)],
    "WEB_KEEPALIVE_S": [("1", 1.0), ("3600", 3600.0)],
    "REDIS_URL": [("redis://h", "redis://h")],  # the grammar has a test of its own
    "REDIS_USERNAME": [("worker", "worker")],
    "REDIS_TLS": [("True", True)],
    "REDIS_TLS_CA_FILE": [(__file__, __file__)],
    "REDIS_SENTINEL_USERNAME": [("watcher", "watcher")],
    "REDIS_SENTINEL_PASSWORD": [("p@ss word:/%é", "p@ss word:/%é")],
    "OFFLINE_AFTER_S": [("0.001", 0.001), ("86400", 86400.0)],
}
NO_WHOLE_NUMBERS = ["x", "1.5", "-1", "0x10", "1e3", "9" * 5000]
NO_NUMBERS = ["x", "nan", "inf", "-inf", "-1", "1,5", "1e999"]
BAD: dict[str, list[str]] = {
    "KAFKA_BOOTSTRAP_SERVERS": [",", "a:1,", "a:0", "a:65536", "a:x", "kafka://a:1", "a b:1", "a:1;b:2", ":9092"],
    "KAFKA_VALIDATED_DATA_TOPIC": ["a b", "é", "a/b", "n" * 250, ".", "..", "a\nb"],
    "KAFKA_ERROR_TOPIC": ["a b", "a,b", "n" * 250, ".", "..", "iot_validated_data"],
    "KAFKA_CONSUMER_GROUP_ID": ["n" * 250, "a\nb", "\x00"],
    "KAFKA_CONSUMER_POLL_TIMEOUT_S": [*NO_NUMBERS, "0", "30.1"],
    "REDIS_HOST": ["a b", "redis://a", "user@a"],
    "REDIS_PORT": [*NO_WHOLE_NUMBERS, "0", "65536"],
    "REDIS_DB": NO_WHOLE_NUMBERS,
    "REDIS_METADATA_TTL": NO_WHOLE_NUMBERS,
    "LOG_LEVEL": ["verbose", "10", "INFO!"],
    "FLUSH_INTERVAL_S": [*NO_NUMBERS, "0", "61"],
    "MAX_CLOCK_SKEW_S": NO_NUMBERS,
    "BULK_MAX_DEVICES": [*NO_WHOLE_NUMBERS, "0"],
    "ERROR_ORIGINAL_MAX_BYTES": [*NO_WHOLE_NUMBERS, "10485761"],
    "WEB_PORT": [*NO_WHOLE_NUMBERS, "0", "65536"],
    "WEB_BIND": ["a b", "http://a"],
    "MAX_UNACKED_READINGS": [*NO_WHOLE_NUMBERS, "0"],
    "COMMIT_INTERVAL_S": [*NO_NUMBERS, "0", "4.5"],
    "REDIS_TIMEOUT_S": [*NO_NUMBERS, "0"],
    "PRUNE_INTERVAL_S": [*NO_NUMBERS, "0", "21"],
    "KAFKA_SESSION_TIMEOUT_S": [*NO_NUMBERS, "0.5"],
    "KAFKA_METADATA_MAX_AGE_S": [*NO_NUMBERS, "0"],
    "KAFKA_GROUP_INSTANCE_ID": ["n" * 250, "a\nb"],
    "SHUTDOWN_TIMEOUT_S": [*NO_NUMBERS, "0", "9"],
    "STALL_TIMEOUT_S": [*NO_NUMBERS, "0"],
    "STALL_EXIT_S": [*NO_NUMBERS, "0"],
    "REDIS_DURABILITY": ["always"],
    "HEALTH_NEEDS_TOKEN": ["maybe"],
    "WEB_MAX_CONNECTIONS": [*NO_WHOLE_NUMBERS, "0"],
    "WEB_KEEPALIVE_S": [*NO_NUMBERS, "0", "3601"],
    "API_TOKEN": ["hunter 2", "hünter"],
    "REDIS_URL": ["h:6379", "tcp://h:1"],
    "REDIS_USERNAME": ["a\nb"],
    "REDIS_TLS": ["yes"],
    "REDIS_TLS_CA_FILE": ["/absent.pem", "/", "n" * 300],
    "REDIS_SENTINEL_USERNAME": ["a\nb"],
    "OFFLINE_AFTER_S": [*NO_NUMBERS, "0"],
}


def values(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what each variable is read as."""
    settings = Settings.from_env(environ)
    areas: list[Area] = [getattr(settings, name) for name in settings.__struct_fields__]
    return {variable.name: getattr(area, variable.field) for area in areas for variable in variables(type(area))}


def pairs(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(variable, item) for variable, items in table.items() for item in items]


def shown(value: object) -> str:
    return repr(value)[:40]


def test_defaults__are_the_contracts() -> None:
    assert (OWNERS_DEFAULTS | OUR_DEFAULTS_IN_THE_CONTRACT).items() <= values({}).items()


def test_tables_of_this_test__name_every_variable() -> None:
    pairs_of_files = {f"{prefix}_TLS_{which}_FILE" for prefix in ("WEB", "REDIS") for which in ("CERT", "KEY")}
    names = {variable.name for variable in VARIABLES}
    assert len(names) == len(VARIABLES)
    assert set(GOOD) == names - pairs_of_files
    assert set(BAD) == names - pairs_of_files - {"REDIS_PASSWORD", "REDIS_SENTINEL_PASSWORD"}


@pytest.mark.parametrize(("variable", "case"), pairs(GOOD), ids=shown)
def test_variable__is_read(variable: str, case: tuple[str, Any]) -> None:
    text, expected = case
    read = values({variable: text})
    assert read == values({}) | {variable: expected}
    assert type(read[variable]) is type(expected)


@pytest.mark.parametrize(("variable", "text"), pairs(BAD), ids=shown)
def test_variable__with_an_invalid_value_is_said_in_one_line(variable: str, text: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        Settings.from_env({variable: text})
    line = str(raised.value)
    shown = " (value not shown)" if variable in SECRETS else f"={text!r}"
    assert line.startswith(f"invalid setting {variable}{shown}: expected ")
    assert variable not in SECRETS or text not in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("REDIS_PORT", "abc", "an integer from 1 to 65535"),
        ("FLUSH_INTERVAL_S", "0", "a number of seconds from 0.01 to 60"),
        ("REDIS_DURABILITY", "x", "one of none, replica, aof"),
        ("LOG_LEVEL", "x", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("REDIS_TLS", "x", "true or false"),
    ],
)
def test_type__says_what_is_expected(variable: str, text: str, words: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        Settings.from_env({variable: text})
    assert str(raised.value) == f"invalid setting {variable}={text!r}: expected {words}"


@pytest.mark.parametrize("variable", [name for variable in VARIABLES for name in variable.names])
@pytest.mark.parametrize("text", ["", " ", "\n"], ids=repr)
def test_variable__that_is_empty_counts_as_not_set(variable: str, text: str) -> None:
    assert Settings.from_env({variable: text}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("REDIS_HOST", "redis:6379", ["REDIS_HOST=redis and REDIS_PORT=6379"]),
        ("REDIS_HOST", "[::1]:6379", ["REDIS_HOST=[::1] and REDIS_PORT=6379"]),
        ("WEB_BIND", "0.0.0.0:8080", ["WEB_BIND=0.0.0.0 and WEB_PORT=8080"]),
        ("REDIS_PORT", "tcp://10.0.0.1:6379", ["Service called 'redis'", "enableServiceLinks: false"]),
        ("WEB_PORT", "tcp://10.0.0.1:80", ["Service called 'web'", "enableServiceLinks: false"]),
        ("REDIS_HOST", "redis://redis", ["without redis://"]),
        ("KAFKA_BOOTSTRAP_SERVERS", "PLAINTEXT://kafka:9092", ["without PLAINTEXT://"]),
        ("KAFKA_BOOTSTRAP_SERVERS", "tcp://10.0.0.1:9092", ["without tcp://"]),
    ],
)
def test_variable__with_a_well_known_mistake_says_what_is_meant(variable: str, text: str, words: list[str]) -> None:
    with pytest.raises(InvalidSetting, match=variable) as raised:
        Settings.from_env({variable: text})
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("variable", SECRETS)
def test_secret__with_a_line_break_in_it_is_refused_and_not_shown(variable: str) -> None:
    """Two lines of a file, most likely."""
    with pytest.raises(InvalidSetting, match=variable) as raised:
        Settings.from_env({variable: "hunter2\nhunter3"})
    assert "hunter" not in str(raised.value)


def test_stray_variables__change_nothing() -> None:
    assert Settings.from_env({"REDIS_URI": "redis://x", "TTL": "1", "kafka_error_topic": "x"}) == Settings()


def test_repr__hides_the_secrets() -> None:
    environ = dict.fromkeys(SECRETS, "hunter2")
    settings = Settings.from_env(environ)
    assert "hunter" not in f"{settings!r} {settings} {settings.redis.target()!r}"
    assert environ.items() <= values(environ).items()
    redis = RedisSettings.from_env({"REDIS_URL": "redis://u:hunter2@h"})
    assert "hunter" not in f"{redis!r} {redis.target()!r} {redis.target()}"


@pytest.mark.parametrize("variable", SECRETS)
def test_file_of_a_secret__is_its_text_without_the_last_line_break(tmp_path: Path, variable: str) -> None:
    path = tmp_path / "secret"
    for written, secret in (("s3cret", "s3cret"), ("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret")):
        path.write_bytes(written.encode())
        assert values({f"{variable}_FILE": f" {path}\n"}) == values({}) | {variable: secret}


def test_file_of_a_secret__keeps_white_space(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" p@ss é \n", encoding="utf-8")
    assert values({"REDIS_PASSWORD_FILE": str(tmp_path / "secret")})["REDIS_PASSWORD"] == " p@ss é "


@pytest.mark.parametrize("variable", SECRETS)
@pytest.mark.parametrize("content", [None, b"", b"\n", b"hunter2\nhunter3\n", b"hunter2\n\n", b"hunter\xff"], ids=repr)
def test_file_of_a_secret__that_holds_none_is_said_in_one_line(
    tmp_path: Path, variable: str, content: bytes | None
) -> None:
    """An empty one too: it would leave open what is meant to be closed."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidSetting) as raised:
        Settings.from_env({f"{variable}_FILE": str(path)})
    line = str(raised.value)
    assert line.startswith(f"invalid setting {variable}_FILE")
    assert "hunter" not in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("variable", SECRETS)
def test_file_of_a_secret__beside_the_secret_is_refused(tmp_path: Path, variable: str) -> None:
    (tmp_path / "secret").write_text("hunter2")
    with pytest.raises(InvalidSetting, match=f"{variable}_FILE=.*: expected nothing where {variable} is set") as raised:
        Settings.from_env({variable: "hunter2", f"{variable}_FILE": str(tmp_path / "secret")})
    assert "hunter" not in str(raised.value)


@pytest.mark.parametrize("variable", ["REDIS_HOST", "KAFKA_BOOTSTRAP_SERVERS", "REDIS_PORT"])
@pytest.mark.parametrize("text", ["redis://:hunter2@redis:6379/0", "user:hunter2@host:9092"])
def test_address_with_a_password__is_not_shown(variable: str, text: str) -> None:
    with pytest.raises(InvalidSetting, match=variable) as raised:
        Settings.from_env({variable: text})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["WEB", "REDIS"])
def test_tls_files__are_needed_both_and_must_be_there(tmp_path: Path, prefix: str) -> None:
    both = (f"{prefix}_TLS_CERT_FILE", f"{prefix}_TLS_KEY_FILE")
    assert values(dict.fromkeys(both, __file__)) == values({}) | dict.fromkeys(both, __file__)
    for given, missing in (both, both[::-1]):
        with pytest.raises(InvalidSetting, match=f"{missing}=''"):
            Settings.from_env({given: __file__})
        with pytest.raises(InvalidSetting, match=f"{given}=.*expected the path of a PEM file"):
            Settings.from_env({given: str(tmp_path / "absent.pem"), missing: __file__})


@pytest.mark.parametrize(
    "environ",
    [
        {"FAUST_WEB_PORT": "6066"},
        {"FAUST_WEB_PORT": "7000", "WEB_PORT": "7000"},
        {"FAUST_BROKER_URL": "kafka://kafka:9092"},
        {"FAUST_BROKER_URL": "kafka://a:1;kafka://b:2", "KAFKA_BOOTSTRAP_SERVERS": "a:1,b:2"},
        {"FAUST_PROCESSING_GUARANTEE": "at_least_once"},
        {"FAUST_BROKER_REQUEST_TIMEOUT": "30", "FAUST_PRODUCER_COMPRESSION_TYPE": "gzip"},
        {"FAUST_WEB_PORT": "", "FAUST_BROKER_URL": " ", "FAUST_PRODUCER_LINGER": " 0.1 "},
    ],
    ids=shown,
)
def test_faust_variable__that_agrees_or_is_not_ours_is_allowed(environ: dict[str, str]) -> None:
    assert create_app(environ).settings == Settings.from_env(environ)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FAUST_WEB_PORT", "7000"),
        ("FAUST_WEB_BIND", "127.0.0.9"),
        ("FAUST_BROKER_URL", "kafka://user:hunter2@elsewhere:9092"),
        ("FAUST_BROKER_CONSUMER_URL", "kafka://elsewhere:9092"),
        ("FAUST_BROKER_PRODUCER_URL", "kafka://elsewhere:9092"),
        ("FAUST_BROKER_COMMIT_INTERVAL", "60"),
        ("FAUST_CONSUMER_AUTO_OFFSET_RESET", "latest"),
        ("FAUST_PROCESSING_GUARANTEE", "exactly_once"),
        ("FAUST_TOPIC_ALLOW_DECLARE", "true"),
        ("FAUST_STREAM_WAIT_EMPTY", "false"),
        ("FAUST_PRODUCER_ACKS", "0"),
    ],
)
def test_faust_variable__that_contradicts_ours_is_refused(variable: str, text: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        create_app({variable: text})
    assert variable in str(raised.value)
    assert "hunter2" not in str(raised.value)
    if not variable.endswith("_URL"):  # which may hold a secret
        assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FAUST_WEB_PORT", "abc"),
        ("FAUST_PRODUCER_LINGER", "soon"),
        ("FAUST_BROKER_CREDENTIALS", "x"),
        ("FAUST_TIMEZONE", "Mars/Olympus"),
        # Those that Faust reads, and its client dies of.
        ("FAUST_BROKER_API_VERSION", "abc"),
        ("FAUST_PRODUCER_API_VERSION", "abc"),
        ("FAUST_BROKER_REBALANCE_TIMEOUT", "1e400"),
        ("FAUST_BROKER_REQUEST_TIMEOUT", "1e400"),
        ("FAUST_BROKER_REQUEST_TIMEOUT", "9.9"),
        ("FAUST_CONSUMER_CONNECTIONS_MAX_IDLE_MS", "0"),
        ("FAUST_PRODUCER_CONNECTIONS_MAX_IDLE_MS", "-1"),
        ("FAUST_PRODUCER_COMPRESSION_TYPE", "abc"),
        ("FAUST_PRODUCER_LINGER", "1e400"),
        ("FAUST_PRODUCER_THREADED", "true"),
        ("FAUST_STREAM_RECOVERY_DELAY", "1e400"),
        ("FAUST_TABLE_CLEANUP_INTERVAL", "0"),
        # Those that Faust reads while it is imported.
        ("FAUST_BLOCKING_TIMEOUT", "-1"),
        ("FAUST_CONSOLE_PORT", "abc"),
        ("FAUST_LOOP", "abc"),
        ("FAUST_WEB_TRANSPORT", "abc://"),
        ("FAUST_WORKDIR", "/absent"),
        ("F_WEB_PORT", "abc"),
    ],
)
def test_faust_variable__that_faust_cannot_read_is_a_wrong_setting(variable: str, text: str) -> None:
    with pytest.raises(InvalidSetting, match=variable):
        create_app({variable: text})


@pytest.mark.parametrize(
    "environ",
    [
        {"BROKER_URL": "kafka://elsewhere:1", "CACHE_URL": "redis://elsewhere", "APP_VERSION": "2"},
        {"FAUST_APP_VERSION": "2", "FAUST_APP_ID_FORMAT": "other"},
        {"APP_ENV_PREFIX": "", "BROKER_URL": "kafka://elsewhere:1"},
        {"APP_ENV_PREFIX": "MY_", "MY_BROKER_URL": "kafka://elsewhere:1", "MY_WEB_BIND": "127.0.0.9"},
    ],
    ids=shown,
)
def test_stray_variables_of_faust__cannot_hijack_the_service(environ: dict[str, str]) -> None:
    """Either they do nothing, or they are refused as an invalid setting."""
    try:
        app = create_app(environ)
    except InvalidSetting:
        return
    assert [str(url) for url in app.conf.broker_consumer] == ["kafka://kafka:9092"]
    assert app.conf.web_bind == "0.0.0.0"
    assert app.conf.id == "cache_service_group"
