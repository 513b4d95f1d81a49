"""Tests that kill, freeze and cut the worker and its services."""
