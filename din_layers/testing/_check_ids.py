"""`check_ids`: the invariants for a whole model that starts from padded integer ids."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st
from keras import ops

from din_layers._checks import check_bool, check_integer, message
from din_layers.testing import _gradients
from din_layers.testing._invariants import DEFAULT_INVARIANTS
from din_layers.testing._search import chosen, search
from din_layers.testing._strategies import Array, Draw, Sizes, ids, tenths, values
from din_layers.testing._subject import Batch, Gradients, Subject, as_code

#: What is asked of ids unless invariants are named: they have no extreme values.
IDS_DEFAULT = (*(x for x in DEFAULT_INVARIANTS if x != "extreme_values"), "loss_skips_padding")
#: What can be asked of ids: a model has its spec.
IDS_INVARIANTS = (*IDS_DEFAULT, "permutation_invariance")


def check_ids(
    model: keras.Model,
    *,
    history: Sequence[str] | None = None,
    output: str | None = None,
    vocabulary: Mapping[str, int] | None = None,
    padding: str = "right",
    invariants: Sequence[str] | None = None,
    empty: str = "finite",
    training: bool = False,
    tolerance: float | None = None,
    max_examples: int = 20,
    seed: int = 0,
) -> None:
    """Look for histories of ids on which a model breaks an invariant of masking.

    A position is invalid if its id is 0, as in `Embedding(mask_zero=True)`. All inputs of the
    history share one mask. If events have tags, (batch, time, tags), some tags may be 0 too.

    For `padding_is_inert`, the check overwrites row 0 of the history's embeddings for a while, also
    with NaN: in a correct model it never reaches the output. The check compares gradients for
    finite rows only, because NaN reaches the gradients of Keras's RNNs. `loss_skips_padding` tests
    whether the mask of an output with the time axis, such as one of candidates, reaches a loss.

    Args:
        model: A functional or sequential model, such as `keras.models.load_model` returns. Its
            weights are the same afterwards.
        history: The names of the inputs with a time axis. By default those that feed an
            `Embedding(mask_zero=True)` and have more than one position, and those of the same
            number of positions.
        output: The name of the output to check, if there are several.
        vocabulary: The number of ids, by name of the input, for integer inputs that do not go
            straight into an `Embedding`.
        padding: Where invalid positions may stand: `"right"`, `"left"` or `"any"`.
        invariants: The names to check, of `loss_skips_padding` and `INVARIANTS` except
            `extreme_values` and `dtype_and_shape`. By default all except `permutation_invariance`,
            and without `padding_invariance` if a fixed number of positions leaves nothing to vary.
        empty: As in `check_masking`.
        training: How to call the model. `True` finds padding that enters the statistics of a
            batch, as in `Dense(activation=Dice())`. Such statistics break `batch_independence`,
            which is then checked only if you name it.
        tolerance: As in `check_masking`.
        max_examples: How many batches to draw for each invariant.
        seed: The same seed draws the same batches.

    Raises:
        MaskingError: An invariant does not hold; see `check_masking`.
        TypeError: The model has no inputs that can be drawn: it is a subclass without a graph,
            or takes strings.
        ValueError: No input is a history, its embeddings are quantized, or an argument is out of
            range.

    Example:
        >>> model = keras.Sequential([
        ...     keras.Input((None,), dtype="int32"),
        ...     keras.layers.Embedding(10, 4, mask_zero=True),
        ...     din_layers.SequencePoolingLayer("mean"),
        ... ])
        >>> testing.check_ids(model)
    """
    __tracebackhide__ = True
    check_bool("training", training)
    default = [x for x in IDS_DEFAULT if not (training and x == "batch_independence")]
    subject = ModelOnIds(model, history, output, vocabulary or {}, padding, tolerance, empty)
    before = model.get_weights()  # only now: a layer inside another may be built by its first call
    try:
        if training:
            subject.training = True
            subject.learn_output("model")
        for name in chosen(invariants, default, IDS_INVARIANTS, subject):
            search(subject, name, max_examples, seed)
    finally:
        model.set_weights(before)  # training moves statistics


@dataclass(frozen=True)
class ModelInput:
    """An input of a model, and the layers that it goes straight into."""

    name: str
    shape: tuple[int | None, ...]  # with the batch
    dtype: str
    embeddings: tuple[keras.layers.Embedding, ...]

    @property
    def is_float(self) -> bool:
        """Whether it takes no ids."""
        return self.dtype.startswith("float")

    @property
    def mask_zero(self) -> bool:
        """Whether an id of 0 is padding."""
        return any(embedding.mask_zero for embedding in self.embeddings)

    @property
    def has_time(self) -> bool:
        """Whether its second axis can be that of a history."""
        return len(self.shape) > 1 and self.shape[1] != 1


def inputs_of(model: Any) -> list[ModelInput]:
    """Return the inputs of a functional or sequential model."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        expected = "must be a functional or sequential Keras model with inputs"
        raise TypeError(message("model", expected, model=model))
    return [
        ModelInput(
            x.name,
            tuple(x.shape),
            x.dtype,
            tuple(layer for layer in consumers if isinstance(layer, keras.layers.Embedding)),
        )
        for x, consumers in zip(model.inputs, _consumers(model), strict=True)
    ]


