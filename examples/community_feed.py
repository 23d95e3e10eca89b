"""DIN on the feed of a community: will this reader open this article? Raw strings in.

The rows are CSV lines with lists of ids and of id:weight in their fields (see `community_rows.py`).
Trains a Deep Interest Network and, beside it, the same network with a plain mean over the history;
prints one table for both; saves the DIN, loads it in a fresh process and scores ten raw lines.

    python examples/community_feed.py                 # 20,000 drawn rows
    python examples/community_feed.py --rows 0        # the ten rows in data/community_feed.csv
    python examples/community_feed.py --data my.csv   # your rows
    tensorboard --logdir runs/community_feed/logs

In the drawn rows, what counts is what a reader had read *on the topic in question*, news or a long
read: attention can find that event, a mean over the history cannot. Seeds 0, 1 gave, on the
held-out rows:

    attention (DIN)       AUC .8793 .8815   log loss .4322 .4309
    mean                  AUC .6701 .6808   log loss .6471 .6535
    (the best there is)   AUC .9060 .9095   log loss .3828 .3785

In `runs/community_feed` are then `serving/`, a SavedModel whose `score` takes raw lines and which
loads with TensorFlow alone; `feed.keras`, to train on; `rows.csv`, the rows it was trained with;
`logs/` for TensorBoard; and `training.png`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import community_rows
import numpy as np
from command_line import Parser, UsageError, add_epochs, example_parser, run_example, whole
from community_rows import COLUMNS, TEN_ROWS, Rows
from movielens import Floats

# What is slow to import is imported where it is needed: a mistyped option is answered at once.
if TYPE_CHECKING:
    from community_model import Run
    from matplotlib.axes import Axes

FILES = ("serving/", "feed.keras", "rows.csv", "logs/", "training.png")
DRAWN = 20_000
FEWEST_TO_HOLD_OUT = 100
SHOWN_PROBLEMS = 10


# Rows ------------------------------------------------------------------------------------------


def rows_to_train_with(options: argparse.Namespace, file: Path) -> tuple[Rows, Floats | None]:
    """Write the rows to `file`, and return them; with their true probabilities if drawn."""
    count = options.rows
    if count is None:
        count = 0 if options.data else DRAWN
    if options.data and count:
        raise UsageError("argument --rows: not together with --data, which has its own rows")
    probability = None
    source = options.data or TEN_ROWS
    if count:
        drawn = community_rows.draw(count, options.seed)
        community_rows.write(drawn, file)
        source, probability = file, drawn.probability[: options.limit]
    rows = community_rows.read(source, options.limit)
    if not count:
        lines = [community_rows.csv_line(COLUMNS), *rows.lines]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return rows, probability


def print_problems(problems: Sequence[str]) -> None:
    """Print how many rows were left out, and why."""
    if not problems:
        return
    print(f"{len(problems):,} malformed rows left out:")
    for problem in problems[:SHOWN_PROBLEMS]:
        print(f"  {problem}")
    if len(problems) > SHOWN_PROBLEMS:
        print(f"  and {len(problems) - SHOWN_PROBLEMS:,} more")


# Results ---------------------------------------------------------------------------------------


def print_table(
    runs: Sequence[Run], lines: Sequence[str], label: Floats, probability: Floats | None
) -> None:
    """Print one line per model, and one for the rule that drew the labels."""
    from community_model import predict
    from din import auc
    from sklearn.metrics import log_loss

    def line(name: str, predicted: Floats, rest: str = "") -> None:
        predicted = predicted.astype(np.float64)
        loss = log_loss(label, predicted, labels=[0, 1])
        print(f"{name:<18} {auc(label, predicted):>7.4f} {loss:>9.4f}{rest}")

    print(
        f"\n{'history pooled by':<18} {'AUC':>7} {'log loss':>9} {'parameters':>11} {'seconds':>8}"
    )
    for run in runs:
        line(run.name, predict(run.model, lines), f" {run.parameters:>11,} {run.seconds:>8.1f}")
    if probability is not None:
        line("(the best there is)", probability)
        print("The best there is: scores of the probabilities that the labels were drawn with.")


def score_ten_rows(run: Run, staging: Path) -> None:
    """Save the model in both forms, load both in a fresh process, and score the ten rows there."""
    from community_model import RELOAD, export, predict
    from fresh_program import run_program

    export(run.model, staging / "serving")
    run.model.save(staging / "feed.keras")
    answer = staging / "answers.npy"
    run_program(RELOAD, staging / "serving", staging / "feed.keras", TEN_ROWS, answer)
    ten = community_rows.read(TEN_ROWS)
    answers = np.load(answer)
    difference = np.abs(answers - predict(run.model, ten.lines)).max()
    print(
        f"\nThe ten rows of {TEN_ROWS.name}, scored as raw lines by the saved models in a fresh"
        f" process.\nLargest difference from the model before it was saved: {difference:.1g}"
    )
    # The exported graph may add up in another order, in float32.
    if not difference <= 1e-6:
        raise RuntimeError(f"the loaded model predicts something else: {difference} apart")
    print(f"{'probability':>11}  {','.join(COLUMNS)}")
    for probability, line in zip(answers[0], ten.lines, strict=True):
        print(f"{probability:>11.3f}  {line}")


# The picture -----------------------------------------------------------------------------------


def draw(runs: Sequence[Run], lines: Sequence[str], best: float | None, file: Path) -> None:
    """Draw how the training went, and what the attention looks at."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    training, attention = figure.subplots(1, 2)
    draw_training(training, runs, best)
    draw_attention(attention, runs[0], lines)
    figure.savefig(file, dpi=110)


