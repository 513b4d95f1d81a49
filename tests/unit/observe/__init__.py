"""Tests of `stream_cache.observe`."""
