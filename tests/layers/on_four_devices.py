"""A batch spread over four devices of JAX gives what one device gives.

Run by `test_attention_pooling_layer.py` in a process of its own: JAX counts its devices once.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import din_layers

DIM = 8
rng = np.random.default_rng(0)
QUERY, KEYS = (rng.normal(size=(64, n, DIM)).astype("float32") for n in (1, 50))
LENGTHS = rng.integers(0, 50, 64).astype("int32")


def attention(activation="sigmoid"):
    keras.utils.set_random_seed(0)
    return din_layers.AttentionPoolingLayer((8, 4), activation, skip_padding=True)


def trained(activation):
    """Return what one epoch of `fit` makes of the weights."""
    query, keys = keras.Input((1, DIM)), keras.Input((None, DIM))
    lengths = keras.Input((), dtype="int32")
    output = attention(activation)([query, keys], lengths=lengths)
    model = keras.Model([query, keys, lengths], output)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit([QUERY, KEYS, LENGTHS], np.ones((64, 1, DIM)), 32, shuffle=False, verbose=0)
    return model.get_weights()


def main():
    layer = attention()
    layer.build([(None, 1, DIM), (None, None, DIM)])

    def output(weights, query, keys, lengths):
        inputs = {"query": query, "keys": keys, "lengths": lengths}
        return layer.stateless_call(weights, [], inputs)[0]

    weights = [variable.value for variable in layer.trainable_variables]
    inputs = QUERY, KEYS, LENGTHS
    expected = jax.jit(output)(weights, *inputs)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
        spread = [jax.device_put(x, NamedSharding(mesh, P("batch"))) for x in inputs]
        with jax.set_mesh(mesh):
            program = jax.jit(output).lower(weights, *spread).compile()
            result = program(weights, *spread)
        # A mesh of automatic axes tells the layer nothing: its loops gather the batch.
        assert kind is AxisType.Auto or "all-gather" not in program.as_text()
        np.testing.assert_allclose(result, expected, atol=1e-5, err_msg=str(kind))
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    for check in (False, True):
        parts = jax.shard_map(
            output,
            mesh=mesh,
            in_specs=(P(), *[P("batch")] * 3),
            out_specs=P("batch"),
            check_vma=check,
        )
        result = jax.jit(parts)(weights, *inputs)
        np.testing.assert_allclose(result, expected, atol=1e-5, err_msg=f"check_vma={check}")
    # `keras.distribution` stays once it is set.
    alone = [trained(activation) for activation in ("sigmoid", "dice")]
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    for activation, one in zip(("sigmoid", "dice"), alone, strict=True):
        for a, b in zip(trained(activation), one, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=activation)


if __name__ == "__main__":
    main()
