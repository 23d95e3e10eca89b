"""DIN on MovieLens: which films of your history speak for or against the film in question?

`build_din` is the part to take along. The study trains a Deep Interest Network to say whether a
user will give a film four stars or more, and beside it the same network with a plain mean over the
history. It also draws what the attention looked at (`attention.png`).
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
from studies.data import NOT_RATED, Floats, Ints, MovieLens, Questions, split
from studies.report import heat_map, save, score_columns, shorten, table
from studies.scores import Scores, measure
from studies.training import predict, train


def build_din(
    genre_shares: Floats,  # a row per film id: the share of each genre, zeros in row 0
    *,
    pooling: str = "attention",  # or "mean", to compare with
    genre_units: int = 8,  # size of the embedding of a genre; a film has the mean of its genres
    attention_units: Sequence[int] = (80, 40),  # hidden units of the attention's own network
    film_l2: float = 1e-3,  # weight decay: most films have a handful of ratings
) -> keras.Model:
    """Probability that a user with this history likes the film in question, (batch, 1).

    Inputs: `movie` (batch, 1), `history_movies` and `history_ratings` (batch, time), ids with 0 for
    padding; histories may have any length.
    """
    inputs, candidate, history, _ = rated_films(genre_shares, genre_units, film_l2)
    if pooling == "attention":
        attention = AttentionPoolingLayer(attention_units, att_activation="dice", name="attention")
        # `attention_model` wants the weights. Keras (3.15) cannot call a layer a second time with
        # another number of outputs, so they are asked for here, where they cost nothing.
        pooled, _ = attention([candidate, history], ids=inputs[1], return_attention_scores=True)
    else:
        pooled = SequencePoolingLayer(mode=pooling, name=pooling)(history, ids=inputs[1])
    return keras.Model(inputs, ops.squeeze(probability(candidate, pooled), -1), name=pooling)


def probability(candidate: Any, interest: Any, others: Sequence[Any] = ()) -> Any:
    """Return the probability, from the vectors of a film, of the user's interest, and others."""
    # The product gives the dense layers the terms of an inner product.
    product = layers.Multiply(name="product")([candidate, interest])
    x = layers.Concatenate(name="joined")([candidate, interest, product, *others])
    for units in (64, 32):
        x = Dice()(layers.Dense(units)(x))
    return layers.Dense(1, activation="sigmoid", name="probability")(x)


def rated_films(
    genre_shares: Floats,
    genre_units: int = 8,
    film_l2: float = 1e-3,
    film_counts: Ints | None = None,  # how often each film is trained, for mini-batch aware decay
) -> tuple[list[Any], Any, Any, Callable[[Any, Any], list[Any]]]:
    """What the models on MovieLens have in common.

    Returns:
        The inputs, the vector of the film in question (batch, 1, dim), those of the history
        (batch, time, dim), and what turns ids of films and of ratings into vectors.
    """
    plain_l2 = keras.regularizers.L2(film_l2) if film_l2 and film_counts is None else None
    film_embedding = layers.Embedding(
        len(genre_shares), 16, embeddings_regularizer=plain_l2, mask_zero=True, name="films"
    )
    # A film's genres are a fixed table inside the model: whoever asks it needs film ids only.
    film_genres = layers.Embedding(
        *genre_shares.shape, weights=genre_shares, mask_zero=True, trainable=False, name="genres"
    )
    # Shares times embeddings is the mean over the film's genres, so Dense is their embedding.
    genre_embedding = layers.Dense(genre_units, use_bias=False, name="genre_embedding")
    ratings = layers.Embedding(NOT_RATED + 1, 8, mask_zero=True, name="rating_embedding")

    def vectors(films: Any, stars: Any) -> list[Any]:
        return [film_embedding(films), genre_embedding(film_genres(films)), ratings(stars)]

    movie = keras.Input((1,), dtype="int32", name="movie")
    ids = keras.Input((None,), dtype="int32", name="history_movies")
    stars = keras.Input((None,), dtype="int32", name="history_ratings")
    # The attention compares both part by part, so the film in question needs a rating, too.
    asked, events = vectors(movie, ops.full_like(movie, NOT_RATED)), vectors(ids, stars)
    if film_counts is not None:
        # Together: film in question and history share the table, and a row in both counts once.
        decay = MiniBatchAwareL2(film_counts, film_l2, name="decay")
        asked[0], events[0] = decay([asked[0], events[0]], [movie, ids])
    return [movie, ids, stars], layers.Concatenate()(asked), layers.Concatenate()(events), vectors


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


