"""Section `padding`: what more padding costs where the events stay the same."""

from attention import Scored, histories, ragged
from backends import RAGGED, WAYS, Run, training_step
from keras import ops
from report import Measured, Options, Table, cell, interleaved_medians


def step(way: str, batch: int, time: int, dim: int, fill: float, padding: int) -> Run:
    """Return a training step over histories with further positions of padding."""
    ids, candidates = histories(batch, time, fill, padding)
    scored = Scored(dim)
    call = scored.call(way)
    inputs = [ops.convert_to_tensor(candidates), ops.convert_to_tensor(ids)]
    of_padded = (lambda query, ids: call(query, ragged(ids))) if way == RAGGED else call
    return training_step(way, of_padded, scored.weights(way), inputs)


def measure(options: Options) -> Measured:
    batch, time, dim, fill = (4, 10, 4, 0.3) if options.quick else (512, 100, 64, 0.3)
    more = round(time * (1 - fill))
    cells = []
    for way in WAYS:
        steps = {padding: step(way, batch, time, dim, fill, padding) for padding in (0, more)}
        medians = interleaved_medians(steps, options.runs)
        cells.append(cell([medians[more] / medians[0]]))
    yield Table(
        f"A training step over histories of {time} positions, {fill:.0%} of them events, with twice"
        " the padding: its time / the time with the padding once. Smaller is better. Ragged"
        " histories are made of the padded ids within the step.",
        ["batch, time, dim, fill", *WAYS],
        [[f"{batch}, {time} + {more}, {dim}, {fill}", *cells]],
    )