def _consumers(model: keras.Model) -> list[list[keras.Layer | None]]:
    """Return, for each input, the layers that are called on it."""
    if isinstance(model, keras.Sequential):
        return [list(model.layers[:1])]
    layers = {layer.name: layer for layer in model.layers}  # the graph has plain operations too
    with _configs(model.layers):
        config = model.get_config()
    consumers: dict[str, list[keras.Layer | None]] = {}
    for operation in config["layers"]:
        for source in _histories_in(operation["inbound_nodes"]):
            consumers.setdefault(source, []).append(layers.get(operation["name"]))
    # Triples: the name of the input's layer, which is not that of the input, and two numbers.
    names = keras.tree.flatten(config["input_layers"])[::3]
    return [consumers.get(name, []) for name in names]


@contextmanager
def _configs(layers: Sequence[keras.Layer]) -> Iterator[None]:
    """Give layers without a config an empty one for a while: only the graph is of interest."""
    without = []
    for layer in layers:
        try:
            layer.get_config()
        except NotImplementedError:
            layer.get_config = dict
            without.append(layer)
    try:
        yield
    finally:
        for layer in without:
            del layer.get_config


def _histories_in(config: Any) -> Iterator[str]:
    """Yield the names of the layers whose outputs a serialized call takes."""
    if isinstance(config, dict):
        if config.get("class_name") == "__keras_tensor__":
            yield config["config"]["keras_history"][0]
        else:
            yield from _histories_in(list(config.values()))
    elif isinstance(config, list | tuple):
        for part in config:
            yield from _histories_in(part)


def _find_history(inputs: Sequence[ModelInput], names: Sequence[str] | None) -> list[ModelInput]:
    """Return the inputs with the time axis of the history."""
    if texts := {x.name: x.dtype for x in inputs if not (x.is_float or "int" in x.dtype)}:
        expected = "must take ids or floats; check what follows the lookup of strings"
        raise TypeError(message("model", expected, inputs_dtype=texts))
    if names is not None:
        known = [x.name for x in inputs]
        if isinstance(names, str):
            raise TypeError(message("history", "must be a list of names", history=names))
        if not names or [name for name in names if name not in known]:
            raise ValueError(message("history", f"must be among {known}", history=list(names)))
        return [x for x in inputs if x.name in names]
    times = {x.shape[1] for x in inputs if x.has_time and x.mask_zero}
    if len(times) != 1:
        why = "inputs of several lengths feed" if times else "no input with a time axis feeds"
        expected = f"must be named, since {why} an `Embedding(mask_zero=True)`"
        raise ValueError(message("history", expected, inputs={x.name: x.shape for x in inputs}))
    return [x for x in inputs if x.has_time and x.shape[1] in times]


