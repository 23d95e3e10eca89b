"""What cannot be meant is refused, with its name, what is expected and what came.

By every layer, before it is built and after, eagerly and symbolically; the layer stays usable.
"""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.backend import needs_tensorflow
from helpers.layers import IDS, LENGTHS, QUERY, SEQUENCE, WEIGHTS, every_layer, made
from helpers.strategies import DIM
from keras import KerasTensor

BOTH, FLAT, SHORT = [QUERY, SEQUENCE], SEQUENCE[:, :, 0], WEIGHTS[:, :3]
NESTED, TAGS = np.ones((3, 4, 2, DIM), "float32"), np.ones((3, 4, 2), "int32")
UNKNOWN = KerasTensor((None, None, None))
STRINGS = tf.fill((3, 4), "a")
RAGGED = tf.RaggedTensor.from_row_lengths(tf.ones((3, DIM)), [2, 1, 0])
OTHER_ROWS = tf.ragged.constant([[1.0], [2.0, 3.0], []])
OTHER_IDS = tf.cast(OTHER_ROWS, "int32")
# Layer, inputs, keywords, and what the error says.
VALUES = [
    ("attention", [QUERY], {}, "`inputs` must be a list [query, keys]"),
    ("attention", QUERY, {"mask": SEQUENCE}, "`inputs` must be a list [query, keys]"),  # (q, k)
    ("attention", {"query": QUERY}, {}, "`inputs` must be a list [query, keys], or a dict of"),
    ("attention", {"q": QUERY, "k": SEQUENCE}, {}, "`inputs` must be a list [query, keys]"),
    ("attention", BOTH, {"keys": SEQUENCE}, "`keys` must be given once"),
    ("attention", [*BOTH, IDS, IDS], {}, "lengths once and ids once: say by keyword"),
    ("attention", BOTH, {"mask": [None]}, "or a list of one for each input. Received: masks=1"),
    ("attention", BOTH, {"mask": {"kyes": IDS > 0}}, "`mask` must be one mask or hold masks of"),
    ("attention", BOTH, {"mask": [IDS > 0, None]}, "`mask` must have shape (batch, queries) with"),
    ("attention", BOTH, {"mask": SEQUENCE > 0}, "`mask` must have shape (batch, time)"),
    ("attention", [QUERY[:, 0], SEQUENCE], {}, "`query` must have shape (batch, queries, dim)"),
    ("attention", [QUERY, FLAT], {}, "dim). Received: query.shape=(3, 1, 3), keys.shape=(3, 4)"),
    ("attention", [QUERY[..., :2], SEQUENCE], {}, "(batch, time, dim) with the `dim` of `query`. "),
    ("attention", [QUERY[:2], SEQUENCE], {}, "with the `batch` of `query`"),
    ("attention", [QUERY.repeat(2, 1), SEQUENCE], {}, '(batch, 1, dim) when `mode="sequence"`'),
    ("attention", [QUERY, UNKNOWN], {}, "`keys` must have a known `dim`"),
    ("attention", [UNKNOWN, SEQUENCE], {}, "`query` must have a known `dim`"),
    ("attention", [*BOTH, IDS[:, :3]], {}, "(batch, time) with the `time` of `keys`. "),
    ("pooling", None, {}, "`inputs` must be a sequence, or a dict of sequence, lengths, ids"),
    ("pooling", {"sequenc": SEQUENCE}, {}, "or a dict of sequence, lengths, ids"),
    ("pooling", {"sequence": SEQUENCE, "ids": IDS}, {"ids": IDS}, "`ids` must be given once"),
    ("pooling", [SEQUENCE, LENGTHS], {"lengths": LENGTHS}, "`lengths` must be given once"),
    ("pooling", FLAT, {}, "(batch, time, dim) or (batch, time, tags, dim). Received: "),
    ("pooling", [SEQUENCE, LENGTHS[:2]], {}, "`lengths` must have shape (batch,) or (batch, 1)"),
    ("pooling", SEQUENCE, {"lengths": IDS}, "`lengths` must have shape (batch,) or (batch, 1)"),
    ("pooling", [SEQUENCE, TAGS[:, :1]], {}, "lengths.shape=(3, 1, 2)"),
    ("pooling", [SEQUENCE, np.array(3)], {}, "lengths.shape=()"),
    ("pooling", SEQUENCE, {"ids": LENGTHS}, "`ids` must have shape (batch, time)"),
    ("pooling", SEQUENCE, {"ids": IDS[:, :1]}, "with the `time` of `sequence`"),
    ("pooling", SEQUENCE, {"mask": IDS[:, :1] > 0}, "`mask` must have shape (batch, time) with"),
    ("pooling", NESTED, {"ids": IDS}, "`ids` must have shape (batch, time, tags). Received: seq"),
    ("pooling", NESTED, {"mask": TAGS[:, :1] > 0}, "with the `time` of `sequence`"),
    ("pooling", NESTED, {"lengths": TAGS}, "must have shape (batch, time) or (batch, time, 1)"),
    ("pooling", [NESTED, TAGS], {}, "`inputs` must name what stands beside nested events"),
    ("pooling", NESTED[None], {}, "`sequence` must have shape (batch, time, dim)"),
    ("weighting", [SEQUENCE], {}, "`inputs` must be a list [sequence, weights]"),
    ("weighting", {"sequence": SEQUENCE, "weights": None}, {}, "[sequence, weights]"),
    ("weighting", [SEQUENCE, SHORT], {}, "must have shape (batch, time) or (batch, time, 1). "),
    ("weighting", [SEQUENCE, SEQUENCE], {}, "weights.shape=(3, 4, 3)"),
    ("augru", SEQUENCE, {}, "`inputs` must be a list [sequence, scores]"),
    ("augru", [SEQUENCE, SHORT], {}, "sequence.shape=(3, 4, 3), scores.shape=(3, 3)"),
    ("augru", [SEQUENCE, SEQUENCE], {}, "scores.shape=(3, 4, 3)"),
    ("augru", [SEQUENCE, SHORT[:, None]], {}, "scores.shape=(3, 1, 3)"),
    ("augru", [SEQUENCE, WEIGHTS[:, :1, None]], {}, "scores.shape=(3, 1, 1)"),
    ("augru", [UNKNOWN, WEIGHTS], {}, "`sequence` must have a known `dim`"),
    ("augru", [SEQUENCE, WEIGHTS], {"initial_state": FLAT}, "(batch, 2)"),
    ("augru", [SEQUENCE, WEIGHTS], {"initial_state": FLAT[:2, :2]}, "with the `batch` of"),
    ("augru", [SEQUENCE, WEIGHTS], {"initial_state": [FLAT[:, :2]] * 2}, "must be one state, or"),
]
TYPES = [
    ("attention", [*BOTH, None], {}, "`inputs` must hold no None. Received: inputs="),
    ("attention", [QUERY, SEQUENCE * 1j], {}, "`keys` must hold real numbers"),
    ("attention", [*BOTH, IDS > 0], {}, "must be integers (a mask goes into `mask`). Received: "),
    ("attention", BOTH, {"mask": [QUERY[..., 0], None]}, "`mask` must be boolean"),
    ("pooling", SEQUENCE * 1j, {}, "`sequence` must hold real numbers. Received: "),
    ("pooling", SEQUENCE, {"lengths": [4, 1, 2]}, "`lengths` must be a tensor or an array"),
    ("pooling", [SEQUENCE, WEIGHTS[:, 0]], {}, "Received: lengths.dtype='float32', lengths.shape"),
    ("pooling", SEQUENCE, {"ids": [[1]]}, "Received: ids=[[1]]"),
    ("pooling", SEQUENCE, {"mask": WEIGHTS * -1e9}, "`mask` must be boolean. Received"),
    ("pooling", SEQUENCE, {"mask": "no"}, "`mask` must be a tensor or an array"),
    ("pooling", SEQUENCE, {"mask": (IDS > 0).tolist()}, "as `np.array(mask)`, or hold"),
    ("weighting", [SEQUENCE, FLAT > 0], {}, "`weights` must hold floats. Received: weights.dtype"),
]
STRINGS_AND_RAGGED = [
    ("attention", [RAGGED, RAGGED], {}, TypeError, "`query` must be dense"),
    ("attention", [QUERY, RAGGED], {"ids": OTHER_IDS}, ValueError, "rows of lengths [2, 1, 0]"),
    ("attention", [tf.fill((3, 1, 3), "a"), SEQUENCE], {}, TypeError, "`query` must hold numbers"),
    ("attention", [*BOTH, STRINGS], {}, TypeError, "or strings if `hist_mask_value` is one. "),
    ("pooling", tf.fill((3, 4, 3), "a"), {}, TypeError, "`sequence` must hold numbers. Received: "),
    ("pooling", SEQUENCE, {"mask": STRINGS}, TypeError, "`mask` must be boolean"),
    ("pooling", tf.ragged.constant([[[1.0]]]), {}, ValueError, "be ragged in its time axis only"),
    ("weighting", [SEQUENCE, STRINGS], {}, TypeError, "`weights` must hold floats"),
    ("weighting", [RAGGED, tf.ones((3, 2))], {}, TypeError, "must be ragged where `sequence` is"),
    ("weighting", [RAGGED, OTHER_ROWS], {}, ValueError, "Received: row_lengths=[1, 2, 0]"),
    ("augru", [SEQUENCE, STRINGS], {}, TypeError, "`scores` must hold numbers"),
    ("augru", [SEQUENCE, OTHER_ROWS], {}, TypeError, "`scores` must be dense where `sequence` is"),
    ("augru", [RAGGED, OTHER_ROWS], {}, ValueError, "rows of lengths [2, 1, 0], like the "),
]


