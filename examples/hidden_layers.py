"""The dense layers at the end of a model, as the examples have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from din_layers import Dice


def hidden_layers(
    x: Any,
    units: Sequence[int],
    activation: str | None = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    l2: float = 0.0,
) -> Any:
    """Apply dense layers of these sizes, each with batch norm, activation and dropout in turn.

    Args:
        x: Where they begin, (batch, dim).
        units: The size of each layer.
        activation: "dice", "prelu" or one of Keras's; None for none.
        batch_norm: Whether a BatchNormalization stands in front of each activation.
        dropout: The share that is dropped behind each activation.
        l2: Weight decay of the kernels.
    """
    for size in units:
        decay = keras.regularizers.L2(l2) if l2 else None
        x = keras.layers.Dense(size, kernel_regularizer=decay)(x)
        if batch_norm:
            x = keras.layers.BatchNormalization()(x)
        x = activation_layer(activation)(x)
        if dropout:
            x = keras.layers.Dropout(dropout)(x)
    return x


def activation_layer(name: str | None, synchronized: bool = False) -> keras.Layer:
    """Make the layer of this activation: "dice", "prelu" or one that Keras has as a function."""
    if name == "dice":
        return Dice(synchronized=synchronized)
    return keras.layers.PReLU() if name == "prelu" else keras.layers.Activation(name)