class ModelOnIds(Subject):
    """A model of ids, with its inputs told apart."""

    # The row of an embedding is finite, but for a multiplication by the mask any finite one is 0.
    gradient_garbage = (100.0, -1e4, 1e6, 1.0, -1.0)
    garbage = (*gradient_garbage, np.nan)

    def __init__(
        self,
        model: Any,
        history: Sequence[str] | None,
        output: str | None,
        vocabulary: Mapping[str, int],
        padding: str,
        tolerance: float | None,
        empty: str = "finite",
    ) -> None:
        super().__init__(padding, empty, tolerance)
        inputs = inputs_of(model)
        self.model = model
        self.history = _find_history(inputs, history)
        self.others = [x for x in inputs if x not in self.history]
        self.vocabulary = {x.name: _vocabulary_of(x, vocabulary) for x in inputs}
        self.embeddings = list({id(e): e for x in self.history for e in x.embeddings}.values())
        if quantized := [e.name for e in self.embeddings if e.quantization_mode]:
            expected = "must have embeddings of floats: check it before `quantize`"
            raise ValueError(message("model", expected, quantized=quantized))
        self.training = False
        self.sizes = self._sizes()
        self.output = self._output_index(output)
        self.learn_output("model")

    def _sizes(self) -> Sizes:
        batches = {x.shape[0] for x in (*self.history, *self.others) if x.shape[0] is not None}
        times = {x.shape[1] for x in self.history if x.shape[1] is not None}
        if len(times) > 1:
            received = {x.name: x.shape for x in self.history}
            raise ValueError(message("history", "must have one length", history=received))
        batch = {f"{side}_batch": size for size in batches for side in ("min", "max")}
        time = {f"{side}_time": size for size in times for side in ("min", "max")}
        return Sizes(**batch, **time)

    def _output_index(self, output: str | None) -> int:
        sequential = isinstance(self.model, keras.Sequential)  # has one output, without a name
        names = ["output"] if sequential else list(self.model.output_names)
        if output is None and len(names) == 1:
            return 0
        if output not in names:
            raise ValueError(message("output", f"must be one of {names}", output=output))
        return names.index(output)

    def typical(self, shape: tuple[int, int]) -> Batch:
        def fixed(x: ModelInput, shape: tuple[int, ...]) -> Array:
            if x.is_float:
                return tenths(shape, seed=1).astype(x.dtype)
            return np.random.default_rng(1).integers(1, self.vocabulary[x.name], shape, x.dtype)

        return self._batch(np.ones(shape, bool), fixed)

    def draw(self, draw: Draw, mask: Array) -> Batch:
        def drawn(x: ModelInput, shape: tuple[int, ...]) -> Array:
            numbers = draw(values(shape) if x.is_float else ids(shape, self.vocabulary[x.name]))
            if x in self.history and len(shape) > 2 and x.mask_zero:
                # Tags, some of them padding; an event that is valid has one at least.
                rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
                fewer = numbers * rng.integers(0, 2, shape)
                numbers = np.where(fewer.any(-1, keepdims=True), fewer, numbers)
            return numbers.astype(x.dtype)

        return self._batch(mask, drawn)

    def _batch(self, mask: Array, make: Callable[[ModelInput, tuple[int, ...]], Array]) -> Batch:
        """Return a batch of what a function makes of each input and its shape."""
        return Batch(
            mask,
            {x.name: make(x, (*mask.shape, *_known(x.shape[2:]))) for x in self.history},
            {x.name: make(x, (len(mask), *_known(x.shape[1:]))) for x in self.others},
        )

    def _arrays(self, batch: Batch) -> dict[str, Array]:
        return {**{x.name: batch.filled(x.name) for x in self.history}, **batch.per_row}

    def call(self, batch: Batch) -> Any:
        with self._padding_embedding(batch.padding):
            return self._outputs(batch)

    def _outputs(self, batch: Batch, **tensors: Any) -> Any:
        given = {**self._arrays(batch), **tensors}
        sequential = isinstance(self.model, keras.Sequential)
        structure = self.model.inputs[0] if sequential else self.model.input
        inputs = keras.tree.map_structure(lambda x: ops.convert_to_tensor(given[x.name]), structure)
        return keras.tree.flatten(self.model(inputs, training=self.training))[self.output]

    def differentiate(self, batch: Batch) -> Gradients:
        floats = [x.name for x in self.history if x.is_float]
        variables = list(self.model.trainable_variables)
        with self._padding_embedding(batch.padding):
            output, of_inputs, of_weights = _gradients.differentiate(
                lambda *tensors: self._outputs(batch, **dict(zip(floats, tensors, strict=True))),
                [batch.filled(name) for name in floats],
                self.counted_outputs(batch),
                variables,
            )
        rows = []
        for table in (embedding.embeddings for embedding in self.embeddings):
            for place, variable in enumerate(variables):
                if variable is table:
                    rows.append(of_weights[place][0])
                    of_weights[place] = of_weights[place][1:]
        aligned = dict(zip(floats, of_inputs, strict=True))
        return Gradients(output, aligned, np.concatenate(rows) if rows else None, of_weights)

    @contextmanager
    def _padding_embedding(self, padding: float) -> Iterator[None]:
        """Put `padding` into the rows 0 of the history's embeddings for a while."""
        before = [embedding.get_weights() for embedding in self.embeddings]
        try:
            for embedding, weights in zip(self.embeddings, before, strict=True):
                table = weights[0].copy()
                table[0] = padding
                embedding.set_weights([table, *weights[1:]])
            yield
        finally:
            for embedding, weights in zip(self.embeddings, before, strict=True):
                embedding.set_weights(weights)

    def largest(self, batch: Batch) -> float:
        tables = [embedding.get_weights()[0] for embedding in self.embeddings]
        # What goes into an embedding has no size.
        numbers = [batch.per_row[x.name] for x in self.others if not x.embeddings]
        sizes = (float(np.max(np.abs(x), initial=0.0)) for x in (*tables, *numbers))
        return max(sizes, default=0.0)

    def snippet(self, batch: Batch, gradient: bool = False) -> str:
        inputs = [f"    {name!r}: {as_code(x)}," for name, x in self._arrays(batch).items()]
        names = ", ".join(repr(embedding.name) for embedding in self.embeddings)
        rows = [f"# with row 0 of {names} set to {batch.padding}"] if batch.padding else []
        taken = f"model(inputs, training={self.training})"
        if gradient:
            valid = f", valid={as_code(batch.mask)}" if self.keeps_time else ""
            call = f"lambda inputs: model(inputs, training={self.training})"
            taken = f"testing.gradients({call}, inputs{valid})"
        return "\n".join([*rows, "inputs = {", *inputs, "}", f"print({taken})"])


def _known(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Return a shape where an unknown axis, of candidates say, is 2 long."""
    return tuple(2 if size is None else size for size in shape)


def _vocabulary_of(x: ModelInput, given: Mapping[str, int]) -> int:
    """Return the number of ids of an integer input, 0 for one of floats."""
    if x.is_float:
        return 0
    if x.name in given:
        return check_integer(f"vocabulary[{x.name!r}]", given[x.name], minimum=2)
    if not x.embeddings:
        expected = "must have the number of ids of each input that feeds no `Embedding`"
        raise ValueError(message("vocabulary", expected, input=x.name))
    return min(int(embedding.input_dim) for embedding in x.embeddings)
