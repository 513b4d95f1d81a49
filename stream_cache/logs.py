"""The log: plain lines for people, ours all of them, the libraries' no more than help.

`faust worker` sets up logging from `config()`. Whose a line is says the file that wrote it: Faust logs through the
loggers of our subclasses too. Of the libraries' lines

* those below WARNING show at LOG_LEVEL=DEBUG only: comings and goings of services, subscriptions, rebalances;
* one that comes again and again shows once, then once in 10 s with the count: a client whose broker is away tries, and
  fails, and says so, up to 50 times a second;
* the traceback of one fault shows once, and never that of an exception of ours: its words are the log's last line.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from stream_cache.errors import StreamCacheError

_OURS = f"{Path(__file__).parent}/"
_FORMAT = "%(asctime)s %(levelname)-8s %(message)s"
#: What `mode.Service` puts before the words of a service, such as "[^---ChunkConsumer]: ".
_SERVICE = re.compile(r"\[\^-*(.+?)\]: ")
#: How aiokafka's lines name a broker that they can't reach. The address that it advertises, they leave out.
_NODE = "node with id %s"
_ONCE_IN_S = 10.0
_FAULTS_KEPT = 16
_BrokerAddress = Callable[[object], str | None]


def config(level: str, log_file: str | None, broker_address: _BrokerAddress) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes: to stderr, or to the end of a file.

    `broker_address` tells the address that a broker of this id advertises, None when that is not known.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"default": {"()": lambda: _new_handler(level, log_file, broker_address)}},
        "root": {"level": level, "handlers": ["default"]},
    }


def say_repeats() -> None:
    """Say how often lines came again, where that is due. To be called about once a second."""
    for handler in logging.root.handlers:
        if isinstance(handler, _Handler):
            handler.say_repeats()


def _new_handler(level: str, log_file: str | None, broker_address: _BrokerAddress) -> _Handler:
    threading.excepthook = _log_dead_thread
    stream = Path(log_file).open("a", encoding="utf-8") if log_file else sys.stderr  # noqa: SIM115 - as long as we live
    return _Handler(stream, broker_address, shows_all=level == "DEBUG")


def _log_dead_thread(args: threading.ExceptHookArgs) -> None:
    fault = args.exc_value or args.exc_type()
    logging.getLogger(__name__).error("a thread ended", exc_info=(args.exc_type, fault, args.exc_traceback))


class _Handler(logging.StreamHandler[IO[str]]):
    """Decides which lines show, and how they look."""

    def __init__(self, stream: IO[str], broker_address: _BrokerAddress, *, shows_all: bool) -> None:
        super().__init__(stream)
        self.setFormatter(_Formatter(_FORMAT))
        self._broker_address, self._shows_all = broker_address, shows_all
        self._repeats = Repeats()
        self._faults: deque[BaseException] = deque(maxlen=_FAULTS_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Show it, or not."""
        fault = record.exc_info[1] if record.exc_info else None
        if (fault is not None and self._is_known(fault)) or _is_of_our_exception(record):
            return
        if _NODE in str(record.msg) and isinstance(record.args, tuple):
            record = self._with_address(record)
        if not record.pathname.startswith(_OURS):
            if record.levelno < logging.WARNING:
                if not self._shows_all:
                    return
            elif self._repeats.is_one_more(record):
                return
        super().emit(record)

    def say_repeats(self) -> None:
        """Show a line for each kind of which more came within the last 10 s."""
        with self.lock:  # type: ignore[union-attr]  # every handler has one
            for record in self._repeats.take_due():
                super().emit(record)

    def _with_address(self, record: logging.LogRecord) -> logging.LogRecord:
        said = cast("tuple[object, ...]", record.args)
        address = self._broker_address(said[0]) or "an unknown address"
        record = copy.copy(record)
        record.msg = record.msg.replace(_NODE, f"{_NODE} at {address.replace('%', '%%')} (its advertised.listeners)")
        if record.msg.endswith("%s") and not str(said[-1]):  # a timeout has no words
            record.msg = record.msg.removesuffix("%s") + "%r"
        return record

    def _is_known(self, fault: BaseException) -> bool:
        if any(fault is known for known in self._faults):
            return True
        self._faults.append(fault)
        return False


def _is_of_our_exception(record: logging.LogRecord) -> bool:
    """Whether a library says what an exception of ours says in the last line, when it ends the worker."""
    said = record.args if isinstance(record.args, tuple) else ()
    return not record.pathname.startswith(_OURS) and any(isinstance(part, StreamCacheError) for part in said)


class _Formatter(logging.Formatter):
    """Drops the names of services before our words: they say what they are about."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, str) and (found := _SERVICE.match(record.msg)):
            record = copy.copy(record)
            name = "" if record.pathname.startswith(_OURS) else f"{found[1]}: "
            record.msg = name + record.msg[found.end() :]
        return super().format(record)


@dataclass
class _Kind:
    """Lines of one template and logger."""

    since: float
    count: int = 0
    last: logging.LogRecord | None = None


class Repeats:
    """Counts lines that come again: the same logger, level and template, whatever is filled in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[tuple[str, int, str], _Kind] = {}

    def is_one_more(self, record: logging.LogRecord) -> bool:
        """Note a line. Returns: whether one of its kind was shown within the last 10 s."""
        key = (record.name, record.levelno, str(record.msg))
        kind = self._kinds.get(key)
        if kind is None:
            self._kinds[key] = _Kind(self._clock())
            return False
        kind.count, kind.last = kind.count + 1, record
        return True

    def take_due(self) -> Iterator[logging.LogRecord]:
        """Return the last line of each kind whose 10 s are over, with the count. A kind that is over is forgotten."""
        now = self._clock()
        for key, kind in list(self._kinds.items()):
            passed_s = now - kind.since
            if passed_s < _ONCE_IN_S:
                continue
            if kind.last is None:
                del self._kinds[key]
                continue
            record = copy.copy(kind.last)
            times = "once more" if kind.count == 1 else f"{kind.count} times"
            record.msg = f"{record.msg} (repeated {times} in {passed_s:.0f} s)"
            record.exc_info = record.exc_text = None
            record.created = time.time()
            self._kinds[key] = _Kind(now)
            yield record
