"""Tests, benchmarks and the harness they share."""
