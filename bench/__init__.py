"""Benchmarks: the service beside what one would write or pick instead, on a real Kafka and a real Redis.

`python -m bench --help` lists what can be measured. Nothing here asserts an absolute time.
"""
