"""Tests of `stream_cache.pipeline`."""
