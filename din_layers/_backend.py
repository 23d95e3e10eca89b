"""What differs between Keras's backends, and what only TensorFlow has.

Ragged tensors and strings need TensorFlow. Every backend is imported where it is used: the package
works without the others.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import keras
from keras import ops

from din_layers._checks import message

Tensor = Any
Way = Callable[..., Tensor]

_BLOCK = 2048  # events that are computed at a time on a processor
_SMALL = 8192  # numbers up to which a call costs more than what it computes


def backend() -> str:
    """Return the name of Keras's backend."""
    return str(keras.backend.backend())


def tensorflow() -> Any:
    """Import TensorFlow."""
    import tensorflow as tf

    return tf


def is_ragged(x: Tensor) -> bool:
    """Tell whether `x` is a `tf.RaggedTensor` or its symbolic counterpart."""
    return hasattr(x, "row_splits") or bool(getattr(x, "ragged", False))


def is_text(x: Tensor) -> bool:
    """Tell whether `x` is a tensor, or an array, of strings."""
    dtype = getattr(x, "dtype", None)
    return getattr(dtype, "kind", "") in ("U", "S", "O") or "string" in str(dtype)


def check_kinds(*tensors: Any) -> None:
    """Refuse ragged tensors and strings where the backend has none, and say what to do."""
    if backend() == "tensorflow":
        return
    for x in tensors:
        if is_ragged(x) or is_text(x):
            expected = (
                "must be dense numbers: ragged tensors and strings need the TensorFlow backend. "
                "Pad them and pass ids or lengths"
            )
            kind = "strings" if is_text(x) else "ragged"
            received = {"backend": backend(), "inputs_dtype": x.dtype, "kind": kind}
            raise ValueError(message("inputs", expected, **received))


def same_sizes(name: str, x: Tensor, sequence: Tensor, axes: int) -> Tensor:
    """Return dense `x`, whose first axes, 1 or 2, must be as long as those of a sequence.

    Where sizes are known they have been checked. A graph of TensorFlow may know them only when it
    runs; without this it would stretch an axis of 1 to any length.
    """
    if backend() != "tensorflow" or None not in (*x.shape[:axes], *sequence.shape[:axes]):
        return x
    tf = tensorflow()
    sizes = [sequence.nrows("int32")] if is_ragged(sequence) else tf.shape(sequence)[:axes]
    error = f"`{name}` must have the {('batch', 'batch and time')[axes - 1]} of the sequence."
    return _if_equal(x, tf.shape(x)[:axes], sizes, error)


def _if_equal(x: Tensor, sizes: Tensor, expected: Any, error: str) -> Tensor:
    """Return `x`; other sizes than expected are an error when TensorFlow's graph runs."""
    tf = tensorflow()
    with tf.control_dependencies([tf.debugging.assert_equal(sizes, expected, error)]):
        return tf.identity(x)


def known_size(x: Tensor, axis: int) -> int | None:
    """Return the size of an axis, None where it may be another one when a graph runs.

    Where Keras asks for shapes alone, JAX has symbols for such sizes and PyTorch has made-up ones.
    """
    size = x.shape[axis]
    made_up = backend() == "torch" and getattr(getattr(x, "device", None), "type", "") == "meta"
    return size if isinstance(size, int) and not made_up else None


def single(name: str, x: Tensor) -> Tensor:
    """Return `x`, whose second axis must be 1; a graph of TensorFlow may see it when it runs."""
    if backend() != "tensorflow" or x.shape[1] is not None:
        return x
    error = f"`{name}` must have shape (batch, 1, dim)."
    return _if_equal(x, tensorflow().shape(x)[1], 1, error)


def largest_seed() -> int:
    """Return the largest seed that Keras's `SeedGenerator` takes."""
    return {"tensorflow": 2**63, "jax": 2**32}.get(backend(), 2**31) - 1


def mean_of_replicas(x: Tensor, axes: list[int], synchronized: bool) -> Tensor:
    """Average over some axes, which are kept; if `synchronized`, over all replicas together."""
    if synchronized and backend() == "tensorflow":
        return ops.moments(x, axes, keepdims=True, synchronized=True)[0]
    if synchronized and processes() > 1:
        return _mean_of_processes(x, axes)
    # On JAX a batch is one array wherever its parts are: every mean is over all replicas.
    return ops.mean(x, axis=axes, keepdims=True)


