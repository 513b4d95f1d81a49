"""Faults caused on purpose, with real processes; `scene.py` is what a test is written with.

`test_quick_*.py` are those that `make test` runs too. `python -m tests.faults.soak` causes faults at random.
"""
