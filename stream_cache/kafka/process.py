"""The process: `faust worker` with our log, and an end that comes in time and says why."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, cast

import faust
import mode
from aiokafka.errors import KafkaError
from faust.cli.worker import worker as faust_command

from stream_cache import logs
from stream_cache.errors import StreamCacheError
from stream_cache.waiting import end_other_tasks

if TYPE_CHECKING:
    from stream_cache.app import StreamCache

#: The contract gives a shutdown 10 s. What has not ended by then hangs in something that is away.
_EXIT_WITHIN_S = 9.5
#: What cancelled tasks may still take: none of them is ours to wait for.
_LAST_TASKS_WITHIN_S = 0.5
_logger = logging.getLogger(__name__)

# Faust's banner, printed before anything is set up. Our line says what is worth it.
faust_command.on_worker_created = lambda *_: None  # type: ignore[method-assign]


class Worker(faust.Worker):
    """Faust's worker, for our app.

    `LOG_LEVEL` decides, whatever `-l` says. A shutdown that hangs (in a broker that doesn't answer, say) is cut off:
    nothing is committed that isn't flushed, whatever moment a process ends at. It exits with 0 where all that was
    taken is flushed, else with 1, and then the last line of the log says why.
    """

    def __init__(self, app: faust.App, *services: Any, **kwargs: Any) -> None:
        ours, log_file = cast("StreamCache", app), kwargs.get("logfile")
        level = ours.settings.process.log_level
        kwargs |= {"loglevel": level, "logging_config": logs.config(level, log_file, ours.broker_address)}
        super().__init__(app, *services, **kwargs)
        self.spinner = None  # what it draws is no log

    async def on_execute(self) -> None:
        """Tune the interpreter and the loop, once everything is imported."""
        await super().on_execute()
        self.loop.set_exception_handler(_handle_left_over)
        # Readings are freed by their reference counts. Looking for cycles among them after every 700 allocations took
        # a third of the main thread (bench, 10,000 devices); the modules need never be scanned again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        # The consumer's thread decodes without a pause, and at the default of 5 ms a lookup waits for it that long at
        # each of its steps: the median while a backlog drains was 12 ms, and is 4 ms, at the same rate.
        sys.setswitchinterval(0.001)

    @mode.Service.task
    async def _say_repeats(self) -> None:
        while not self.should_stop:
            await self.sleep(1)
            logs.say_repeats()

    def execute_from_commandline(self) -> NoReturn:
        """Run until it is stopped or something fails, and exit."""
        try:
            super().execute_from_commandline()
        except SystemExit as end:
            fault = self.crash_reason or end.__context__
            if not end.code or fault is None:
                _logger.info("exit 0: all that was taken is flushed")
                raise
            _logger.critical("exit 1: %s", _in_words(fault))
            sys.exit(1)

    def _on_shutdown_immediately(self) -> None:
        """Print nothing; Faust prints an empty line."""

    async def _stop_on_signal(self, signal: signal.Signals) -> None:
        _logger.info("stopping on %s", signal.name)
        await super()._stop_on_signal(signal)

    async def stop(self) -> None:
        """Stop, by a signal or after a crash."""
        if not self._stopped.is_set():
            deadline = threading.Timer(_EXIT_WITHIN_S, self._give_up)
            deadline.daemon = True
            deadline.start()
        await super().stop()

    def _shutdown_loop(self) -> None:
        """End what is left in the loop; mode sleeps for a second here."""
        if asyncio.all_tasks(self.loop):
            self.loop.run_until_complete(end_other_tasks(_LAST_TASKS_WITHIN_S))
        with suppress(RuntimeError):  # a callback that came too late
            self.loop.close()
        if self.crash_reason:
            raise self.crash_reason

    def _give_up(self) -> None:
        unacked_count = cast("StreamCache", self.app).flusher.unacked_count
        code = 1 if self.crash_reason or unacked_count else 0
        _logger.critical(
            "exit %d: the shutdown did not end within %.1f s; %d records that were taken are not flushed",
            code,
            _EXIT_WITHIN_S,
            unacked_count,
        )
        os._exit(code)


def _handle_left_over(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody waits for any more, but not a connection or a name that was given up: who gave it up said so."""
    if not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)


def _in_words(fault: BaseException) -> str:
    """Say what a worker ends of: for an exception of ours its text, for others where to look as well."""
    if isinstance(fault, StreamCacheError):
        return str(fault)
    name = f"{type(fault).__module__}.{type(fault).__qualname__}".removeprefix("builtins.")
    text = " ".join(str(fault).split())
    if isinstance(fault, KafkaError):
        return f"Kafka (KAFKA_BOOTSTRAP_SERVERS) refuses, or the client fails: {name}: {text}"
    return f"a fault that nobody foresaw, to be reported with the traceback above: {name}: {text}"