def processes() -> int:
    """Return how many processes of PyTorch train together, each on a part of the batch."""
    if backend() != "torch":
        return 1
    import torch.distributed as dist

    started = dist.is_available() and dist.is_initialized()
    return int(dist.get_world_size()) if started else 1


def _mean_of_processes(x: Tensor, axes: list[int]) -> Tensor:
    """Average over the parts that the processes have, of any sizes; a part may be empty."""
    import torch

    total = x.sum(axes, keepdim=True)
    size = math.prod(x.shape[axis] for axis in axes)
    # One message for both. Every process sends it, also for a part that is empty.
    sums = _sum_of_processes(torch.nn.functional.pad(total.reshape(-1), (0, 1), value=size))
    return (sums[:-1] / sums[-1]).reshape(total.shape)


def _sum_of_processes(x: Tensor) -> Tensor:
    """Add up the `x` of all processes; of its gradients, too, the sum is taken."""
    # Where Keras asks for shapes alone, there is nothing to add.
    return x if x.device.type == "meta" else _torch_sum()(x)


@cache
def _torch_sum() -> Way:
    import torch

    class Sum(torch.autograd.Function):  # torch's own is deprecated, its heir private
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            x = x.clone()
            torch.distributed.all_reduce(x)
            return x

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return Sum.apply(gradient)

    return Sum.apply  # type: ignore[no-any-return]


def gather_processes(x: Tensor) -> Tensor:
    """Return the values (n,) of all processes of PyTorch, in the same order on each."""
    if (count := processes()) == 1:
        return x
    import torch

    own = torch.distributed.get_rank()
    sizes = torch.zeros(count, dtype=torch.int64, device=x.device)
    sizes[own] = len(x)
    all_sizes = _sum_of_processes(sizes).tolist()
    # The parts beside each other, as a sum that has gradients: each fills its place in zeros.
    room = sum(all_sizes[:own]), sum(all_sizes[own + 1 :])
    return _sum_of_processes(torch.nn.functional.pad(x, room))


def has_dice(x: Tensor) -> bool:
    """Tell whether the backend computes Dice in training by hand: PyTorch, eagerly."""
    return backend() == "torch" and shapes_may_depend_on_data(x)


