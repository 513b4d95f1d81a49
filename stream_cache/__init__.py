"""The latest metadata of every IoT device: from Kafka to Redis, and out over HTTP."""

import importlib.metadata

try:
    __version__ = importlib.metadata.version("stream-cache")
except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
