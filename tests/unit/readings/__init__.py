"""Tests of `stream_cache.readings`."""