def dice(x: Tensor, alpha: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return Dice of `x`, (rows, channels), by its own statistics; also means and variances."""
    result, mean, scale, _ = _torch_dice()(x, alpha, epsilon)
    return result, mean, (scale.pow(-2) - epsilon).clamp(min=0)


@cache
def _torch_dice() -> Way:
    """Return Dice with a backward pass that keeps and computes less than a recorded one."""
    import torch

    def parts(x: Tensor, epsilon: float) -> tuple[Tensor, ...]:
        mean = x.detach().mean(0)
        # The operation multiplies before it subtracts the mean: around 0 that loses no digits.
        normalized, rest, scale = torch.native_batch_norm(
            x - mean, None, None, None, None, training=True, momentum=0.0, eps=epsilon
        )
        return normalized.sigmoid_(), mean + rest, scale

    def plain(x: Tensor, alpha: Tensor, epsilon: float) -> Tensor:
        gate, *_ = parts(x, epsilon)
        return x * (alpha + gate * (1 - alpha))

    class Dice(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor, alpha: Tensor, epsilon: float) -> tuple[Tensor, ...]:
            gate, mean, scale = parts(x, epsilon)
            return torch.addcmul(alpha, gate, 1 - alpha).mul_(x), mean, scale, gate

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
            x, alpha, ctx.epsilon = inputs
            ctx.mark_non_differentiable(*output[1:])
            ctx.save_for_backward(x, alpha, *output[1:])
            ctx.save_for_forward(x, alpha, *output[1:])

        @staticmethod
        def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:
            x, alpha, mean, scale, gate = ctx.saved_tensors
            if torch.is_grad_enabled():  # for second derivatives
                _, pull = torch.func.vjp(partial(plain, epsilon=ctx.epsilon), x, alpha)
                return *pull(gradient), None
            # In place where that can be: a fresh page costs more than what is computed for it.
            of_gate = gradient * x
            product = of_gate * gate
            of_alpha = of_gate.sum(0) - product.sum(0)
            of_normalized = product.addcmul_(product, gate, value=-1).mul_(1 - alpha)
            of_x, *_ = torch.ops.aten.native_batch_norm_backward(
                of_normalized, x, None, None, None, mean, scale, True, 0.0, [True, False, False]
            )
            slope = of_gate.copy_(gate).mul_(1 - alpha).add_(alpha)
            return of_x.addcmul_(gradient, slope), of_alpha, None

        @staticmethod
        def jvp(
            ctx: Any, of_x: Tensor, of_alpha: Tensor, _: None
        ) -> tuple[Tensor, None, None, None]:
            x, alpha, mean, scale, gate = ctx.saved_tensors
            normalized = (x - mean) * scale
            change = of_x - of_x.mean(0) - normalized * (normalized * of_x).mean(0)
            of_gate = gate * (1 - gate) * scale * change
            slope = alpha + gate * (1 - alpha)
            moved = of_x * slope + x * (of_gate * (1 - alpha) + (1 - gate) * of_alpha)
            return moved, None, None, None

    return Dice.apply  # type: ignore[no-any-return]


def map_valid(function: Callable[[Tensor], Tensor], x: Tensor, valid: Tensor) -> Tensor:
    """Apply a function to the valid positions of `x` alone, on PyTorch; invalid ones give 0."""
    if valid is None:
        return function(x)
    rows = x.reshape(-1, *x.shape[valid.ndim :])
    index = valid.reshape(-1).nonzero()[:, 0]
    result = function(rows.index_select(0, index))
    return result.new_zeros(rows.shape).index_copy(0, index, result).reshape(x.shape)


def replica() -> Any:
    """Return TensorFlow's view of the replica that calls, None if it is the only one."""
    if backend() != "tensorflow":
        return None
    context = tensorflow().distribute.get_replica_context()
    return None if context is None or context.num_replicas_in_sync == 1 else context


def gather_replicas(x: Tensor) -> Tensor:
    """Return the rows of `x` of all replicas, in the same order on each.

    On JAX there is nothing to gather: a batch is one array wherever its parts are.
    """
    context = replica()
    return x if context is None else context.all_gather(x, axis=0)


def largest_of_time(x: Tensor) -> Tensor:
    """Return the largest values over axis 1, 0 or less where that is empty."""
    if backend() == "tensorflow":  # where the largest of nothing is -inf
        return tensorflow().reduce_max(x, axis=1)
    # With `initial`, PyTorch could not be traced, nor JAX exported to ONNX.
    return ops.sum(x, axis=1) if 0 in x.shape else ops.max(x, axis=1)


# Keras computes the next ones in float32 on PyTorch, whatever the dtype.


def maximum(x: Tensor, y: Tensor) -> Tensor:
    """Return the larger of each two values."""
    return x.maximum(y) if backend() == "torch" else ops.maximum(x, y)


def matmul(x: Tensor, y: Tensor) -> Tensor:
    """Multiply matrices."""
    return x.matmul(y) if backend() == "torch" else ops.matmul(x, y)


def project(x: Tensor, kernel: Tensor) -> Tensor:
    """Multiply (..., dim) by a matrix (dim, units)."""
    if backend() != "tensorflow":
        return ops.matmul(x, kernel)
    # One product of matrices, as Keras's is in the end, by fewer operations.
    rows = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel)
    sizes = x.shape[:-1] if None not in x.shape else ops.shape(x)[:-1]
    return ops.reshape(rows, (*sizes, kernel.shape[-1]))


def scaled_kernels(query: Tensor, kernel: Tensor) -> Tensor:
    """Scale the rows of a kernel (dim, units) by each query: (batch, dim, queries, units)."""
    if backend() == "jax":  # whose gradients are then products, four times as fast as sums there
        return ops.einsum("bqh,hu->bhqu", query, kernel)
    return ops.expand_dims(ops.transpose(query, (0, 2, 1)), -1) * kernel[:, None, :]


def where(valid: Tensor, x: Tensor, fill: float) -> Tensor:
    """Take `x` where `valid` is True, and the number `fill` elsewhere."""
    # Not Keras's: it would look for the dtype of the result, which is that of `x`.
    if backend() == "tensorflow":
        return tensorflow().where(valid, x, fill)
    if backend() == "jax":
        return ops.where(valid, x, ops.convert_to_tensor(fill, x.dtype))
    import torch

    plain = not x.is_floating_point() or x.device.type != "cpu" or not shapes_may_depend_on_data(x)
    if plain or x.numel() < _SMALL:
        return torch.where(valid, x, fill)
    return _torch_select()(x, valid, torch.tensor(fill, dtype=x.dtype))