@pytest.mark.parametrize(
    ("name", "inputs", "keywords", "error", "text"),
    [
        *((*given, ValueError, text) for *given, text in VALUES),
        *((*given, TypeError, text) for *given, text in TYPES),
        *(pytest.param(*row, marks=needs_tensorflow) for row in STRINGS_AND_RAGGED),
    ],
)
def test_what_cannot_be_meant_is_refused_and_the_layer_stays_usable(
    name, inputs, keywords, error, text
):
    layer, right = made(name)
    forms = [(inputs, keywords)]
    if all(isinstance(x, np.ndarray) for x in keras.tree.flatten(forms)):
        forms.append(keras.tree.map_structure(as_symbolic, forms[0]))
    for _ in range(2):  # before the layer is built, and after
        for given, told in forms:
            with pytest.raises(error, match=re.escape(text)) as caught:
                layer(given, **told)
            assert "` must " in str(caught.value)
            assert ". Received: " in str(caught.value)
        layer(right, ids=IDS)


def test_a_keyword_that_no_layer_has():
    layer, inputs = made("pooling")
    with pytest.raises(TypeError, match="length"):
        layer(inputs, length=LENGTHS)


def as_symbolic(x):
    return KerasTensor(x.shape, x.dtype.name)


def test_shapes_are_checked_before_weights_are_made_of_them():
    layer, _ = made("attention")
    with pytest.raises(ValueError, match="with the `dim` of `query`"):
        layer([QUERY[..., :2], SEQUENCE])
    assert not layer.built


