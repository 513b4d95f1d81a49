"""Tests of `stream_cache.store`."""
