"""Section `length`: a training step where only the padding grows. The picture is made of it."""

from attention import Scored, enough, histories
from backends import DEFAULT, NAIVE, PADDED
from report import Measured, Options, Table, interleaved_medians, milliseconds
from tqdm import tqdm

LENGTHS = (10, 20, 50, 100, 200, 500, 1000, 2000, 4000)
BATCH, DIM, FILL = 128, 32, 0.8
WAYS = (NAIVE, PADDED, DEFAULT)


def measure(options: Options) -> Measured:
    shortest, lengths = LENGTHS[0], LENGTHS[:1] if options.quick else LENGTHS
    rows = []
    for length in tqdm(lengths, unit="length", leave=False):
        scored = Scored(DIM, ways=(PADDED, DEFAULT))
        data = histories(BATCH, shortest, FILL, padding=length - shortest)
        steps = {way: scored.run(way, True, *data) for way in WAYS}
        runs = enough(options, (BATCH, length))
        few = length >= 1000  # which takes long, and is steady
        medians = interleaved_medians(steps, max(1, runs // 4) if few else runs)
        rows.append([str(length), *(milliseconds(medians[way]) for way in WAYS)])
    yield Table(
        f"Milliseconds of a training step over the same {BATCH} histories, {shortest * FILL:.0f}"
        " events each on average, padded to ever more positions; with the embedding lookup,"
        f" dim {DIM}.",
        ["time", *WAYS],
        rows,
    )
