"""DIN and its mean-pooling twin on MovieLens: the models, their training and their scores.

`build_model` is the part to take along: a Deep Interest Network (AttentionPoolingLayer with Dice)
over films, their genres and the ratings they were given; or the same network with a plain mean over
the history. `din_movielens.py` is the job around it.
"""

from __future__ import annotations

import functools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from fresh_program import run_program
from hidden_layers import activation_layer
from movielens import RATING_IDS, Examples, Floats, Ints, Longs, MovieLens
from sklearn.metrics import log_loss, roc_auc_score

from din_layers import AttentionPoolingLayer, MiniBatchAwareL2, SequencePoolingLayer

BATCH = 256
SCORING_BATCH = 2048
LEARNING_RATE = 1e-3
NOT_RATED = len(RATING_IDS) + 1  # the rating id of the film in question


# The model -------------------------------------------------------------------------------------


def build_model(
    genre_shares: Floats,
    *,
    pooling: str = "attention",
    candidates: int | None = 1,
    film_units: int = 16,
    genre_units: int = 8,
    rating_units: int = 8,
    attention_units: Sequence[int] = (80, 40),
    attention_activation: str = "dice",
    hidden_units: Sequence[int] = (64, 32),
    activation: str = "dice",
    synchronized: bool = False,
    weight_normalization: bool = True,
    scale: bool = False,
    film_l2: float = 1e-3,
    film_frequencies: Longs | None = None,
    ragged: bool = False,
    seed: int | None = None,
) -> keras.Model:
    """Probability that a user with this history likes the film in question.

    Inputs: `movie` (batch, candidates), `history_movies` and `history_ratings` (batch, history),
    ids with 0 for padding; histories may have any length. Output: (batch, candidates).

    Args:
        genre_shares: One row per film id: the share of each genre, zeros in row 0.
        pooling: "attention" for DIN, "mean" or "sum" to compare with.
        candidates: How many films are in question at once, with one history; None for any number.
        film_units: Size of the embedding of a film's id.
        genre_units: Size of the embedding of a genre; a film has the mean of its genres.
        rating_units: Size of the embedding of the rating that a film was given.
        attention_units: Hidden units of the attention's own network.
        attention_activation: Their activation, "dice", "prelu" or one of Keras's.
        hidden_units: Hidden units of the network that gives the probability.
        activation: Their activation, likewise.
        synchronized: Whether the batch of Dice is that of all replicas under `tf.distribute`.
        weight_normalization: As in `AttentionPoolingLayer`.
        scale: As in `AttentionPoolingLayer`.
        film_l2: Weight decay of the film embedding: most films have a handful of ratings, which
            it would learn by heart.
        film_frequencies: How often each film id stands in the training data. If given, the weight
            decay is mini-batch aware.
        ragged: Whether histories come as `tf.RaggedTensor`, without padding.
        seed: If given, the seed of everything random in Keras, weights included.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    by_name = functools.partial(activation_layer, synchronized=synchronized)
    plain_l2 = film_l2 if film_frequencies is None else 0.0
    films = film_vectors(genre_shares, film_units, genre_units, plain_l2, mask_zero=not ragged)
    decay = None
    if film_frequencies is not None:
        decay = MiniBatchAwareL2(film_frequencies, film_l2, name="decay")
    inputs, candidate, history = rated_films(
        films, rating_embedding(rating_units, not ragged), candidates, ragged, decay
    )
    if pooling == "attention":
        attention = AttentionPoolingLayer(
            tuple(attention_units),
            att_activation=by_name(attention_activation),
            weight_normalization=weight_normalization,
            scale=scale,
            name="attention",
        )
        # `attention_model` wants the weights. Keras (3.15) cannot call a layer a second time with
        # another number of outputs, so they are asked for here, where they cost nothing.
        pooled, _ = attention([candidate, history], return_attention_scores=True)
    else:
        pooled = SequencePoolingLayer(mode=pooling, name=pooling)(history)

    # The product gives the dense layers the terms of an inner product.
    product = keras.layers.Multiply(name="product")([candidate, pooled])
    x = keras.layers.Concatenate(name="joined")([candidate, pooled, product])
    for units in hidden_units:
        x = keras.layers.Dense(units)(x)
        x = by_name(activation)(x)
    output = keras.layers.Dense(1, activation="sigmoid", name="probability")(x)
    output = keras.ops.squeeze(output, -1)
    return keras.Model(inputs, output, name=pooling)


def rated_films(
    films: Callable[[Any], list[Any]],
    ratings: keras.layers.Embedding,
    candidates: int | None = 1,
    ragged: bool = False,
    decay: MiniBatchAwareL2 | None = None,
) -> tuple[list[Any], Any, Any]:
    """Return the inputs, the candidates (batch, candidates, dim), the history (batch, time, dim).

    A film's vector has the rating that it was given in it.
    """
    movie = keras.Input((candidates,), dtype="int32", name="movie")
    history_movies = keras.Input((None,), dtype="int32", ragged=ragged, name="history_movies")
    history_ratings = keras.Input((None,), dtype="int32", ragged=ragged, name="history_ratings")
    ids, stars = history_movies, history_ratings
    if ragged:  # Keras's own layers take no ragged input; what they do here, they do per event
        ids, stars = RaggedValues(name="ids")(ids), RaggedValues(name="ratings")(stars)

    (film, *film_parts), (event, *event_parts) = films(movie), films(ids)
    if decay is not None:
        # Together: film in question and history share the table, and a row in both counts once.
        film, event = decay([film, event], [movie, ids])
    # The attention compares both part by part, so the film in question needs a rating, too.
    not_rated = keras.ops.full_like(movie, NOT_RATED)
    # Keras's Concatenate hands the mask on, which `keras.ops.concatenate` would drop.
    candidate = keras.layers.Concatenate(name="candidate")([film, *film_parts, ratings(not_rated)])
    history = keras.layers.Concatenate(name="history")([event, *event_parts, ratings(stars)])
    if ragged:
        history = RaggedLike(name="histories")([history, history_movies])
    return [movie, history_movies, history_ratings], candidate, history


def rating_embedding(units: int, mask_zero: bool = True) -> keras.layers.Embedding:
    """Return the embedding of the rating that a film was given."""
    return keras.layers.Embedding(
        NOT_RATED + 1, units, mask_zero=mask_zero, name="rating_embedding"
    )


def film_vectors(
    genre_shares: Floats,
    film_units: int,
    genre_units: int,
    film_l2: float,
    mask_zero: bool = True,
) -> Callable[[Any], list[Any]]:
    """Return what turns film ids into vectors; film in question and history share it.

    They are the embedding of the film and the mean of the embeddings of its genres.
    """
    film_embedding = keras.layers.Embedding(
        len(genre_shares),
        film_units,
        mask_zero=mask_zero,
        embeddings_regularizer=keras.regularizers.L2(film_l2) if film_l2 else None,
        name="film_embedding",
    )
    # A film's genres are a fixed table inside the model: whoever asks it needs film ids only.
    film_genres = keras.layers.Embedding(
        *genre_shares.shape,
        weights=genre_shares,
        mask_zero=mask_zero,
        trainable=False,
        name="genres",
    )
    # Shares times embeddings is the mean over the film's genres, so Dense is their embedding.
    genre_embedding = keras.layers.Dense(genre_units, use_bias=False, name="genre_embedding")
    return lambda ids: [film_embedding(ids), genre_embedding(film_genres(ids))]


@keras.saving.register_keras_serializable(package="din_layers_examples")
class RaggedValues(keras.Layer):
    """The events of a ragged tensor one after the other, (batch, time) to (events,)."""

    def call(self, x: Any) -> Any:
        return x.values

    def compute_output_spec(self, x: Any) -> keras.KerasTensor:
        return keras.KerasTensor((None,), x.dtype)


@keras.saving.register_keras_serializable(package="din_layers_examples")
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

    It shares the trained layers; the weights (batch, 1, history) add up to 1 and are 0 at padding.
    """
    _, weights = din.get_layer("attention").output
    return keras.Model(din.inputs, [din.output, weights])


