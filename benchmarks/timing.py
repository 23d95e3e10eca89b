"""Medians of interleaved runs in one process."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleaved_medians(
    candidates: Mapping[Any, Callable[[], Any]], runs: int, warm_up: int = 3
) -> dict[Any, float]:
    """Return the median seconds of each candidate.

    The candidates take turns, so that a machine that slows down slows them all; their ratios hold
    where their seconds do not.
    """
    for run in candidates.values():
        for _ in range(warm_up):
            run()
    seconds: dict[Any, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
