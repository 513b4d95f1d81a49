"""`python -m bench`: measure, print the tables, write JSON and a chart.

Without --only everything is measured, on real services that are started for it (or those of
TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_REDIS_URL, whose database must be empty). Figures of one run belong together;
those of different machines or hours don't.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

from bench import backlog, chart, cluster, decoding, freshness, index_growth, lookups, memory, report, scaling, startup
from bench.endpoints import Endpoints, running_services
from bench.figures import Figure, print_figures
from bench.load import LoadError
from bench.rows import ROWS
from tests.services import ChildExitedError


class Scale(NamedTuple):
    """How much to measure."""

    is_quick: bool
    repeat: int


Measurement: TypeAlias = Callable[[Endpoints, Scale], list[Figure]]


def _freshness(endpoints: Endpoints, scale: Scale) -> list[Figure]:
    return [
        figure
        for rate in freshness.RATES
        for figure in freshness.measure(endpoints, rate, seconds=5 if scale.is_quick else 20)
    ]


def _lookups(endpoints: Endpoints, scale: Scale) -> list[Figure]:
    seconds, backlog_readings = (2, 200_000) if scale.is_quick else (5, 1_000_000)
    return lookups.measure(endpoints, seconds=seconds, repeat=scale.repeat, backlog_readings=backlog_readings)


def _footprint(endpoints: Endpoints, scale: Scale) -> list[Figure]:
    devices, readings = (10_000, 300_000) if scale.is_quick else (100_000, 5_000_000)
    sizes = index_growth.SIZES[: 2 if scale.is_quick else None]
    return [*memory.measure(endpoints, devices=devices, readings=readings), *index_growth.measure(endpoints, sizes)]


def _scaling(endpoints: Endpoints, scale: Scale) -> list[Figure]:
    readings, rounds = (200_000, scale.repeat) if scale.is_quick else (1_000_000, max(scale.repeat, scaling.ROUNDS))
    return scaling.measure(endpoints, readings, rounds)


def _startup(endpoints: Endpoints, scale: Scale) -> list[Figure]:
    return startup.measure(endpoints, 1 if scale.is_quick else startup.ROUNDS)


def _cluster(endpoints: Endpoints, scale: Scale) -> list[Figure]:
    return cluster.measure(endpoints, is_quick=scale.is_quick)


def _decoding(_endpoints: Endpoints, _scale: Scale) -> list[Figure]:
    return decoding.measure()


MEASUREMENTS: Final[dict[str, Measurement]] = {
    "freshness": _freshness,
    "lookups": _lookups,
    "footprint": _footprint,
    "scaling": _scaling,
    "startup": _startup,
    "decoding": _decoding,
    "cluster": _cluster,
}
ROW_NAMES: Final = tuple(row.name for row in ROWS)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("backlog", *ROW_NAMES, *MEASUREMENTS)
    parser.add_argument("--quick", action="store_true", help="small sizes: a look, no measurement")
    parser.add_argument("--only", type=_one_of(names), default=["backlog", *MEASUREMENTS], help=", ".join(names))
    workloads = [workload.name for workload in backlog.FULL]
    parser.add_argument("--workload", type=_one_of(workloads), default=workloads, help="of the backlog; default: all")
    parser.add_argument("--repeat", type=int, default=7, help="rounds of the backlog, the lookups and the scaling")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, the machine and the versions")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the backlog's chart")
    return parser.parse_args(arguments)


def _one_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    def split(text: str) -> list[str]:
        asked = text.split(",")
        unknown = [name for name in asked if name not in names]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {', '.join(names)}")
        return asked

    return split


def main() -> int:
    """Return 1 when a row or another measurement failed; the others are told all the same."""
    options = parse()
    workloads = [
        workload for workload in (backlog.QUICK if options.quick else backlog.FULL) if workload.name in options.workload
    ]
    rows = ROW_NAMES if "backlog" in options.only else [name for name in options.only if name in ROW_NAMES]
    with running_services() as endpoints:
        results = backlog.measure(endpoints, workloads, rows, options.repeat)
        report.print_results(results)
        figures = report.ratio_figures(results)
        has_failed = any(result.failure for result in results)
        for name, measure in MEASUREMENTS.items():
            if name in options.only:
                try:
                    figures += measure(endpoints, Scale(options.quick, options.repeat))
                except (ChildExitedError, LoadError, OSError) as error:  # a TimeoutError is an OSError
                    has_failed = True
                    print(f"{name} failed: {error}", file=sys.stderr, flush=True)
        print_figures(figures)
        if options.json:
            options.json.write_text(report.as_json(results, figures, endpoints) + "\n")
    if options.svg:
        options.svg.write_text(chart.draw(results))
    return 1 if has_failed else 0


if __name__ == "__main__":
    sys.exit(main())
