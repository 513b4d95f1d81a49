"""The rhythm of the lines that say what is waited for."""

import logging

import pytest

from stream_cache.waiting import WaitingLog

LOGGER = logging.getLogger("tests.waiting")


def test_lines_come_at_once_then_every_ten_seconds_then_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    waiting = WaitingLog(LOGGER, clock=lambda: now)
    said_at = []
    for second in range(301):
        now = float(second)
        count = len(caplog.records)
        waiting.wait("waiting for the broker")
        said_at += [second] * (len(caplog.records) - count)
    assert said_at == [0, 10, 20, 30, 40, 50, 60, 120, 180, 240, 300]


def test_the_end_is_said_once_and_the_next_wait_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)
    now = 0.0
    waiting = WaitingLog(LOGGER, clock=lambda: now)
    waiting.end("nothing was waited for")
    waiting.wait("waiting")
    now = 7.0
    waiting.end("the broker answers")
    waiting.end("the broker answers")
    waiting.wait("waiting")
    assert [record.getMessage() for record in caplog.records] == ["waiting", "the broker answers, after 7 s", "waiting"]