def stars(rating: int) -> str:
    """Rating id as people read it."""
    return f"{rating / 2:g}★"


def draw_attention(din: keras.Model, data: MovieLens, user: int, file: Path) -> None:
    """Draw the films that a user rated last, of the best known, against those rated before."""
    first, end = data.span(user)
    cut = end - (end - first) // 5  # what is held out
    films = np.unique(data.movie[cut:end])
    films = films[np.argsort(-np.bincount(data.movie)[films], kind="stable")[:10]]
    seen = slice(max(first, cut - 14), cut)
    of_user = {field: ids[data.user[seen][:1]] for field, ids in data.users.items()}
    of_user |= {"history_movies": data.movie[seen], "history_ratings": data.rating[seen]}
    inputs = {name: np.tile(ids, (len(films), 1)) for name, ids in of_user.items()}
    inputs["movie"] = films[:, None]
    probability, weights = attention_model(din).predict(inputs, verbose=0)
    order = np.argsort(-probability[:, 0], kind="stable")
    given = dict(zip(data.movie[cut:end], map(stars, data.rating[cut:end]), strict=True))
    rows = [
        f"{shorten(data.titles[film], 28)}  {given[film]}  p = {p:.2f}"
        for film, p in zip(films[order], probability[order, 0], strict=True)
    ]
    columns = [
        f"{shorten(data.titles[film], 28)}  {stars(rating)}"
        for film, rating in zip(data.movie[seen], data.rating[seen], strict=True)
    ]
    # Times the number of films: 1 is the weight that a plain mean gives to every film.
    figure = heat_map(weights[order, 0] * len(columns), rows, columns)
    figure.suptitle(
        "What a trained DIN looks at, asked about films that one user rated later", size=15
    )
    save(figure, file)


def run(options: argparse.Namespace) -> None:
    data, shares = options.data, genre_shares(options.data)
    train_part, test = split(data)
    inputs, test_inputs, label = inputs_of(train_part), inputs_of(test), train_part.label[:, None]

    def score(model: keras.Model) -> dict[str, Scores]:
        return {"test": measure(test.label, predict(model, test_inputs), test.user)}

    found: dict[str, list[Scores]] = {"attention (DIN)": [], "mean": []}
    trained = []
    for seed in options.seeds:
        for name, of_model in found.items():
            print(f"\nTraining: {name}, seed {seed}", flush=True)
            keras.utils.set_random_seed(seed)
            model = build_din(shares, pooling=name.split()[0])
            epochs = train(model, inputs, label, epochs=options.epochs, score=score)
            of_model.append(epochs[-1].scores["test"])
            trained.append(model)
    print(
        f"\n{table({name: score_columns(of_model) for name, of_model in found.items()})}\nOn what"
        " was held out. GAUC: the mean of the users' own AUCs, weighted by their ratings.\nAnother"
        " seed alone moves a score by .003 or so."
    )
    din = trained[0]
    din.save(options.out / "din.keras")
    again = keras.models.load_model(options.out / "din.keras")
    np.testing.assert_array_equal(predict(again, test_inputs), predict(din, test_inputs))
    # To look at: who has about 200 ratings, which is plenty, some of them held out.
    count = np.bincount(data.user)
    user = int(np.argmin(np.where(count < 5, np.inf, np.abs(count - 200))))
    draw_attention(din, data, user, options.out / "attention.png")