def draw_training(axes: Axes, runs: Sequence[Run], best: float | None) -> None:
    """Draw the AUC after each epoch."""
    from matplotlib.ticker import MaxNLocator

    for run, colour in zip(runs, ("tab:blue", "tab:orange"), strict=True):
        epochs = range(1, len(run.training_auc) + 1)
        axes.plot(epochs, run.training_auc, "--", color=colour, label=f"{run.name}, training")
        if run.held_out_auc:
            axes.plot(epochs, run.held_out_auc, "o-", color=colour, label=f"{run.name}, held out")
    if best is not None:
        axes.axhline(best, color="grey", linestyle=":", label="the best there is")
    axes.set_title("AUC (training: mean while the epoch runs)")
    axes.set_xlabel("epoch")
    axes.set_ylim(0.4, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def draw_attention(axes: Axes, run: Run, lines: Sequence[str], count: int = 14) -> None:
    """Draw the attention's weights for the longest histories; frame events on the topic asked."""
    from community_model import SCORING_BATCH, dataset
    from din import attention_model
    from matplotlib.patches import Rectangle

    longest = sorted(lines, key=lambda line: -line.count(","))[:count]
    features, _ = next(iter(dataset(longest, SCORING_BATCH)))
    _, weights = attention_model(run.model).predict_on_batch(features)
    weights = weights[:, 0]
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    topics = features["hist_topic_id"].numpy()
    for row, column in np.argwhere(topics == features["topic_id"].numpy()):
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2)
        )
    for row, column in np.argwhere(topics != b"0"):
        dark = weights[row, column] > 0.6
        text = topics[row, column].decode()
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks([])
    axes.set_yticks(
        range(len(longest)),
        [f"topic {topic.decode()}" for (topic,) in features["topic_id"].numpy()],
    )
    axes.set_xlabel("topics of the history, first to last; framed: the topic in question")
    axes.set_title("Attention weights: rows are articles in question")
    axes.figure.colorbar(image, ax=axes, label="weight")


# The job ---------------------------------------------------------------------------------------


def parser() -> Parser:
    """All options."""
    result = example_parser(
        "Train a Deep Interest Network on the rows of a community feed.",
        out=Path("runs/community_feed"),
        files=FILES,
    )
    result.add_argument(
        "--rows",
        type=whole(0),
        metavar="N",
        help=f"draw N rows to train with (default: {DRAWN:,}); 0 takes {TEN_ROWS.name}",
    )
    result.add_argument("--data", type=Path, metavar="FILE", help="train with the rows of this CSV")
    result.add_argument("--limit", type=whole(1), metavar="N", help="use only the first N rows")
    add_epochs(result, 4)
    return result


def run(options: argparse.Namespace, staging: Path) -> None:
    """Do the whole job; the files go to `staging`."""
    rows, probability = rows_to_train_with(options, staging / "rows.csv")
    print_problems(rows.problems)
    held_out = len(rows.lines) // 5 if len(rows.lines) >= FEWEST_TO_HOLD_OUT else 0
    cut = len(rows.lines) - held_out
    print(
        f"{len(rows.lines):,} rows: {cut:,} to train with, "
        + (f"the last fifth ({held_out:,}) held out" if held_out else "too few to hold some out"),
        flush=True,
    )

    # Only now, with arguments and rows in order: TensorFlow takes seconds to start.
    from community_model import build_community_feed, train
    from din import auc

    runs = [
        train(
            name,
            build_community_feed(pooling=pooling, seed=options.seed),
            rows.lines[:cut],
            rows.lines[cut:],
            epochs=options.epochs,
            seed=options.seed,
            logs=staging / "logs" / pooling,
        )
        for name, pooling in (("attention (DIN)", "attention"), ("mean", "mean"))
    ]
    tested = slice(cut if held_out else 0, None)
    label = np.array(rows.labels[tested])
    if probability is not None:
        probability = probability[tested]
    print_table(runs, rows.lines[tested], label, probability)
    if not held_out:
        print("These are the rows that the models were trained with: no measure of anything new.")
    score_ten_rows(runs[0], staging)
    best = None if probability is None else auc(label, probability)
    draw(runs, rows.lines[tested], best, staging / "training.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; return the exit code."""
    return run_example("community_feed", parser(), run, FILES, argv)


if __name__ == "__main__":
    sys.exit(main())
