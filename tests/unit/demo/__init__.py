"""Tests of `stream_cache.demo`."""
