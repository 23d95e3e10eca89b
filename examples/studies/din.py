"""DIN on MovieLens: which films of your history speak for or against the film in question?

`build_din` is the part to take along. The study trains a Deep Interest Network to say whether a
user will give a film four stars or more, and beside it the same network with a plain mean over the
history. It also draws what the attention looked at (`attention.png`) and recommends ten films.
Sizes, weight decay and epochs were chosen on the last fifth of the training part.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from din_layers import AttentionPoolingLayer, Dice, MiniBatchAwareL2, SequencePoolingLayer
from studies.data import HISTORY, NOT_RATED, Floats, Ints, MovieLens, Questions
from studies.report import heat_map, save, shorten
from studies.training import compare


def build_din(
    genre_shares: Floats,  # a row per film id: the share of each genre, zeros in row 0
    *,
    pooling: str = "attention",  # or "mean" or "sum", to compare with
    genre_units: int = 8,  # size of the embedding of a genre; a film has the mean of its genres
    attention_units: Sequence[int] = (80, 40),  # hidden units of the attention's own network
    activation: str = "dice",  # of all hidden units: "dice", "prelu" or one of Keras's
    softmax: bool = True,  # whether the attention's weights add up to 1
    scale: bool = False,  # whether its scores are divided by the square root of the vectors' size
    film_l2: float = 1e-3,  # weight decay: most films have a handful of ratings
    film_counts: Ints | None = None,  # how often each film is trained, for mini-batch aware decay
    ragged: bool = False,  # whether histories come as `tf.RaggedTensor`, without padding
) -> keras.Model:
    """Probability that a user with this history likes the film in question, (batch, 1).

    Inputs: `movie` (batch, 1), `history_movies` and `history_ratings` (batch, time), ids with 0 for
    padding; histories may have any length.
    """
    inputs, candidate, history, _ = rated_films(
        genre_shares, genre_units, film_l2, film_counts, ragged
    )
    if pooling == "attention":
        attention = AttentionPoolingLayer(
            tuple(attention_units),
            att_activation=layers.PReLU() if activation == "prelu" else activation,
            weight_normalization="softmax" if softmax else None,
            scale=scale,
            name="attention",
        )
        # `attention_model` wants the weights. Keras (3.15) cannot call a layer a second time with
        # another number of outputs, so they are asked for here, where they cost nothing.
        pooled, _ = attention([candidate, history], return_attention_scores=True)
    else:
        pooled = SequencePoolingLayer(mode=pooling, name=pooling)(history)
    output = ops.squeeze(probability(candidate, pooled, activation), -1)
    return keras.Model(inputs, output, name=pooling)


def probability(
    candidate: Any, interest: Any, activation: str = "dice", others: Sequence[Any] = ()
) -> Any:
    """Return the probability, from the vectors of a film, of the user's interest, and others."""
    # The product gives the dense layers the terms of an inner product.
    product = layers.Multiply(name="product")([candidate, interest])
    x = layers.Concatenate(name="joined")([candidate, interest, product, *others])
    for units in (64, 32):
        x = activation_layer(activation)(layers.Dense(units)(x))
    return layers.Dense(1, activation="sigmoid", name="probability")(x)


def activation_layer(name: str) -> keras.Layer:
    """Make the layer of this activation: "dice", "prelu" or one that Keras has as a function."""
    own = {"dice": Dice, "prelu": layers.PReLU}
    return own[name]() if name in own else layers.Activation(name)


