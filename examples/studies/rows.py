"""The rows of a community's feed: their form, reading and checking them, and drawing many more.

A row is one article shown to one reader. `community_feed.csv` has ten:

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

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import trange

from studies.data import DataError, Floats, Ints, Longs

PADDING = "0"
_IDS = r"((?!0(,|$))[^,\n]+(,(?!$)|$))*"
_PAIRS = r"((?!0:)[^,:\n]+:\d{1,30}(\.\d*)?([eE]-\d+)?(,(?!$)|$))*"
COLUMNS = {  # and what a field has to look like
    "act": "[01]",
    "client_id": ".*",
    "client_type": ".+",
    "post_type": ".+",
    "topic_id": ".+",
    "follow_topic_id": _IDS,
    "all_topic_fav_7": _PAIRS,
    "hist_topic_id": _IDS,
    "keyword_id": ".+",
    "hist_keyword_id": _IDS,
}
TEN_ROWS = Path(__file__).parent / "community_feed.csv"
DRAWN = 20_000


@dataclass(frozen=True)
class Rows:
    """CSV lines without header; and the true probabilities of the labels, if they were drawn."""

    lines: list[str]
    label: Ints
    probability: Floats | None = None


def load(options: argparse.Namespace) -> Rows:
    """Return the rows that the command line asks for."""
    if options.published or options.data:
        return read(TEN_ROWS if options.published else options.data, options.limit)
    return draw(options.limit or DRAWN, options.seed)


def read(file: Path, limit: int | None = None) -> Rows:
    """Read and check a file; `limit` keeps its first rows only."""
    try:
        frame = pd.read_csv(file, dtype=object, na_filter=False, index_col=False, nrows=limit)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error
    if list(frame) != list(COLUMNS):
        raise DataError(f"{file}: the first line must be {','.join(COLUMNS)}")
    if frame.empty:
        raise DataError(f"{file}: no rows in it")
    for column, form in COLUMNS.items():
        wrong = ~frame[column].astype(str).str.fullmatch(form).to_numpy(bool)
        if wrong.any():
            row = int(np.argmax(wrong))
            value = frame[column].iloc[row]
            raise DataError(f"{file}, row {row + 1}: {value!r} is no {column}")
    topics, keywords = (frame[f"hist_{name}_id"].str.count(",") for name in ("topic", "keyword"))
    empty = (frame["hist_topic_id"] == "") != (frame["hist_keyword_id"] == "")
    uneven = ((topics != keywords) | empty).to_numpy()
    if uneven.any():
        row = int(np.argmax(uneven)) + 1
        raise DataError(f"{file}, row {row}: hist_topic_id and hist_keyword_id differ in length")
    return Rows(_lines(frame), frame["act"].astype(np.int32).to_numpy())


def _lines(frame: pd.DataFrame) -> list[str]:
    return frame.to_csv(index=False, header=False, lineterminator="\n").split("\n")[:-1]


TOPICS = 40  # few, so that some thousands of rows show each of them often
NEWS = range(1, 21)  # the keywords of news
LONG_READS = range(21, 41)  # and of the other half of the articles


def draw(count: int, seed: int) -> Rows:
    """Draw rows of the same form.

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
    label = (rng.random(count) < probability).astype(np.int32)
    fields = [[act, *row] for act, row in zip(label, rows, strict=True)]
    return Rows(_lines(pd.DataFrame(fields, columns=list(COLUMNS))), label, probability)


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
    pairs = (f"{topic}:{weight}" for topic, weight in zip(favourites, weights, strict=True))
    row = [
        rng.integers(1, 100_000),
        client_type,
        post_type,
        history[asked],
        ",".join(map(str, followed)),
        ",".join(pairs),
        ",".join(map(str, history)),
        rng.choice(np.r_[NEWS, LONG_READS]),
        ",".join(map(str, keywords)),
    ]
    favour = float(weights[favourites == history[asked]].sum())
    log_odds = (
        (2 if keywords[asked] in NEWS else -2)
        + (0.8 if client_type == post_type else -0.8)
        + 3 * (favour - 0.15)
    )
    return row, log_odds
