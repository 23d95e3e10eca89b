"""Keras 3 layers that turn a user's behaviour history into a vector; padding never counts."""

from din_layers._attention_pooling_layer import AttentionPoolingLayer
from din_layers._augru import AUGRU
from din_layers._dice import Dice
from din_layers._gauc import GAUC
from din_layers._hash_layer import HashLayer
from din_layers._mini_batch_aware_l2 import MiniBatchAwareL2
from din_layers._sequence_pooling_layer import SequencePoolingLayer
from din_layers._vocab_layer import VocabLayer
from din_layers._weighted_sequence_layer import WeightedSequenceLayer

__version__ = "0.5.0"

__all__ = [
    "AUGRU",
    "GAUC",
    "AttentionPoolingLayer",
    "Dice",
    "HashLayer",
    "MiniBatchAwareL2",
    "SequencePoolingLayer",
    "VocabLayer",
    "WeightedSequenceLayer",
    "__version__",
    "custom_objects",
]

#: For `keras.models.load_model(path, custom_objects=din_layers.custom_objects)`: the classes by
#: their bare names, as files written by other packages with layers of these names have them.
custom_objects: dict[str, type] = {
    name: globals()[name] for name in __all__ if isinstance(globals().get(name), type)
}
