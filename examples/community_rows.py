"""The rows of the community feed: their format, reading and checking them, and drawing many more.

A row is one article shown to one reader. `data/community_feed.csv` has ten:

    act              1 if the reader opened it, else 0
    client_id        the reader
    client_type      the reader's kind of device
    post_type        the article's form: text or video
    topic_id         the article's topic
    follow_topic_id  the topics that the reader follows: "225,158,139"
    all_topic_fav_7  what the reader read in a week, as topic:weight: "1:0.4074,177:0.1217"
    hist_topic_id    the topics of the articles that the reader opened, in order
    keyword_id       the article's main keyword
    hist_keyword_id  the main keywords of the articles in hist_topic_id, one for each

All ids are strings. In the lists "0" is kept for padding, so no list may contain it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from movielens import DataError, Floats, Longs
from tqdm import tqdm, trange

COLUMNS = (
    "act",
    "client_id",
    "client_type",
    "post_type",
    "topic_id",
    "follow_topic_id",
    "all_topic_fav_7",
    "hist_topic_id",
    "keyword_id",
    "hist_keyword_id",
)
PADDING = "0"
WEIGHT = re.compile(r"\d+(\.\d*)?([eE][-+]?\d+)?", re.ASCII)
LARGEST = float(np.finfo(np.float32).max)
TEN_ROWS = Path(__file__).parent / "data" / "community_feed.csv"


# Reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """The rows of a file that are in order, and what is wrong with the others."""

    lines: list[str]
    labels: list[int]
    problems: list[str]  # one for each malformed row, naming its line


def read(file: Path, limit: int | None = None) -> Rows:
    """Read and check a file; `limit` keeps its first rows only.

    A row that cannot be used is left out and named. A file that cannot is a DataError.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as text:
        lines = [line.rstrip("\n") for line in text]
    header = next(csv.reader(lines[:1]), [])
    if tuple(header) != COLUMNS:
        raise DataError(f"{file}, line 1: must be {','.join(COLUMNS)}")
    rows = Rows([], [], [])
    for number, line in enumerate(tqdm(lines[1:][:limit], "reading", disable=None), start=2):
        try:
            fields = _checked(line)
        except ValueError as error:
            rows.problems.append(f"{file}, line {number}: {error}")
        else:
            rows.lines.append(csv_line(fields))
            rows.labels.append(int(fields[0]))
    if not rows.lines:
        first = f" ({rows.problems[0]})" if rows.problems else ""
        raise DataError(f"{file}: no usable row{first}")
    return rows


def _checked(line: str) -> list[str]:
    """Return the fields of a row, or raise a ValueError that says what is wrong with it."""
    try:
        fields = next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} fields instead of {len(COLUMNS)}")
    row = dict(zip(COLUMNS, fields, strict=True))
    if "\ufffd" in line or "\0" in line:
        raise ValueError("not UTF-8 text")
    if row["act"] not in ("0", "1"):
        raise ValueError(f"act: {row['act']!r} is neither 0 nor 1")
    for column in ("client_type", "post_type", "topic_id", "keyword_id"):
        if not row[column]:
            raise ValueError(f"{column}: empty")
    for column in ("follow_topic_id", "hist_topic_id", "hist_keyword_id"):
        _check_ids(column, _split(row[column]))
    _check_ids("all_topic_fav_7", [_key(pair) for pair in _split(row["all_topic_fav_7"])])
    topics, keywords = (len(_split(row[f"hist_{name}_id"])) for name in ("topic", "keyword"))
    if topics != keywords:
        raise ValueError(f"hist_topic_id has {topics} entries, hist_keyword_id {keywords}")
    return fields


def _split(text: str) -> list[str]:
    return text.split(",") if text else []


def _check_ids(column: str, ids: Iterable[str]) -> None:
    for one in ids:
        if one in ("", PADDING):
            raise ValueError(f"{column}: {one!r} is not an id")


def _key(pair: str) -> str:
    key, _, weight = pair.partition(":")
    if not WEIGHT.fullmatch(weight) or float(weight) > LARGEST:
        raise ValueError(f"all_topic_fav_7: {pair!r} is not id:weight")
    return key


def csv_line(fields: Sequence[object]) -> str:
    """Return a row as a line, quoted where needed, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


# Drawing ---------------------------------------------------------------------------------------

TOPICS = 40  # few, so that some thousands of rows show each of them often
NEWS = range(1, 21)  # the keywords of news
LONG_READS = range(21, 41)  # and of the other half of the articles


@dataclass(frozen=True)
class DrawnRows:
    """Rows and, for each, the probability that its label was drawn with."""

    fields: list[list[object]]
    probability: Floats


def draw(count: int, seed: int) -> DrawnRows:
    """Draw rows of the same format.

    A reader has opened 4 to 12 articles, each on another topic and either news or a long read, as
    its keyword tells. The article in question is on one of these topics, and they open it, mostly,
    if they had read news on it. To know that, a model must find the one event of the history with
    the topic in question; a mean over the history tells no more than the share of news. Two weaker
    effects need no history: device and form, and the weight of the topic among the favourites.
    """
    rng = np.random.default_rng(seed)
    topics = rng.choice(np.arange(1, 700), TOPICS, replace=False)
    drawn = [_draw_row(rng, topics) for _ in trange(count, desc="drawing", disable=None)]
    rows, log_odds = zip(*drawn, strict=True)
    probability = 1 / (1 + np.exp(-np.array(log_odds)))
    opened = (rng.random(count) < probability).astype(int)
    return DrawnRows([[act, *row] for act, row in zip(opened, rows, strict=True)], probability)


def _draw_row(rng: np.random.Generator, topics: Longs) -> tuple[list[object], float]:
    """Return a row without its label, and the log odds of an open."""
    events = int(rng.integers(4, 13))
    history = rng.choice(topics, events, replace=False)
    keywords = rng.choice(np.r_[NEWS, LONG_READS], events)
    asked = int(rng.integers(events))
    # The topic in question is among the favourites of every second reader.
    first = history[asked : asked + 1] if rng.random() < 0.5 else topics[:0]
    favourites = np.unique(np.r_[first, rng.choice(topics, 3)])
    weights = rng.dirichlet(np.ones(len(favourites))).round(4)
    followed = rng.permutation(np.union1d(history, rng.choice(topics, 2)))
    client_type, post_type = rng.integers(0, 2, 2)
    row = [
        rng.integers(1, 100_000),
        client_type,
        post_type,
        history[asked],
        _joined(followed),
        _joined(f"{topic}:{weight}" for topic, weight in zip(favourites, weights, strict=True)),
        _joined(history),
        rng.choice(np.r_[NEWS, LONG_READS]),
        _joined(keywords),
    ]
    favour = float(weights[favourites == history[asked]].sum())
    log_odds = (
        (2 if keywords[asked] in NEWS else -2)
        + (0.8 if client_type == post_type else -0.8)
        + 3 * (favour - 0.15)
    )
    return row, log_odds


def _joined(ids: Iterable[object]) -> str:
    return ",".join(map(str, ids))


def write(rows: DrawnRows, file: Path) -> None:
    """Write rows as a file that `read` reads."""
    with file.open("w", encoding="utf-8", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows.fields)
