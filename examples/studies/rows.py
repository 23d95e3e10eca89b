"""The rows of a community's feed: their form, the ten published ones, and drawing many more.

A row is one article shown to one reader. `community_feed.csv` has ten. All ids are strings; in the
lists "0" is kept for padding, so no list may contain it.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import trange

from studies.data import Floats, Ints

PADDING = "0"
COLUMNS = [
    "act",  # 1 if the reader opened it, else 0
    "client_id",  # the reader
    "client_type",  # the reader's kind of device
    "post_type",  # the article's form: text or video
    "topic_id",  # the article's topic
    "follow_topic_id",  # the topics that the reader follows: "225,158,139"
    "all_topic_fav_7",  # what the reader read in a week, topic:weight: "1:0.4074,177:0.1217"
    "hist_topic_id",  # the topics of the articles that the reader opened, in order
    "keyword_id",  # the article's main keyword
    "hist_keyword_id",  # the main keywords of the articles in hist_topic_id, one for each
]
TEN_ROWS = Path(__file__).parent / "community_feed.csv"
DRAWN = 20_000
TOPICS = 40  # few, so that some thousands of rows show each of them often
NEWS = range(1, 21)  # the keywords of news
LONG_READS = range(21, 41)  # and of the other half of the articles


class Rows(NamedTuple):
    """CSV lines without header; and the true probabilities of the labels, if they were drawn."""

    lines: list[str]
    label: Ints
    probability: Floats | None = None


def ten_rows(limit: int | None = None) -> Rows:
    """Read the published rows, or the first `limit` of them."""
    lines = TEN_ROWS.read_text(encoding="utf-8").splitlines()[1:][:limit]
    return Rows(lines, np.array([int(line[0]) for line in lines]))


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
    text = pd.DataFrame(fields).to_csv(index=False, header=False, lineterminator="\n")
    return Rows(text.splitlines(), label, probability)


def _draw_row(rng: np.random.Generator, topics: Ints) -> tuple[list[object], float]:
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