def rated_films(
    genre_shares: Floats,
    genre_units: int = 8,
    film_l2: float = 1e-3,
    film_counts: Ints | None = None,
    ragged: bool = False,
) -> tuple[list[Any], Any, Any, Callable[[Any, Any], list[Any]]]:
    """What the models on MovieLens have in common.

    Returns:
        The inputs, the vector of the film in question (batch, 1, dim), those of the history
        (batch, time, dim) with a mask, and what turns ids of films and of ratings into vectors.
    """
    padded = not ragged
    plain_l2 = keras.regularizers.L2(film_l2) if film_l2 and film_counts is None else None
    film_embedding = layers.Embedding(
        len(genre_shares), 16, embeddings_regularizer=plain_l2, mask_zero=padded, name="films"
    )
    # A film's genres are a fixed table inside the model: whoever asks it needs film ids only.
    film_genres = layers.Embedding(
        *genre_shares.shape, weights=genre_shares, mask_zero=padded, trainable=False, name="genres"
    )
    # Shares times embeddings is the mean over the film's genres, so Dense is their embedding.
    genre_embedding = layers.Dense(genre_units, use_bias=False, name="genre_embedding")
    ratings = layers.Embedding(NOT_RATED + 1, 8, mask_zero=padded, name="rating_embedding")

    def vectors(films: Any, stars: Any) -> list[Any]:
        return [film_embedding(films), genre_embedding(film_genres(films)), ratings(stars)]

    movie = keras.Input((1,), dtype="int32", name="movie")
    history_movies = keras.Input((None,), dtype="int32", ragged=ragged, name="history_movies")
    history_ratings = keras.Input((None,), dtype="int32", ragged=ragged, name="history_ratings")
    ids, stars = history_movies, history_ratings
    if ragged:  # Keras's own layers take no ragged input; what they do here, they do per event
        ids, stars = RaggedValues(name="ids")(ids), RaggedValues(name="ratings")(stars)
    # The attention compares both part by part, so the film in question needs a rating, too.
    asked, events = vectors(movie, ops.full_like(movie, NOT_RATED)), vectors(ids, stars)
    if film_counts is not None:
        # Together: film in question and history share the table, and a row in both counts once.
        decay = MiniBatchAwareL2(film_counts, film_l2, name="decay")
        asked[0], events[0] = decay([asked[0], events[0]], [movie, ids])
    # Keras's Concatenate hands the mask on, which `ops.concatenate` would drop.
    candidate, history = layers.Concatenate()(asked), layers.Concatenate()(events)
    if ragged:
        history = RaggedLike(name="histories")([history, history_movies])
    return [movie, history_movies, history_ratings], candidate, history, vectors


class RaggedValues(keras.Layer):
    """The events of a ragged tensor one after the other, (batch, time) to (events,)."""

    def call(self, x: Any) -> Any:
        return x.values

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None,), x.dtype)


class RaggedLike(keras.Layer):
    """Put vectors (events, dim) into the rows of a ragged tensor: ragged (batch, time, dim)."""

    def call(self, inputs: Any) -> Any:
        values, like = inputs
        return like.with_values(values)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        values, like = inputs
        return keras.KerasTensor((*like.shape, values.shape[-1]), values.dtype, ragged=True)


def attention_model(din: keras.Model) -> keras.Model:
    """Turn a trained DIN into a model that also gives the weight of each film of the history.

    The weights (batch, 1, history) add up to 1 and are 0 at padding.
    """
    _, weights = din.get_layer("attention").output
    return keras.Model(din.inputs, [din.output, weights])


def genre_shares(data: MovieLens) -> Floats:
    """Row per film, column per genre: 1 / (number of the film's genres), or 0. Padding: zeros."""
    has = np.zeros((len(data.titles), len(data.genre_names)), np.float32)
    np.put_along_axis(has, data.genres, 1, axis=1)
    has[:, 0] = 0
    return has / np.maximum(has.sum(axis=1, keepdims=True), 1)


def inputs_of(questions: Questions) -> dict[str, Ints]:
    """Questions as the model takes them."""
    return {
        "movie": questions.movie[:, None],
        "history_movies": questions.history_movies,
        "history_ratings": questions.history_ratings,
    }


