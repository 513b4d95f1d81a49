"""Tests that mirror the package, without I/O."""