def genre_shares(data: MovieLens) -> Floats:
    """Row per film, column per genre: 1 / (number of the film's genres), or 0. Padding: zeros."""
    has = np.zeros((len(data.titles), len(data.genre_names)), np.float32)
    np.put_along_axis(has, data.genres, 1, axis=1)
    has[:, 0] = 0
    return has / np.maximum(has.sum(axis=1, keepdims=True), 1)


def model_inputs(movie: Ints, history_movies: Ints, history_ratings: Ints) -> dict[str, Ints]:
    """Name the arrays as the model's inputs are named."""
    return {
        "movie": movie[:, None],
        "history_movies": history_movies,
        "history_ratings": history_ratings,
    }


def inputs_of(questions: Examples) -> dict[str, Ints]:
    """Examples as the model takes them."""
    return model_inputs(questions.movie, questions.history_movies, questions.history_ratings)


InputsOf = Callable[[Examples], dict[str, Ints]]


# Measuring -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """How good the predictions for the held-out ratings are; NaN where it is not defined."""

    auc: float
    user_auc: float
    log_loss: float


def auc(label: Ints, probability: Floats) -> float:
    """Area under the ROC curve, NaN if there is only one class."""
    if label.min() == label.max():
        return math.nan
    return float(roc_auc_score(label, probability))


def user_weighted_auc(user: Ints, label: Ints, probability: Floats) -> float:
    """Mean of the users' own AUCs, weighted by how many ratings each has (GAUC, DIN paper 6.2).

    Users with one class only have no AUC and are left out; NaN if nobody is left.
    """
    frame = pd.DataFrame({"user": user, "label": label, "probability": probability})
    # AUC by rank sums: ties share their mean rank, which counts a tied pair as one half.
    frame["liked_rank"] = frame.groupby("user")["probability"].rank() * frame["label"]
    users = frame.groupby("user").agg(
        ratings=("label", "size"), liked=("label", "sum"), rank_sum=("liked_rank", "sum")
    )
    pairs = users["liked"] * (users["ratings"] - users["liked"])
    users, pairs = users[pairs > 0], pairs[pairs > 0]
    if users.empty:
        return math.nan
    user_auc = (users["rank_sum"] - users["liked"] * (users["liked"] + 1) / 2) / pairs
    return float(np.average(user_auc, weights=users["ratings"]))


