"""Which lines of the libraries show, and how often; ours all do."""

import io
import logging
from collections.abc import Iterator

import pytest

from stream_cache import logs
from stream_cache.errors import ConsumerStalled

OURS = f"{logs._OURS}flush.py"
THEIRS = "/site-packages/aiokafka/client.py"


class Log:
    """The handler of a worker, with a clock of its own."""

    def __init__(self, level: str = "INFO") -> None:
        self.now = 0.0
        self.stream = io.StringIO()
        self.handler = logs._Handler(self.stream, {1: "10.0.0.1:9092"}.get, shows_all=level == "DEBUG")  # type: ignore[arg-type]
        self.handler._repeats = logs.Repeats(lambda: self.now)

    def write(
        self, msg: str, *args: object, path: str = THEIRS, level: int = logging.ERROR, error: Exception | None = None
    ) -> None:
        exc_info = (type(error), error, error.__traceback__) if error else None
        self.handler.handle(logging.LogRecord("aiokafka", level, path, 1, msg, args, exc_info))

    def said(self) -> list[str]:
        """Return the texts since the last call."""
        lines = [line.split(maxsplit=3)[-1] for line in self.stream.getvalue().splitlines()]
        self.stream.seek(0)
        self.stream.truncate()
        return lines


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.handler.close()


def test_repeated_line__shows_at_once_then_once_in_10_s_with_the_count(log: Log) -> None:
    said = []
    for tick in range(250):  # ten a second
        log.now = tick / 10
        log.write("Unable to fetch from %s: try %s", "b1", tick)
        log.handler.say_repeats()
        said += log.said()
    assert said == [
        "Unable to fetch from b1: try 0",
        "Unable to fetch from b1: try 100 (repeated 100 times in 10 s)",
        "Unable to fetch from b1: try 200 (repeated 100 times in 10 s)",
    ]


def test_repeats__are_told_when_no_more_come_and_the_next_line_is_a_first_one(log: Log) -> None:
    log.write("Unable to fetch")
    log.write("Unable to fetch")
    assert log.said() == ["Unable to fetch"]
    log.now = 10
    log.handler.say_repeats()
    assert log.said() == ["Unable to fetch (repeated once more in 10 s)"]
    log.now = 20
    log.handler.say_repeats()
    log.write("Unable to fetch")
    assert log.said() == ["Unable to fetch"]


def test_lines_of_another_kind_or_level__are_first_ones(log: Log) -> None:
    log.write("Unable to fetch")
    log.write("Unable to commit")
    log.write("Unable to fetch", level=logging.WARNING)
    assert log.said() == ["Unable to fetch", "Unable to commit", "Unable to fetch"]


def test_our_lines__all_show(log: Log) -> None:
    for _ in range(3):
        log.write("the flush of %d readings failed", 7, path=OURS)
        log.write("the broker answers", path=OURS, level=logging.INFO)
    assert log.said() == ["the flush of 7 readings failed", "the broker answers"] * 3


@pytest.mark.parametrize(("level", "said"), [("INFO", []), ("DEBUG", ["ChunkConsumer: Starting..."] * 2)])
def test_comings_and_goings_of_libraries__show_at_debug_only(level: str, said: list[str]) -> None:
    log = Log(level)
    for _ in range(2):
        log.write("[^---ChunkConsumer]: Starting...", level=logging.INFO)
    assert log.said() == said


def test_services_of_ours__speak_without_their_name(log: Log) -> None:
    log.write("[^-Flusher]: the flush failed", path=OURS)
    assert log.said() == ["the flush failed"]


def test_broker_that_is_not_reached__is_named_by_its_address(log: Log) -> None:
    log.write("Unable connect to node with id %s: %s", 1, TimeoutError())
    log.write("Unable to request metadata from node with id %s: %r", 1, OSError("no"))
    assert log.said() == [
        "Unable connect to node with id 1 at 10.0.0.1:9092 (its advertised.listeners): TimeoutError()",
        "Unable to request metadata from node with id 1 at 10.0.0.1:9092 (its advertised.listeners): OSError('no')",
    ]


def test_traceback__shows_once_whoever_logs_it_again(log: Log) -> None:
    fault = KeyError("x")
    log.write("Crashed reason=%r", fault, error=fault)
    log.write("Error: %r", fault, error=fault)
    assert log.stream.getvalue().endswith("Crashed reason=KeyError('x')\nKeyError: 'x'\n")


def test_exception_of_ours__is_left_to_the_last_line(log: Log) -> None:
    fault = ConsumerStalled("5 records to read")
    log.write("[^-Health]: Crashed reason=%r", fault, error=fault)
    assert log.said() == []
