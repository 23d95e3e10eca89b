"""DIEN, as `million` trains it: does it help to follow how a user's interest evolves?

`evolve` is the part to take along: a GRU over the history extracts an interest after each event and
is taught to tell the next event from a sampled one, attention scores the interests against the film
in question, and AUGRU lets them evolve towards it (https://arxiv.org/abs/1809.03672). All else is
as in `din.py`. The sizes are those of DIN; nothing was chosen here.

    python examples/studies million --variants dien din
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from din_layers import AUGRU, AttentionPoolingLayer


def evolve(
    inputs: list[Any],
    candidate: Any,
    history: Any,
    vectors: Callable[[Any, Any], list[Any]],
    films: int,
) -> Any:
    """Return the evolved interest (batch, dim) out of what `rated_films` returns."""
    _, history_movies, history_ratings = inputs
    units = history.shape[-1]
    interests = layers.GRU(units, return_sequences=True, name="extractor")(history)
    sampled = RandomFilms(films, name="sampled_films")(history_movies)
    # With the rating of the event whose place it takes: the film is to be told, not the rating.
    sampled = ops.concatenate(vectors(sampled, history_ratings), axis=-1)
    inputs_of_loss = [interests, history, sampled, history_movies]
    interests = NextEventLoss(name="next_event")(inputs_of_loss)

    attention = AttentionPoolingLayer((80, 40), att_activation="dice", name="attention")
    # The ids again, since not every version of Keras hands the mask on behind a recurrent layer.
    asked = [candidate, interests]
    _, scores = attention(asked, ids=history_movies, return_attention_scores=True)
    return AUGRU(units, name="evolution")([interests, scores], ids=history_movies)


class RandomFilms(keras.Layer):
    """Film ids in the shape of the input, all of the `films` equally likely."""

    def __init__(self, films: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.films = films
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, ids: Any) -> Any:
        return keras.random.randint(ops.shape(ids), 1, self.films + 1, seed=self.seed_generator)

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        return keras.KerasTensor(ids.shape, "int32")


class NextEventLoss(keras.Layer):
    """Give the interests back, and in training add the auxiliary loss (DIEN paper, section 4.2).

    After each event but the last, the interest shall have a large inner product with the event that
    came next and a small one with a sampled one: the log loss of both, averaged over the events.
    The inputs are interests, events and sampled events, each (batch, history, dim), and the ids of
    the events, 0 for padding.
    """

    def call(self, inputs: Any, training: bool = False) -> Any:
        interests, events, sampled, ids = inputs
        if training:
            valid = ops.cast(ops.not_equal(ids, 0), interests.dtype)
            both = valid[:, :-1] * valid[:, 1:]
            match = ops.sum(interests[:, :-1] * events[:, 1:], axis=-1)
            mismatch = ops.sum(interests[:, :-1] * sampled[:, 1:], axis=-1)
            losses = both * (ops.softplus(-match) + ops.softplus(mismatch))
            self.add_loss(ops.sum(losses) / ops.maximum(ops.sum(both), 1.0))
        return interests

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return previous_mask[0]


def without_auxiliary_loss(dien: keras.Model) -> keras.Model:
    """Turn a trained DIEN into the model to serve, which shares its layers.

    It has only layers of Keras and din_layers, so whoever loads it needs nothing of this file.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, NextEventLoss):
            interests, *_ = args[0]
            return interests
        return layer(*args, **kwargs)

    return keras.models.clone_model(dien, clone_function=lambda layer: layer, call_function=call)