def measure(questions: Examples, probability: Floats) -> Scores:
    """All scores of the table."""
    probability = probability.astype(np.float64)
    return Scores(
        auc=auc(questions.label, probability),
        user_auc=user_weighted_auc(questions.user, questions.label, probability),
        log_loss=float(log_loss(questions.label, probability, labels=[0, 1])),
    )


def predict(model: keras.Model, inputs: dict[str, Ints]) -> Floats:
    """Probability per row."""
    return np.asarray(model.predict(inputs, batch_size=SCORING_BATCH, verbose=0))[:, 0]


# Training --------------------------------------------------------------------------------------


class HeldOutScores(keras.callbacks.Callback):
    """After each epoch: score the held-out ratings. Only shown; nothing is chosen by them."""

    def __init__(self, questions: Examples, inputs_of: InputsOf = inputs_of) -> None:
        super().__init__()
        self.questions = questions
        self.inputs = inputs_of(questions)
        self.scores: list[Scores] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Score, and let Keras print the result in its own line."""
        self.scores.append(measure(self.questions, predict(self.model, self.inputs)))
        if logs is not None:
            logs["held_out_auc"] = self.scores[-1].auc
            logs["held_out_log_loss"] = self.scores[-1].log_loss


@dataclass(frozen=True)
class Run:
    """One trained model and what the table and the picture say about it."""

    name: str
    model: keras.Model
    training_log_loss: list[float]
    held_out: list[Scores]
    seconds: float

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(math.prod(weight.shape) for weight in self.model.trainable_variables)


def train(
    name: str,
    title: str,
    model: keras.Model,
    questions: Examples,
    test: Examples,
    epochs: int,
    inputs_of: InputsOf = inputs_of,
) -> Run:
    """Train with Adam on the log loss; `inputs_of` makes the model's inputs from the examples."""
    print(f"\n{title}", flush=True)
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        loss="binary_crossentropy",
        # The loss that Keras prints contains the weight decay; this one does not.
        metrics=[keras.metrics.BinaryCrossentropy(name="log_loss")],
        # Compiling with XLA takes longer than it saves in the few epochs that this data bears.
        jit_compile=False,
    )
    held_out_scores = HeldOutScores(test, inputs_of)
    start = time.perf_counter()
    history = model.fit(
        inputs_of(questions),
        questions.label[:, None],
        batch_size=BATCH,
        epochs=epochs,
        callbacks=[held_out_scores],
        # A progress bar on a terminal, one line per epoch in a log.
        verbose=1 if sys.stdout.isatty() else 2,
    )
    seconds = time.perf_counter() - start
    return Run(name, model, history.history["log_loss"], held_out_scores.scores, seconds)


# Saving ----------------------------------------------------------------------------------------

RELOAD = """
import sys
import numpy as np
import din_layers  # registers the layers, which is all that loading needs
import keras
model = keras.models.load_model(sys.argv[1])
with np.load(sys.argv[2]) as inputs:
    predictions = model.predict(dict(inputs), batch_size=int(sys.argv[4]), verbose=0)
np.save(sys.argv[3], predictions[:, 0])
"""


def difference_after_reload(model_file: Path, inputs: dict[str, Ints], expected: Floats) -> float:
    """Load a saved model in a fresh process; return how far its predictions are off at most."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "inputs.npz"), Path(folder, "predictions.npy")
        np.savez(asked, **inputs)
        run_program(RELOAD, model_file, asked, answered, SCORING_BATCH)
        return float(np.max(np.abs(np.load(answered) - expected)))


def save_and_check(
    model: keras.Model,
    questions: Examples,
    file: Path,
    inputs_of: InputsOf = inputs_of,
    title: str = "DIN",
) -> None:
    """Save the model, and make sure that it predicts the same where it is loaded."""
    model.save(file)
    inputs = inputs_of(questions)
    difference = difference_after_reload(file, inputs, predict(model, inputs))
    print(
        f"\nThe saved {title}, loaded in a fresh process: {len(questions.movie):,} predictions,"
        f" largest difference {difference:.1g}"
    )
    if difference > 1e-6:
        raise RuntimeError(f"the loaded model predicts something else: {difference} apart")


# Asking ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What the DIN says about films in question, for one history."""

    movie: Ints  # (films in question,)
    probability: Floats  # (films in question,)
    history_movies: Ints  # (history,)
    history_ratings: Ints  # (history,)
    weights: Floats  # (films in question, history)


def ask(explained: keras.Model, movie: Ints, history_movies: Ints, history_ratings: Ints) -> Answer:
    """Ask a model from `attention_model` about films, all of them with one history."""
    repeat = (len(movie), 1)
    inputs = model_inputs(movie, np.tile(history_movies, repeat), np.tile(history_ratings, repeat))
    probability, weights = explained.predict(inputs, batch_size=SCORING_BATCH, verbose=0)
    return Answer(movie, probability[:, 0], history_movies, history_ratings, weights[:, 0])
