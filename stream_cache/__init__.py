"""The latest metadata of every IoT device: from Kafka to Redis, and out over HTTP."""

import importlib.metadata
import sys

try:
    __version__ = importlib.metadata.version("stream-cache")
except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    """Say what to type to those who type `faust -A stream_cache worker`: Faust looks for the app here then."""
    if name == "app" and {"stream_cache", "-Astream_cache", "--app=stream_cache"} & set(sys.argv):
        sys.exit("the app is in the module stream_cache.app; type: faust -A stream_cache.app worker")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
