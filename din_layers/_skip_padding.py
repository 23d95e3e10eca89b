"""How padding is skipped: the unit scores valid events alone.

* Where a shape may depend on data (eagerly, in plain graphs of TensorFlow), the valid events are
  taken out of their padding, and the rest is as for ragged input.
* Where shapes are fixed (`jax.jit`, XLA), a loop goes over blocks of valid events and writes their
  scores; how many blocks there are is known only when it runs. The backward pass is a loop that
  computes each block again. So memory is that of one block, and one program serves every number of
  events. Softmax and weighted sum, a small part of the work, stay padded.

In training `Dice` needs the mean and variance of its inputs over all events: one loop for each
`Dice` finds them. On the way back one loop for each finds the gradients of its mean and variance,
and a last one all other gradients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from din_layers import _backend
from din_layers._backend import Tensor
from din_layers._history import FlatHistory, History, OfRows, PaddedHistory
from din_layers._local_activation_unit import LocalActivationUnit
from din_layers._tensors import select, wide_dtype

_FEW = 1024  # positions up to which skipping costs more than it saves
_SHORT = 16  # the same of one row, where nobody knows how many rows there are
_LONG = 100  # positions of a row above which most are padding, as a rule
_FULL = 0.6  # the share of events from which on it costs more than it saves


def attend_to_events(
    asked: bool | None,
    attend: Callable[[History], Any],
    history: History,
    unit: LocalActivationUnit,
    training: bool | None,
) -> Any:
    """Choose how padding is treated, and attend to the history in that way.

    Args:
        asked: Whether to skip the padding where that can be done; None: where it pays.
        attend: The computation, which takes a history in any layout.
        history: The history as the inputs tell it.
        unit: What scores the events.
        training: Whether the result is trained with.
    """
    if not isinstance(history, PaddedHistory) or history.valid is None or asked is False:
        return attend(history)
    padded, valid = history, history.valid
    if 0 in valid.shape:
        return attend(padded)
    if not _backend.shapes_may_depend_on_data(valid):
        loops = _backend.can_loop(valid) and unit.scores_alone(training)
        blocks = loops and (asked or _blocks_pay(valid, unit, training))
        return attend(_InBlocks(padded) if blocks else padded)
    if asked or unit.adds_losses:  # which count all that the unit sees
        return attend(_TakenOut(padded))
    eager = _backend.is_eager()
    # Replicas have different numbers of events, which would weigh the same in joint statistics.
    if _backend.replica() is not None or not (training or eager):
        return attend(padded)
    # In a graph it pays for few positions too; how many are events is not known there.
    if eager and (_few(valid) or float(ops.mean(ops.cast(valid, "float32"))) >= _FULL):
        return attend(padded)
    return attend(_TakenOut(padded))


def _few(valid: Tensor) -> bool:
    """Tell whether there are few positions, as far as is known."""
    batch, time = valid.shape[:2]
    if isinstance(batch, int) and isinstance(time, int):
        return batch * time < _FEW
    return isinstance(time, int) and time <= _SHORT


def _blocks_pay(valid: Tensor, unit: LocalActivationUnit, training: bool | None) -> bool:
    if _few(valid):
        return False
    if _backend.backend() == "jax":
        return True
    # Graphs of TensorFlow for inference are what is exported: no loops there. Under its XLA the
    # loops of statistics pay only where few positions are events, as in long histories.
    long = not isinstance(valid.shape[1], int) or valid.shape[1] > _LONG
    return bool(training) and (long or not unit.dices(training))


class _TakenOut(FlatHistory):
    """The valid events of a padded history, taken out of their padding."""

    def __init__(self, padded: PaddedHistory) -> None:
        super().__init__(padded._sequence)
        self._padded, self._sizes = padded, ops.shape(padded.valid)[:2]
        self.batch = self._sizes[0]
        self._places, self.rows = _backend.places_of(padded.valid)

    def scores(self, unit: Any, keys: Tensor, of_rows: OfRows, training: Any) -> Tensor:
        """Return what a local activation unit gives for the events, some thousand at a time."""

        def score(keys: Tensor, rows: Tensor) -> Tensor:
            of_events = {
                name: _backend.gather_rows(x, rows, self.batch) for name, x in of_rows.items()
            }
            return unit.run(keys, None, of_events, training)[0]

        if unit.scores_alone(training) and not unit.dices(training):
            score = _backend.in_pieces(score)
        return score(keys, self.rows)

    def _align(self, name: str, x: Tensor) -> Tensor:
        return _backend.take(
            _flat(_backend.same_sizes(name, x, self._sequence, axes=2)), self._places
        )

    def positions(self) -> Tensor:
        return self._places - self.rows * self._sizes[1]

    def _row_lengths(self) -> Tensor:
        return self._padded.count

    def restore(self, x: Tensor) -> Tensor:
        flat = _backend.put(x, self._places, self._sizes[0] * self._sizes[1])
        return ops.reshape(flat, (*self._sizes, *ops.shape(x)[1:]))


class _InBlocks(PaddedHistory):
    """A padded history whose valid events alone are scored, in loops over blocks of them."""

    def __init__(self, padded: PaddedHistory) -> None:
        super().__init__(padded._sequence)
        self.valid = padded.valid

    def scores(self, unit: Any, keys: Tensor, of_rows: OfRows, training: Any) -> Tensor:
        """Return what a local activation unit gives for the valid events, 0 elsewhere."""
        if 0 in of_rows["query"].shape:  # no candidates
            return super().scores(unit, keys, of_rows, training)
        columns = [(name, x.shape[-1]) for name, x in of_rows.items()]
        rows = ops.concatenate([ops.cast(x, keys.dtype) for x in of_rows.values()], -1)
        state = [ops.cast(ops.convert_to_tensor(x), x.dtype) for x in unit.variables]
        loops = _Loops(unit, columns, training)
        run = _backend.custom_gradient(loops.forward, loops.backward)
        scores, count, *statistics = run(self.valid, keys, rows, *state)
        for dice, mean, variance in zip(
            loops.dices, statistics[::2], statistics[1::2], strict=True
        ):
            dice.move(mean, variance, count > 0)
        return scores


@dataclass(frozen=True)
class _Block:
    """Some events: their keys (size, dim), what their rows have, and which of them are real."""

    keys: Tensor
    rows: Tensor
    real: Tensor


class _Blocks:
    """The valid events of a batch, in blocks of one size.

    Attributes:
        size: The number of events of a block.
        count: How many blocks there are, known when the program runs.
        most: How many there can be.
    """

    def __init__(self, keys: Tensor, valid: Tensor, rows: Tensor) -> None:
        batch, self._time = ops.shape(keys)[:2]
        self._keys, self._valid, self._rows = _flat(keys), valid, rows
        self.size = _backend.block_size(batch * self._time)
        self.most = (batch * self._time + self.size - 1) // self.size
        flat = ops.cast(ops.reshape(valid, (-1,)), "int32")
        self._order, self._total = ops.cumsum(flat) - 1, ops.sum(flat)
        self.count = (self._total + self.size - 1) // self.size
        end = self.most * self.size
        target = ops.where(flat > 0, self._order, end)
        positions = ops.arange(batch * self._time, dtype="int32")
        places = ops.scatter(target[:, None], positions, (end + 1,))
        # What room the last block leaves gets some event too: padding may hold NaN.
        self._places = ops.where(ops.arange(end + 1) < self._total, places, places[0])

    def at(self, i: Tensor) -> _Block:
        """Return a block."""
        places = self._places_at(i)
        keys, rows = (
            _backend.take(x, at)
            for x, at in ((self._keys, places), (self._rows, places // self._time))
        )
        return _Block(keys, rows, ops.arange(self.size) < self._total - i * self.size)

    def _places_at(self, i: Tensor) -> Tensor:
        return ops.slice(self._places, (i * self.size,), (self.size,))

    def take(self, x: Tensor, i: Tensor) -> Tensor:
        """Return the values (size, ...) of (batch, time, ...) at the events of a block."""
        return _backend.take(_flat(x), self._places_at(i))

    def add_to_rows(self, per_row: Tensor, i: Tensor, x: Tensor) -> Tensor:
        """Add the values (size, ...) of the events of a block to those of their rows."""
        return _backend.add_at(
            per_row, self._places_at(i) // self._time, ops.cast(x, per_row.dtype)
        )

    def padded(self, written: Tensor) -> Tensor:
        """Return what the blocks wrote, (events, ...), as (batch, time, ...)."""
        x = _backend.take(written, ops.maximum(self._order, 0))
        return select(self._valid, ops.reshape(x, (*ops.shape(self._valid), *ops.shape(x)[1:])))


class _Loops:
    """The loops over blocks of events that find the scores, and those that find the gradients."""

    def __init__(
        self, unit: LocalActivationUnit, columns: Sequence[tuple[str, int]], training: bool | None
    ) -> None:
        self._unit, self._columns, self._training = unit, columns, training
        self.dices = unit.dices(training)

    def forward(self, valid: Tensor, keys: Tensor, rows: Tensor, *state: Tensor) -> Any:
        """Return the scores and the statistics of each Dice; and what `backward` needs."""
        blocks = _Blocks(keys, valid, rows)
        count: Tensor = ops.zeros((), _wide(keys))
        statistics: list[Tensor] = []
        for dice in self.dices:
            zeros = ops.zeros(dice.alpha.shape, _wide(keys))
            count, mean, variance = self._moments(blocks, state, statistics, zeros)
            statistics += [mean, variance]

        def body(i: Tensor, carry: Any) -> Any:
            return carry, self._run(blocks.at(i), state, statistics)[0]

        _, written = _backend.loop(blocks, body, (), ops.shape(rows)[1], keys.dtype)
        saved = valid, keys, rows, state, count, statistics
        return (blocks.padded(written), count, *statistics), saved

    def _moments(
        self, blocks: _Blocks, state: Sequence[Tensor], statistics: Sequence[Tensor], zeros: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return count, mean and variance of the inputs of the first Dice without statistics."""

        def body(i: Tensor, carry: Any) -> Any:
            count, mean, squares = carry
            block = blocks.at(i)
            _, (*_, x) = self._run(block, state, statistics)
            x, counted = ops.cast(x, mean.dtype), self._counted(block)
            more = ops.sum(ops.cast(counted, mean.dtype))
            own = ops.sum(select(counted, x), axis=0) / ops.maximum(more, 1)
            # Means and squares of two sets, as in Chan's algorithm: no large sums are subtracted.
            change, share = own - mean, more / ops.maximum(count + more, 1)
            squares += ops.sum(select(counted, ops.square(x - own)), axis=0)
            return (
                count + more,
                mean + share * change,
                squares + ops.square(change) * share * count,
            ), None

        start = ops.zeros((), zeros.dtype), zeros, zeros
        (count, mean, squares), _ = _backend.loop(blocks, body, start)
        return count, mean, squares / ops.maximum(count, 1)

    def backward(self, saved: Any, gradients: Sequence[Tensor]) -> Any:
        """Return the gradients of the inputs of `forward`."""
        valid, keys, rows, state, count, statistics = saved
        blocks, of_scores = _Blocks(keys, valid, rows), gradients[0]
        of_statistics: list[Tensor] = [None] * len(statistics)

        def of_input(n: int, x: Tensor, counted: Tensor) -> Tensor:
            """Return what its mean and its variance add to the gradient of a Dice's input."""
            (mean, _), (of_mean, of_variance) = (x[n : n + 2] for x in (statistics, of_statistics))
            gradient = of_mean + 2 * of_variance * (ops.cast(x, mean.dtype) - mean)
            return ops.cast(select(counted, gradient / ops.maximum(count, 1)), x.dtype)

        def pull(i: Tensor, block: _Block, first: int, run: Callable[..., Any], inputs: Any) -> Any:
            """Pull the gradients of a block's scores, and of the inputs of Dice, back to `inputs`.

            Of the inputs of each Dice but those before the first.
            """

            def results(*inputs: Tensor) -> list[Tensor]:
                scores, seen = run(*inputs)
                return [scores, *seen[first:]]

            def gradients(scores: Tensor, *seen: Tensor) -> list[Tensor]:
                counted = self._counted(block)
                of_seen = [of_input(2 * n, x, counted) for n, x in enumerate(seen, first)]
                return [select(block.real, blocks.take(of_scores, i)), *of_seen]

            return _backend.pull_back(results, inputs, gradients)

        def of_pair(n: int) -> list[Tensor]:
            """Return the gradients of the mean and the variance of one Dice."""
            pair = slice(2 * n, 2 * n + 2)

            def body(i: Tensor, total: Any) -> Any:
                block = blocks.at(i)

                def run(*values: Tensor) -> Any:
                    given = [*statistics[: pair.start], *values, *statistics[pair.stop :]]
                    return self._run(block, state, given)

                more = pull(i, block, n + 1, run, statistics[pair])
                return [x + y for x, y in zip(total, more, strict=True)], None

            found, _ = _backend.loop(blocks, body, [ops.zeros_like(x) for x in statistics[pair]])
            return list(found)

        def of_all(i: Tensor, totals: Any) -> Any:
            block = blocks.at(i)

            def run(keys: Tensor, rows: Tensor, *state: Tensor) -> Any:
                return self._run(_Block(keys, rows, block.real), state, statistics)

            of_keys, of_rows, *more = pull(i, block, 0, run, [block.keys, block.rows, *state])
            of_rows = blocks.add_to_rows(totals[0], i, of_rows)
            return [of_rows, *(x + y for x, y in zip(totals[1:], more, strict=True))], of_keys

        # The last one first: the mean and variance of a Dice act on the inputs of those behind it.
        for n in reversed(range(len(self.dices))):
            of_statistics[2 * n : 2 * n + 2] = of_pair(n)
        start = [ops.zeros_like(rows, _wide(rows)), *map(ops.zeros_like, state)]
        width, dtype = keys.shape[-1], keys.dtype
        (of_rows, *of_state), of_keys = _backend.loop(blocks, of_all, start, width, dtype)
        return None, blocks.padded(of_keys), ops.cast(of_rows, rows.dtype), *of_state

    def _run(self, block: _Block, state: Sequence[Tensor], statistics: Sequence[Tensor]) -> Any:
        with keras.StatelessScope(zip(self._unit.variables, state, strict=True)):
            return self._unit.run(
                block.keys, block.real, self._of_rows(block), self._training, statistics
            )

    def _counted(self, block: _Block) -> Tensor:
        """Tell which pairs of event and query, as a column, the statistics of Dice count."""
        of_rows = self._of_rows(block)
        pairs = ops.shape(of_rows["query"])[:-1]
        return ops.expand_dims(self._unit.counted(block.real, of_rows, pairs), -1)

    def _of_rows(self, block: _Block) -> dict[str, Tensor]:
        of_rows, start = {}, 0
        for name, width in self._columns:
            of_rows[name] = block.rows[..., start : start + width]
            start += width
        return of_rows


def _flat(x: Tensor) -> Tensor:
    return ops.reshape(x, (-1, *ops.shape(x)[2:]))


def _wide(x: Tensor) -> str:
    return wide_dtype(keras.backend.standardize_dtype(x.dtype))