@pytest.mark.parametrize(("name", "events"), [("attention", "keys"), ("augru", "sequence")])
@pytest.mark.parametrize("dim", [DIM - 1, DIM + 1])
def test_an_event_of_another_size_than_the_layer_was_built_with(name, events, dim):
    layer, inputs = made(name)
    layer(inputs)
    inputs = [np.resize(x, (*x.shape[:2], dim)) if x.ndim == 3 else x for x in inputs]
    expected = f"`{events}` must have the `dim` that the layer was built with, 3. Received: "
    with pytest.raises(ValueError, match=expected):
        layer(inputs)


@every_layer
def test_a_dense_sequence_with_nothing_to_tell_its_padding_is_refused_where_a_mask_is_required(
    name,
):
    layer, inputs = made(name, mask_required=True)
    free, _ = made(name)
    free(inputs)
    for given in (inputs, keras.tree.map_structure(as_symbolic, inputs)):
        with pytest.raises(
            ValueError, match=r"`mask` must be given, or `lengths` or `ids`"
        ) as error:
            layer(given)
        for how_it_got_lost in ("x * 2", "keras.ops.concatenate", "RNN", "Received: mask=None"):
            assert how_it_got_lost in str(error.value)
    for told in ({"lengths": LENGTHS}, {"ids": IDS}, {"mask": IDS != 0}):
        np.testing.assert_array_equal(layer(inputs, **told), free(inputs, **told))
    assert type(layer).from_config(layer.get_config()).mask_required


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("pooling", {"lengths": IDS}),
        ("pooling", {"ids": LENGTHS[:, None]}),
        ("pooling", {"lengths": LENGTHS[:1]}),
        ("pooling", {"mask": IDS[:, :1] > 0}),
        ("pooling", {"mask": IDS[:1] > 0}),
        ("attention", {"ids": LENGTHS[:, None]}),
        ("weighting", {"ids": IDS[:1]}),
        ("augru", {"lengths": IDS}),
        ("augru", {"initial_state": np.ones((1, 2), "float32")}),
    ],
)
def test_a_shape_that_a_graph_sees_only_when_it_runs_is_never_stretched(name, keywords):
    layer, inputs = made(name)
    layer(inputs)

    def free(x):
        shape = [None] * len(x.shape) if len(x.shape) < 3 else [None, None, DIM]
        shape[1:2] = [1] if x is QUERY else shape[1:2]
        return tf.TensorSpec(shape, tf.as_dtype(x.dtype))

    graph = tf.function(lambda inputs, keywords: layer(inputs, **keywords))
    graph = graph.get_concrete_function(*keras.tree.map_structure(free, (inputs, keywords)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="of the sequence"):
        graph(*keras.tree.map_structure(tf.constant, (inputs, keywords)))


@needs_tensorflow
@every_layer
def test_a_rank_that_a_graph_does_not_know_is_refused(name):
    layer, inputs = made(name)
    arrays = keras.tree.flatten(inputs)

    def call(*tensors):
        return layer(list(tensors) if isinstance(inputs, list) else tensors[0])

    graph = tf.function(call, input_signature=[tf.TensorSpec(None)] * len(arrays))
    with pytest.raises(ValueError, match=r"must have a known rank\. Received: "):
        graph(*arrays)
    ids = tf.function(lambda ids: layer(inputs, ids=ids), input_signature=[tf.TensorSpec(None)])
    with pytest.raises(ValueError, match=r"`ids` must have a known rank\. Received: ids"):
        ids(IDS)


@needs_tensorflow
@pytest.mark.parametrize("skip_padding", [False, True])
@pytest.mark.parametrize("rows", [(3, 1), (1, 3)])
def test_a_query_of_another_batch_is_an_error_when_the_graph_runs(rows, skip_padding):
    layer, inputs = made("attention", mode="sum", skip_padding=skip_padding)
    layer(inputs)
    specs = [tf.TensorSpec([None, 1, DIM]), tf.TensorSpec([None, None, DIM])]
    graph = tf.function(lambda *inputs: layer(list(inputs)), input_signature=specs)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`query` must have the batch"):
        graph(QUERY[: rows[0]], SEQUENCE[: rows[1]])
