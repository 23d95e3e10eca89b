"""Section `candidates`: many candidates against one history, as at serving."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from attention import FILMS, Scored, check_equal, histories, history
from backends import ALL_WAYS, NAIVE, Run, forward_pass
from keras import ops
from report import Measured, Options, Table, cell, interleaved_medians


def forwards_of(
    ways: Sequence[str], candidates: int, time: int, dim: int, fill: float
) -> dict[str, Run]:
    ids, _ = histories(1, time, fill)
    query = np.random.default_rng(1).integers(1, FILMS, (1, candidates)).astype("int32")
    scored = Scored(dim, ways=ways)

    def one_by_one(query: Any, ids: Any) -> Any:
        pooled = scored.call(NAIVE, False)(
            ops.transpose(query), ops.repeat(ids, candidates, axis=0)
        )
        return ops.transpose(pooled, (1, 0, 2))

    forwards = {}
    for way in scored.layers:
        call = one_by_one if way == NAIVE else scored.call(way, False)
        inputs = [ops.convert_to_tensor(query), history(way, ids)]
        forwards[way] = forward_pass(way, call, scored.weights(way), inputs)
    check_equal(forwards)
    return forwards


def measure(options: Options) -> Measured:
    size = (5, 10, 4, 0.3) if options.quick else (500, 200, 64, 0.3)
    ways = ALL_WAYS[-1:] if options.quick else ALL_WAYS
    medians = interleaved_medians(forwards_of(ways, *size), options.runs)
    naive = medians.pop(NAIVE)
    yield Table(
        "A forward pass for one user: `[candidates (1, queries, dim), history (1, time, dim)]`"
        " against the naive layer, whose batch holds the user's history once for each candidate.",
        ["queries, time, dim, fill", *medians],
        [[", ".join(map(str, size)), *(cell([naive / t]) for t in medians.values())]],
    )
