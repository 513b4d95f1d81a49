"""What the backlog benchmark found: as a table, and with the machine and the versions as JSON."""

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import confluent_kafka

from bench.backlog import FULL, Result
from bench.endpoints import Endpoints
from bench.figures import Figure, number, print_table
from bench.rows import BASELINE, BEFORE, OURS
from tests.services.kafka import POM

PACKAGES = (
    "aiohttp",
    "aiokafka",
    "confluent-kafka",
    "faststream",
    "faust-streaming",
    "hiredis",
    "msgspec",
    "pydantic",
    "quixstreams",
    "redis",
    "stream-cache",
    "uvloop",
)


def print_results(results: Sequence[Result]) -> None:
    """Print one table per workload, fastest row first."""
    for name in dict.fromkeys(result.workload.name for result in results):
        ours = [result for result in results if result.workload.name == name]
        workload = ours[0].workload
        devices = f"{workload.devices:,} devices" if workload.devices else "as many devices"
        print(f"\n**{name}**: {workload.readings:,} readings of {devices}, seed {workload.seed}")
        heads = ("row", "readings/s", "x baseline", "CPU s per million", "of Redis", "runs")
        fastest_first = sorted(ours, key=lambda result: -result.rate if result.runs else 0)
        print_table(heads, [_cells(result) for result in fastest_first])


def _cells(result: Result) -> tuple[str, ...]:
    label = f"**{result.row.label}**" if result.row.name == OURS else result.row.label
    if not result.runs:
        return label, "failed", "", "", "", "0"
    run_readings = result.runs[0].readings
    if run_readings < result.workload.readings:
        label += f" (on {run_readings:,} readings)"
    ratio = "" if result.ratio is None else f"{result.ratio:.3f}"
    costs = number(result.cpu_s_per_million), number(result.redis_cpu_s_per_million)
    return label, number(result.rate), ratio, *costs, str(len(result.runs))


def ratio_figures(results: Sequence[Result]) -> list[Figure]:
    """Give ours beside each other row: the median over the rounds, and their spread."""
    goals = {
        ("10k", BASELINE): ">= 1.6",
        ("unique", BASELINE): ">= 1.15",
        ("10k-mixed", BASELINE): ">= 1.4",
        ("unique-mixed", BASELINE): ">= 1.15",
        **{(workload.name, BEFORE): ">= 0.95" for workload in FULL},
        ("10k", "quix"): ">= 4",
        ("unique", "quix"): ">= 1.5",
        ("10k", "faststream"): ">= 4",
        ("unique", "faststream"): ">= 1.5",
        ("10k", "faust_plain"): ">= 30",
        ("unique", "faust_plain"): ">= 30",
    }
    figures = []
    runs = {(result.workload.name, result.row.name): result.runs for result in results}
    for (workload, other), its_runs in runs.items():
        our_runs = runs.get((workload, OURS), [])
        ratios = [ours.rate / its.rate for ours, its in zip(our_runs, its_runs, strict=False)]
        if ratios and other != OURS:
            name = f"backlog, {workload}: ours / {other} ({min(ratios):.3g} to {max(ratios):.3g})"
            goal = goals.get((workload, other), "")
            figures.append(Figure(name=name, value=statistics.median(ratios), unit="x", goal=goal))
    return figures


def as_json(results: Sequence[Result], figures: Sequence[Figure], endpoints: Endpoints) -> str:
    """Give everything that is needed to judge the figures, or to measure them again."""
    return json.dumps(
        {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(endpoints),
            "backlog": [_result_json(result) for result in results],
            "figures": [asdict(figure) for figure in figures],
        },
        indent=2,
        ensure_ascii=False,
    )


def _result_json(result: Result) -> dict[str, Any]:
    return {
        "workload": asdict(result.workload),
        "row": result.row.name,
        "label": result.row.label,
        "readings_per_s": result.rate if result.runs else None,
        "ratio_to_baseline": result.ratio,
        "cpu_s_per_million": result.cpu_s_per_million if result.runs else None,
        "redis_cpu_s_per_million": result.redis_cpu_s_per_million if result.runs else None,
        "runs": [asdict(run) for run in result.runs],
        "ratios": result.ratios,
        "failure": result.failure,
    }


def machine() -> dict[str, Any]:
    """Describe this machine (its processor and memory on Linux only)."""
    return {
        "system": platform.platform(),
        "cpu": _proc_value("/proc/cpuinfo", "model name"),
        "cpu_count": os.cpu_count(),
        "memory": _proc_value("/proc/meminfo", "MemTotal"),
        "load_average_1min": os.getloadavg()[0],
    }


def versions(endpoints: Endpoints) -> dict[str, str]:
    """Give the versions of all that takes part."""
    found = {
        "python": platform.python_version(),
        "kafka (pom.xml)": POM.read_text().split("<kafka.version>")[-1].split("<")[0],
        "librdkafka": confluent_kafka.libversion()[0],
    }
    with endpoints.redis() as client:
        found["redis-server"] = client.info("server")["redis_version"]
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _proc_value(path: str, name: str) -> str:
    file = Path(path)
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "unknown")
