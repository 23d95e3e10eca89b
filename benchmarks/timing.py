"""Medians of interleaved runs in one process, and the versions they were measured with."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def interleaved_medians(
    candidates: Mapping[str, Callable[[], Any]], runs: int, warm_up: int = 3
) -> dict[str, float]:
    """Return the median seconds of each candidate.

    The candidates take turns, so that a machine that slows down slows them all; their ratios hold
    where their seconds do not.
    """
    for run in candidates.values():
        for _ in range(warm_up):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def versions() -> str:
    """Return one line on what the numbers were measured with."""
    import keras
    import numpy as np
    import tensorflow as tf

    import din_layers

    devices = [device.device_type for device in tf.config.list_physical_devices()]
    return (
        f"din-layers {din_layers.__version__}, Keras {keras.__version__}, TensorFlow"
        f" {tf.__version__}, NumPy {np.__version__}, Python {platform.python_version()},"
        f" {os.cpu_count()} cores, devices {', '.join(sorted(set(devices)))}"
    )
