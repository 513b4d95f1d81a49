"""Tests of `stream_cache.kafka`."""