def ask(
    din: keras.Model, data: MovieLens, movie: Ints, seen: slice
) -> tuple[Ints, Floats, Floats, list[tuple[str, str]]]:
    """Ask about films, all with the ratings `seen` as history.

    Returns the films, the most probable first, their probability, and the weights of the history
    (films, history), whose titles and stars are last.
    """
    of_user = {field: ids[data.user[seen][:1]] for field, ids in data.users.items()}
    of_user |= {"history_movies": data.movie[seen], "history_ratings": data.rating[seen]}
    inputs = {name: np.tile(ids, (len(movie), 1)) for name, ids in of_user.items()}
    inputs["movie"] = movie[:, None]
    probability, weights = attention_model(din).predict(inputs, batch_size=2048, verbose=0)
    order = np.argsort(-probability[:, 0], kind="stable")
    titles = [data.titles[film] for film in data.movie[seen]]
    history = list(zip(titles, map(stars, data.rating[seen]), strict=True))
    return movie[order], probability[order, 0], weights[order, 0], history


def stars(rating: int) -> str:
    """Rating id as people read it."""
    return f"{rating / 2:g}★"


def print_recommendations(din: keras.Model, data: MovieLens, user: int) -> None:
    """Print the ten best unseen films, each with the film of the history that counted most."""
    first, end = data.span(user)
    print(f"\nThe user of attention.png has {end - first} ratings. Favourites:")
    for event in first + np.argsort(-data.rating[first:end], kind="stable")[:5]:
        print(f"  {stars(data.rating[event]):>4}  {data.titles[data.movie[event]]}")
    known = np.flatnonzero(np.bincount(data.movie) >= 10)  # those that the model knows
    films = np.setdiff1d(known, data.movie[first:end]).astype(np.int32)
    if not len(films):
        return
    *answer, history = ask(din, data, films, slice(max(first, end - HISTORY), end))
    print(
        f"Best unseen films of {len(films):,}, the probability of four stars or more, and what\n"
        f"counted most among the {len(history)} latest ratings (its share of the attention):"
    )
    for film, p, weights in zip(*(part[:10] for part in answer), strict=True):
        title, given = history[weights.argmax()]
        asked = f"{shorten(data.titles[film], 44):<44}"
        print(f"  {p:.2f}  {asked} {weights.max():4.0%} {given:>5} {shorten(title, 44)}")
    print("A share says how much a film was looked at, not whether it spoke for or against.")


def draw_attention(din: keras.Model, data: MovieLens, user: int, file: Path) -> None:
    """Draw the films that a user rated last, of the best known, against those rated before."""
    first, end = data.span(user)
    cut = end - (end - first) // 5  # what is held out
    films = np.unique(data.movie[cut:end])
    films = films[np.argsort(-np.bincount(data.movie)[films], kind="stable")[:14]]
    films, probability, weights, history = ask(din, data, films, slice(max(first, cut - 20), cut))
    given = dict(zip(data.movie[cut:end], map(stars, data.rating[cut:end]), strict=True))
    rows = [
        f"{shorten(data.titles[film], 36)}  gave {given[film]}  p = {p:.2f}"
        for film, p in zip(films, probability, strict=True)
    ]
    columns = [f"{shorten(title, 36)}  {rated}" for title, rated in history]
    # Times the number of films: 1 is the weight that a plain mean gives to every film.
    figure = heat_map(weights * len(columns), rows, columns)
    figure.suptitle(
        "What the trained DIN looks at, asked about films that one user rated later (rows).\n"
        f"Columns: the {len(columns)} latest films of the user's history before those ratings"
    )
    save(figure, file)


def run(options: argparse.Namespace, staging: Path) -> None:
    data, shares = options.data, genre_shares(options.data)
    builders = {
        "attention (DIN)": lambda: build_din(shares),
        "mean": lambda: build_din(shares, pooling="mean"),
    }
    din = compare(options, staging, builders, inputs_of)
    # To look at: who has about 200 ratings, which is plenty, some of them held out.
    count = np.bincount(data.user)
    user = int(np.argmin(np.where(count < 5, np.inf, np.abs(count - 200))))
    draw_attention(din, data, user, staging / "attention.png")
    print_recommendations(din, data, user)
