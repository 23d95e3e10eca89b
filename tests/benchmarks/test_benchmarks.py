"""The benchmarks run on tiny sizes; what they measure there means nothing."""

import sys
from pathlib import Path

import attention
import fit
import fit_worker
import length
import memory
import numpy as np
import peers
import pytest
import run
from backends import NAME, WAYS, skip_padding
from helpers.backend import needs_tensorflow, recording
from studies.data import load
from studies.million import split_by_time
from tqdm import tqdm


@pytest.fixture(autouse=True)
def _gradients():
    with recording():
        yield


def test_sections_are_measured_and_written_beside_the_others(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(length, "BATCH", 2)
    for module in (attention, length):
        monkeypatch.setattr(module, "enough", lambda *_: 1)
    file = tmp_path / "results.md"
    kept = f"## memory on {NAME}: {run.SECTIONS['memory']}\n\nkept"
    file.write_text(f"old introduction\n\n{kept}\n", encoding="utf-8")
    chosen = [name for name in run.SECTIONS if name not in ("fit", "memory")]
    if NAME == "JAX":  # which compiles for long
        chosen = [name for name in chosen if name not in ("dice", "labels", "pooling")]
    run.main(["--quick", "--runs", "1", "--out", str(file), "--only", *chosen])
    text = file.read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    written = [name for name in chosen if (name, NAME) != ("first_call", "PyTorch")]
    assert headings == [
        f"## {name} on {NAME}: {run.SECTIONS[name]}" for name in [*written, "memory"]
    ]
    assert text.rstrip().endswith(kept)
    assert "old introduction" not in text
    printed = capsys.readouterr().out
    for heading in headings[:-1]:
        assert heading in printed
    assert text.count("with din-layers") == len(written)


@pytest.mark.parametrize(
    "arguments", [["--runs", "0"], ["--out", "no/such/folder/file.md"], ["--quick"]]
)
def test_bad_options_are_one_error(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == 2
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("way", "argument"),
    [("padded", False), ("skipping, XLA", True), ("default", None), ("ragged", None)],
)
def test_a_way_is_an_argument(way, argument):
    assert skip_padding(way) is argument


def test_where_few_positions_are_events_most_histories_are_short_and_a_few_long():
    lengths = attention.lengths_of(64, 2000, 0.03)
    np.testing.assert_allclose(lengths.mean(), 60, rtol=0.05)
    assert np.median(lengths) < 45
    assert lengths.max() > 250
    ids, _ = attention.histories(64, 2000, 0.03, padding=5)
    np.testing.assert_array_equal(np.count_nonzero(ids, axis=1), lengths)
    assert not ids[:, lengths.max() :].any()


def test_a_whole_din_is_trained(tmp_path):
    file = tmp_path / "data.npz"
    count = fit.write_data(file, batches=1, limit=20)
    with np.load(file) as arrays:
        data = dict(arrays)
    assert count == len(data["label"]) == fit.BATCH
    train, _ = fit_worker.our_din(data, WAYS[-1])
    assert np.isfinite(train().history["loss"]).all()


@needs_tensorflow
def test_a_library_is_trained_and_scored_with_long_and_short_histories(tmp_path):
    data = load(limit=20)
    peers.write(tmp_path / "training.npz", data, split_by_time(data)["training"], seed=0)
    with tqdm(disable=True) as bar:
        found = peers.run(peers.OURS, Path(sys.executable), data, tmp_path, epochs=1, bar=bar)
    assert all(0 <= found[name] <= 1 for name in found if "AUC" in name)
    assert found["AUC"] != found["AUC, 0 events"]


def test_peak_memory_is_measured():
    assert memory.peak_of_step(WAYS[-1], (2, 30, 4, 0.2)) >= 1