@cache
def _torch_select() -> Way:
    """Return `torch.where` by the bits, which on a processor takes a fifth of its time."""
    import torch

    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}

    class Select(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor, valid: Tensor, fill: Tensor) -> Tensor:
            integer = integers[x.element_size()]
            kept = -valid.to(integer)  # all bits, or none
            bits = x.view(integer) & kept
            return (bits if not fill else bits | (fill.view(integer) & ~kept)).view(x.dtype)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ctx.save_for_backward(inputs[1], torch.zeros_like(inputs[2]))
            ctx.save_for_forward(inputs[1], torch.zeros_like(inputs[2]))

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
            return Select.apply(gradient, *ctx.saved_tensors), None, None

        @staticmethod
        def jvp(ctx: Any, tangent: Tensor, *others: None) -> Tensor:
            return Select.apply(tangent, *ctx.saved_tensors)

    return Select.apply  # type: ignore[no-any-return]


def divide_no_nan(x: Tensor, y: Tensor) -> Tensor:
    """Divide; over 0 the result is 0, and so are the gradients."""
    if backend() != "torch":
        return ops.divide_no_nan(x, y)
    return (x / y.masked_fill(y == 0, 1)).masked_fill(y == 0, 0)


def row_ids(ragged: Any) -> Tensor:
    """Return the row of each value of a ragged tensor, as `value_rowids` does.

    `value_rowids` pads on its way: one long history among short ones would cost as much as if all
    were long.
    """
    tf = tensorflow()
    starts = ragged.row_splits[1:-1]  # where each row but the first starts
    # Empty rows at the end start after the last value.
    values = ragged.row_splits[-1]
    started = tf.math.unsorted_segment_sum(tf.ones_like(starts), starts, values + 1)
    return tf.cumsum(started)[:-1]


def values_in_rows_of(sequence: Any, x: Any) -> Tensor:
    """Return the values of a ragged tensor that must have the rows of `sequence`."""
    if x.row_splits is sequence.row_splits:
        return x.values
    # Eagerly `check_ragged` has compared them; in a graph the lengths are known only here.
    tf = tensorflow()
    splits, expected = (tf.cast(ragged.row_splits, "int64") for ragged in (x, sequence))
    error = "A ragged input must have the same row lengths as the sequence."
    return _if_equal(x.values, splits, expected, error)


def shapes_may_depend_on_data(x: Tensor) -> bool:
    """Tell whether operations on `x` may have results whose shapes depend on its values.

    Not on JAX, which compiles anew for every shape, nor under XLA. PyTorch must see the values: not
    in `torch.compile`, nor in an export, nor where Keras asks it for shapes alone.
    """
    if backend() == "torch":
        import torch

        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return bool(x.device.type != "meta" and not traced)
    return backend() == "tensorflow" and not under_xla()


def is_eager() -> bool:
    """Tell whether values are known, where their shapes may depend on data."""
    return backend() == "torch" or tensorflow().executing_eagerly() is True


def can_loop(x: Tensor) -> bool:
    """Tell whether a loop over blocks of `x` can be compiled."""
    if backend() == "jax":
        import jax

        known = all(isinstance(size, int) for size in x.shape)  # not all where JAX exports
        # Eager code would compile the loop anew each time.
        return known and isinstance(x, jax.core.Tracer) and not _is_spread(x)
    return backend() == "tensorflow"


def _is_spread(x: Tensor) -> bool:
    """Tell whether `x` has parts on several devices of JAX, which a loop over all would gather."""
    import jax

    kind = jax.typeof(x)  # says it within `shard_map`, and on a mesh of explicit axes
    explicit = any(getattr(kind.sharding, "spec", ()))
    # Another name in newer versions.
    mapped = getattr(kind, "vma", None) or getattr(
        getattr(kind, "manual_axis_type", None), "varying", ()
    )
    return keras.distribution.distribution() is not None or explicit or bool(mapped)


