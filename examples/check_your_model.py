"""Check the masking of a model of your own: a mask that was dropped without a word is caught.

The model below looks right, trains without a warning and has been in production somewhere: it
scales the embeddings of a history by `x * 2`, which drops Keras's mask, so that its mean counts the
padding, and the same user gets another answer in another batch. `din_layers.testing` finds that.

    python examples/check_your_model.py

The same for a saved model of your own:

    python -m din_layers.testing model.keras --import din_layers
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import din_layers
from din_layers.testing import MaskingError, check_ids, check_masking

FILMS = 1000


def build_model(scale: keras.Layer | None, dim: int = 8) -> keras.Model:
    """Score a film for a history of films; `scale` is the layer that scales, None is `x * 2`."""
    history = keras.Input((None,), dtype="int32", name="history")  # ids, 0 is padding
    film = keras.Input((1,), dtype="int32", name="film")
    films = keras.layers.Embedding(FILMS, dim, mask_zero=True, name="films")
    events = films(history)
    events = events * 2.0 if scale is None else scale(events)
    taste = din_layers.SequencePoolingLayer("mean")(events)
    joined = keras.layers.Concatenate()([taste, films(film)])[:, 0]
    click = keras.layers.Dense(1, activation="sigmoid", name="click")(joined)
    return keras.Model([history, film], click)


def main(arguments: list[str] | None = None) -> None:
    """Check a broken model, the repaired one, and one layer by itself."""
    parser = argparse.ArgumentParser(description="Catch a mask that a model drops.")
    parser.parse_args(arguments)
    keras.utils.set_random_seed(0)
    print("A model that scales its embeddings by `x * 2`:\n")
    try:
        check_ids(build_model(scale=None))
    except MaskingError as error:
        print(error)
    else:
        raise RuntimeError("the dropped mask was not found")
    print("\nThe same with `keras.layers.Rescaling(2.0)`, which keeps the mask:\n")
    check_ids(build_model(scale=keras.layers.Rescaling(2.0)))
    print("every invariant holds")
    print("\nA layer by itself, an LSTM, with NaN where the mask is False:\n")
    lstm = keras.layers.LSTM(4)
    try:
        check_masking(lambda sequence, mask: lstm(sequence, mask=mask))
    except MaskingError as error:
        print(str(error).splitlines()[0])


if __name__ == "__main__":
    main()
