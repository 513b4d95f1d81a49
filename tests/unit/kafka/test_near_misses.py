"""Variables that look like settings and are none."""

from stream_cache.kafka.near_misses import near_misses


def test_near_misses__are_named_in_one_line_with_what_may_be_meant() -> None:
    line = near_misses(
        {
            "KAFKA_BOOTSTRAP_SERVER": "a:1",
            "REDIS_PASS": "hunter2",
            "FAUST_BROKER": "kafka://a:1",
            "WEB_CONCURRENCY": "4",
            "REDIS_HOST": "redis",
            "REDIS_PASSWORD_FILE": "/x",
            "FAUST_BROKER_CLIENT_ID": "x",
            "FAUST_DATADIR": "/tmp",
        }
    )
    assert len(line.splitlines()) == 1
    assert "KAFKA_BOOTSTRAP_SERVER (did you mean KAFKA_BOOTSTRAP_SERVERS?)" in line
    assert "REDIS_PASS (did you mean REDIS_PASSWORD?)" in line
    assert "FAUST_BROKER (did you mean FAUST_BROKER_URL?)" in line
    assert "WEB_CONCURRENCY" in line
    assert "hunter2" not in line
    assert not {"REDIS_HOST", "REDIS_PASSWORD_FILE", "FAUST_BROKER_CLIENT_ID", "FAUST_DATADIR"} & set(
        line.replace(",", "").split()
    )


def test_near_misses__are_none_of_what_kubernetes_sets_for_its_services() -> None:
    """For Services called `redis` (two named ports), `kafka-bootstrap` and `web-ui`."""
    assert not near_misses(
        {
            "REDIS_SERVICE_HOST": "10.0.0.1",
            "REDIS_SERVICE_PORT": "6379",
            "REDIS_SERVICE_PORT_METRICS_TCP": "9121",
            "REDIS_PORT": "tcp://10.0.0.1:6379",
            "REDIS_PORT_6379_TCP": "tcp://10.0.0.1:6379",
            "REDIS_PORT_6379_TCP_PROTO": "tcp",
            "REDIS_PORT_6379_TCP_PORT": "6379",
            "REDIS_PORT_6379_TCP_ADDR": "10.0.0.1",
            "KAFKA_BOOTSTRAP_SERVICE_HOST": "10.0.0.2",
            "KAFKA_BOOTSTRAP_PORT": "tcp://10.0.0.2:9092",
            "WEB_UI_PORT": "udp://10.0.0.3:53",
            "WEB_UI_PORT_53_UDP_ADDR": "10.0.0.3",
        }
    )


def test_near_misses__are_of_our_prefixes_only() -> None:
    assert not near_misses({"PATH": "/bin", "KAFKA": "x", "LOG_LEVELS": "x", "BROKER_URL": "x", "TEST_REDIS_URL": "x"})