def under_xla() -> bool:
    """Tell whether TensorFlow traces a function that XLA will compile.

    Nothing public says so, but what is made there tells: only for XLA a branch stays as it is.
    """
    tf = tensorflow()
    if tf.executing_eagerly():
        return False
    branch = tf.cond(tf.equal(tf.size([0]), 0), lambda: 0, lambda: 1).op.inputs[0].op
    try:
        return not branch.get_attr("_lower_using_switch_merge")
    except ValueError:
        return True


# Valid events among the positions of a padded batch -------------------------------------------


def places_of(valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of the valid events among all positions, and their rows, in order."""
    if backend() == "tensorflow":
        tf = tensorflow()
        found = tf.cast(tf.where(valid), "int32")
        return found[:, 0] * tf.shape(valid)[1] + found[:, 1], found[:, 0]
    places = valid.reshape(-1).nonzero()[:, 0]
    return places, places // valid.shape[1]


def take(x: Tensor, places: Tensor) -> Tensor:
    """Return the rows of `x` at some places, all of which there are."""
    if backend() == "tensorflow":
        return tensorflow().gather(x, places)
    if backend() == "jax":
        return x.at[places].get(mode="promise_in_bounds")
    return x.index_select(0, places)


def put(x: Tensor, places: Tensor, size: Any) -> Tensor:
    """Return so many zeros with the values `x` at some places."""
    if backend() == "tensorflow":
        tf = tensorflow()
        sizes = tf.concat([[size], tf.shape(x)[1:]], 0)
        if not {None, 0} & set(x.shape[1:]):
            return tf.scatter_nd(places[:, None], x, sizes)
        # There may be no candidates. `scatter_nd` fails then: one more, which is taken off again.
        wide = tf.pad(x, [[0, 0], *[[0, 1]] * (len(x.shape) - 1)])
        more = tf.concat([[size], tf.shape(wide)[1:]], 0)
        return tf.slice(tf.scatter_nd(places[:, None], wide, more), [0] * len(x.shape), sizes)
    return x.new_zeros((size, *x.shape[1:])).index_copy(0, places, x)


def in_pieces(function: Way) -> Way:
    """Let a function see some thousand rows of its inputs at a time: faster without gradients."""
    if backend() != "torch":
        return function
    import torch

    def run(*inputs: Tensor) -> Tensor:
        if torch.is_grad_enabled() or len(inputs[0]) <= (size := block_size(2**31)):
            return function(*inputs)
        return torch.cat(
            [function(*pieces) for pieces in zip(*(x.split(size) for x in inputs), strict=True)]
        )

    return run


def block_size(positions: Any) -> int:
    """Return how many events are computed at a time; on an accelerator each turn asks the host."""
    size = 8 * _BLOCK if on_accelerator() else _BLOCK
    return min(size, positions) if isinstance(positions, int) else size


@cache
def on_accelerator() -> bool:
    """Tell whether the backend computes on something else than processors."""
    if backend() == "jax":
        import jax

        return str(jax.default_backend()) != "cpu"
    if backend() == "torch":
        import torch

        return bool(torch.cuda.is_available())
    devices = tensorflow().config.list_logical_devices()
    return any(device.device_type != "CPU" for device in devices)


def loop(blocks: Any, body: Way, carry: Any, width: Any = None, dtype: Any = None) -> Any:
    """Go over blocks where their number is known only at run time, under XLA.

    Args:
        blocks: Has `size`, `count` and `most`.
        body: From the number of a block and what is carried to what is carried on, and what is
            written for each of its events, (size, width) or None.
        carry: What is carried first.
        width: The size of what is written; None: nothing is.
        dtype: Its dtype.

    Returns:
        What was carried last, and what was written, (events, width).
    """
    run = _tensorflow_loop if backend() == "tensorflow" else _jax_loop
    return run(blocks, body, carry, width, dtype)


def _jax_loop(blocks: Any, body: Way, carry: Any, width: Any, dtype: Any) -> Any:
    import jax

    def step(state: Any) -> Any:
        i, carry, written = state
        carry, more = body(i, carry)
        if width is not None:
            written = jax.lax.dynamic_update_slice(written, more, (i * blocks.size, 0))
        return i + 1, carry, written

    written = None if width is None else ops.zeros((blocks.most * blocks.size, width), dtype)
    state = (0, carry, written)
    _, carry, written = jax.lax.while_loop(lambda state: state[0] < blocks.count, step, state)
    return carry, written


def _tensorflow_loop(blocks: Any, body: Way, carry: Any, width: Any, dtype: Any) -> Any:
    tf = tensorflow()
    # An array, since a loop may not write to a tensor in place.
    written = tf.TensorArray(
        dtype or "float32", blocks.most, element_shape=(blocks.size, width or 1)
    )

    def step(i: Tensor, carry: Any, written: Any) -> Any:
        carry, more = body(i, carry)
        return i + 1, carry, written if width is None else written.write(i, more)

    state = (0, carry, written)
    _, carry, written = tf.while_loop(lambda i, *_: i < blocks.count, step, state)
    return carry, None if width is None else tf.reshape(written.stack(), (-1, width))


def add_at(x: Tensor, rows: Tensor, more: Tensor) -> Tensor:
    """Add to some rows of `x`, some of them several times."""
    if backend() == "tensorflow":
        return tensorflow().tensor_scatter_nd_add(x, rows[:, None], more)
    return x.at[rows].add(more)


def custom_gradient(forward: Way, backward: Way) -> Way:
    """Return a function of tensors with a gradient of its own.

    Args:
        forward: Returns the results and what `backward` needs.
        backward: From that and the gradients of the results to those of the inputs.
    """
    if backend() == "jax":
        import jax

        function = jax.custom_vjp(lambda *inputs: forward(*inputs)[0])
        function.defvjp(forward, backward)
        return function  # type: ignore[no-any-return]

    def run(*inputs: Tensor) -> Any:
        results, saved = forward(*inputs)
        return results, lambda *gradients: backward(saved, gradients)

    return tensorflow().custom_gradient(run)  # type: ignore[no-any-return]


def pull_back(function: Way, inputs: Sequence[Tensor], gradients: Way) -> list[Tensor]:
    """Return the gradients of the inputs of a function, given those of its results.

    Args:
        function: Returns a list of tensors.
        inputs: Its inputs.
        gradients: From the results to their gradients.
    """
    if backend() == "jax":
        import jax

        results, pull = jax.vjp(function, *inputs)
        return list(pull(gradients(*results)))
    tf = tensorflow()
    with tf.GradientTape() as tape:
        tape.watch(list(inputs))
        results = function(*inputs)
    return list(tape.gradient(results, list(inputs), gradients(*results), "zero"))


def segment_sum(x: Tensor, rows: Tensor, batch: Tensor) -> Tensor:
    """Sum the values of each of `batch` rows; `rows`, the row of each value, are in order."""
    if backend() == "tensorflow":
        return _with_last_rows(tensorflow().math.segment_sum(x, rows), batch)
    # Keras sums in float32 on PyTorch.
    return x.new_zeros((batch, *x.shape[1:])).index_add(0, rows, x)


def segment_max(x: Tensor, rows: Tensor, batch: Tensor) -> Tensor:
    """Return the largest values of each row, 0 or less for a row without values."""
    if backend() == "tensorflow":
        return _with_last_rows(tensorflow().math.segment_max(x, rows), batch)
    index = rows.reshape(-1, *[1] * (x.ndim - 1)).expand_as(x)
    zeros = x.new_zeros((batch, *x.shape[1:]))
    return zeros.scatter_reduce(0, index, x, "amax", include_self=False)


def _with_last_rows(per_row: Tensor, batch: Tensor) -> Tensor:
    """Append the rows after the last value, which the segment operations leave out.

    They rely on the order of the rows, and are faster for it than those that take any order.
    """
    tf = tensorflow()
    missing = tf.cast(batch, "int32") - tf.shape(per_row)[0]
    return tf.pad(per_row, [[0, missing], *[[0, 0]] * (len(per_row.shape) - 1)])


def gather_rows(per_row: Tensor, rows: Tensor, batch: Tensor) -> Tensor:
    """Give every value what its row has."""
    if backend() != "tensorflow":
        return ops.take(per_row, rows, axis=0)
    tf = tensorflow()

    @tf.custom_gradient
    def gather(x: Tensor) -> Any:
        # TensorFlow's own gradient of a gather does not know that the rows are in order.
        return tf.gather(x, rows), lambda gradient: segment_sum(gradient, rows, batch)

    return gather(per_row)
