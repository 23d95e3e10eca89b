"""DIEN, the Deep Interest Evolution Network, over films, their genres and their ratings.

`build_dien` is the part to take along: a GRU over the history extracts an interest after each event
and is taught to tell the next event from a sampled one, attention scores the interests against the
film in question, and AUGRU lets them evolve towards it. The rest of the network is that of
`din.py`, so that the two differ in how they summarise the history and in nothing else.
`dien_movielens.py` is the job around it.

Deep Interest Evolution Network for Click-Through Rate Prediction, https://arxiv.org/abs/1809.03672
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import din
import keras
from hidden_layers import hidden_layers
from keras import ops
from movielens import Floats

from din_layers import AUGRU, AttentionPoolingLayer


def build_dien(
    genre_shares: Floats,
    *,
    film_units: int = 16,
    genre_units: int = 8,
    rating_units: int = 8,
    attention_units: Sequence[int] = (80, 40),
    attention_activation: str = "dice",
    auxiliary_weight: float = 1.0,
    hidden_units: Sequence[int] = (64, 32),
    activation: str = "dice",
    batch_norm: bool = False,
    dropout: float = 0.0,
    hidden_l2: float = 0.0,
    film_l2: float = 1e-3,
    seed: int | None = None,
) -> keras.Model:
    """Probability that a user with this history likes the film in question.

    Inputs: `movie` (batch, 1), `history_movies` and `history_ratings` (batch, history), ids with 0
    for padding, old to new; histories may have any length. Output: (batch, 1).

    Both recurrent layers have as many units as an event has numbers, film + genre + rating: the
    auxiliary loss and the comparison with the film in question are inner products.

    Args:
        genre_shares: One row per film id: the share of each genre, zeros in row 0.
        film_units: Size of the embedding of a film's id.
        genre_units: Size of the embedding of a genre; a film has the mean of its genres.
        rating_units: Size of the embedding of the rating that a film was given.
        attention_units: Hidden units of the attention's own network.
        attention_activation: Their activation, "dice" or one of Keras's.
        auxiliary_weight: Weight of the auxiliary loss beside that of the probability; 0 for none.
        hidden_units: Hidden units of the network that gives the probability.
        activation: Their activation, "dice" or one of Keras's.
        batch_norm: Whether these have batch normalization in front of their activation.
        dropout: Dropout behind their activation.
        hidden_l2: Weight decay of their kernels.
        film_l2: Weight decay of the film embedding.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    films = din.film_vectors(genre_shares, film_units, genre_units, film_l2)
    ratings = din.rating_embedding(rating_units)
    inputs, candidate, history = din.rated_films(films, ratings)
    units = history.shape[-1]

    interests = keras.layers.GRU(units, return_sequences=True, name="extractor")(history)
    if auxiliary_weight:
        _, history_movies, history_ratings = inputs
        sampled = RandomFilms(len(genre_shares) - 1, name="sampled_films")(history_movies)
        # With the rating of the event whose place it takes: the film is to be told, not the rating.
        sampled = ops.concatenate([*films(sampled), ratings(history_ratings)], axis=-1)
        interests = NextEventLoss(auxiliary_weight, name="next_event")(
            [interests, history, sampled]
        )
    attention = AttentionPoolingLayer(
        tuple(attention_units), att_activation=attention_activation, name="attention"
    )
    _, scores = attention([candidate, interests], return_attention_scores=True)
    evolved = AUGRU(units, name="evolution")([interests, scores])

    candidate = ops.squeeze(candidate, 1)
    # The product gives the dense layers the terms of an inner product.
    product = keras.layers.Multiply(name="product")([candidate, evolved])
    x = keras.layers.Concatenate(name="joined")([candidate, evolved, product])
    x = hidden_layers(x, hidden_units, activation, batch_norm, dropout, hidden_l2)
    output = keras.layers.Dense(1, activation="sigmoid", name="probability")(x)
    return keras.Model(inputs, output, name="evolution")


@keras.saving.register_keras_serializable(package="dien")
class RandomFilms(keras.Layer):
    """Film ids, all equally likely, in the shape of the input.

    Args:
        films: How many films there are; their ids count from 1.
        **kwargs: As in every Keras layer.
    """

    def __init__(self, films: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.films = films
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, ids: Any) -> Any:
        return keras.random.randint(ops.shape(ids), 1, self.films + 1, seed=self.seed_generator)

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        return keras.KerasTensor(ids.shape, "int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "films": self.films}


@keras.saving.register_keras_serializable(package="dien")
class NextEventLoss(keras.Layer):
    """Give the interests back, and in training add the auxiliary loss (DIEN paper, section 4.2).

    After each event but the last, the interest shall have a large inner product with the event that
    came next and a small one with a sampled one: the log loss of both, averaged over the events.

    Args:
        weight: Weight of the loss.
        **kwargs: As in every Keras layer.

    Call arguments:
        inputs: A list of interests, events and sampled events, each (batch, history, dim).
        mask: The Keras masks of the three; that of the events tells which are real.
        training: Whether to add the loss.
    """

    def __init__(self, weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight
        self.supports_masking = True

    def call(self, inputs: Any, mask: Any = None, training: bool = False) -> Any:
        interests, events, sampled = inputs
        if training:
            valid = ops.cast(mask[1], interests.dtype)
            both = valid[:, :-1] * valid[:, 1:]
            match, mismatch = (
                ops.sum(interests[:, :-1] * x[:, 1:], axis=-1) for x in (events, sampled)
            )
            losses = both * (ops.softplus(-match) + ops.softplus(mismatch))
            self.add_loss(self.weight * ops.sum(losses) / ops.maximum(ops.sum(both), 1.0))
        return interests

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the interests."""
        return input_shape[0]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask of the interests."""
        return previous_mask[0]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight}


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
