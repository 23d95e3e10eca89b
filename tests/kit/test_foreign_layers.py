"""What the kit says of layers from elsewhere: the table of docs/testing.md.

The verdicts are those of Keras 3.15 and keras-rs 0.4. Where a newer version mends a layer, the test
fails and the table is out of date.
"""

import importlib.metadata
import re
from pathlib import Path

import keras
import pytest
from helpers.backend import BACKEND
from keras import ops

from din_layers.testing import DEFAULT_INVARIANTS, MaskingError, check_ids, check_masking

VERSIONS = {"keras": "3.15", "keras-rs": "0.4"}
# Of Keras the module knows it: the package may also be `keras-nightly`.
INSTALLED = (keras.__version__, importlib.metadata.version("keras-rs"))
DOCS = Path(__file__).parents[2] / "docs" / "testing.md"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BACKEND != "tensorflow" or not all(map(str.startswith, INSTALLED, VERSIONS.values())),
        reason=f"the verdicts are those of {VERSIONS} on TensorFlow",
    ),
    # Keras warns when a drawn history has one event.
    pytest.mark.filterwarnings("ignore:You are using a softmax over axis"),
]


def query_of(sequence):
    return ops.full((ops.shape(sequence)[0], 1, 4), 0.5)


def masked(layer):
    return lambda sequence, mask: layer(sequence, mask=mask)


def keras_attention():
    layer = keras.layers.Attention()
    return lambda sequence, mask: layer([query_of(sequence), sequence], mask=[None, mask])


def multi_head_attention():
    layer = keras.layers.MultiHeadAttention(2, 3)
    return lambda sequence, mask: layer(query_of(sequence), sequence, attention_mask=mask[:, None])


def embed_reduce():
    import keras_rs

    ids = keras.Input((None,), dtype="int32", name="history")
    layer = keras_rs.layers.EmbedReduce(9, 4, mask_zero=True, combiner="mean")
    return keras.Model(ids, layer(ids))


LAYERS = {
    "keras.layers.GlobalAveragePooling1D": lambda: masked(keras.layers.GlobalAveragePooling1D()),
    "keras.layers.Attention": keras_attention,
    "keras.layers.MultiHeadAttention": multi_head_attention,
    "keras.layers.LSTM": lambda: masked(keras.layers.LSTM(2)),
    "keras_rs.layers.EmbedReduce": embed_reduce,
}


def verdict(subject, invariant):
    check = check_ids if isinstance(subject, keras.Model) else check_masking
    if check is check_ids and invariant == "extreme_values":
        return "-"
    try:
        check(subject, invariants=[invariant], max_examples=15)
    except MaskingError:
        return "fails"
    return "holds"


@pytest.mark.parametrize("layer", LAYERS)
def test_the_verdicts_are_those_of_the_docs(layer):
    keras.utils.set_random_seed(0)
    (row,) = re.findall(rf"^\| `{re.escape(layer)}` \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    verdicts = [verdict(LAYERS[layer](), invariant) for invariant in DEFAULT_INVARIANTS]
    assert verdicts == row.split(" | ")
