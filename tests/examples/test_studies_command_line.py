"""The one command line: the list of studies, errors in one line, and each study end to end."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from studies import din, report
from studies.command_line import STUDIES, main

from din_layers.testing._fresh_process import run_fresh

FOLDER = Path(report.__file__).parent
# TensorFlow's notes about this machine are not for the report.
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="ragged tensors"),
    # Keras 3.15 hands variables to NumPy 2 in a way that NumPy has deprecated.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras"),
]


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_studies_are_listed_with_a_line_each(capsys, arguments):
    if arguments:
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
    else:
        assert main([]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[0] for line in lines if line} >= set(STUDIES)
    modules = {path.stem for path in FOLDER.glob("*.py")}
    assert set(STUDIES) <= modules


@pytest.mark.parametrize(
    "arguments",
    [
        ["sorting"],
        ["din", "--epochs", "0"],
        ["din", "--epochs", "two"],
        ["din", "--limit", "1"],
        ["din", "--seed", "-1"],
        ["din", "--seeds", "0"],
        ["din", "--sed", "1"],
        ["din", "surplus\nargument"],
        ["din", "--published"],
        ["din", "--data", "no/such/folder"],
        ["din", "--data", "."],
        ["din", "--data", os.devnull],
        ["din", "--data", "x" * 5000],
        ["din", "--out", os.devnull],
        ["din", "--out", f"{os.devnull}/below"],
        ["din", "--limit", "20", "--out"],
        ["two_towers", "--sampler", "adaptive"],
        ["ablation", "--variants", "median"],
        ["ablation", "--variants"],
        ["community", "--data", "missing.csv"],
        ["community", "--data", "missing.csv", "--published"],
        ["interests", "--data", "."],
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.count("\n") == 1
    assert error.startswith(("studies: ", f"{arguments[0]}: "))
    assert list(tmp_path.iterdir()) == []


def test_nothing_slow_is_imported_before_arguments_and_data_are_in_order(tmp_path):
    """In a process of its own, as it is run; TensorFlow would write lines to standard error."""
    for arguments in (["din", "--bogus"], ["din", "--data", "."]):
        done = subprocess.run(
            [sys.executable, FOLDER, *arguments], capture_output=True, text=True, cwd=tmp_path
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("din: " if "--data" in arguments else "studies: ")
        assert done.stderr.count("\n") == 1
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from studies.command_line import main
assert main(["bst", "--data", "."]) == 2
print({"tensorflow", "keras", "matplotlib", "sklearn"} & set(sys.modules))
"""
    assert run_fresh(program, FOLDER.parent) == "set()\n"


def test_an_interrupted_study_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(din, "compare", interrupt)
    assert main(["din", "--limit", "2", "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "din: interrupted, nothing written\n"


# Each study: what it writes, and the rows of its table.
WHOLE = {
    "din": (["--seeds", "2"], {"din.keras", "attention.png", "training.png"}, ["attention (DIN)"]),
    "dien": ([], {"dien.keras", "training.png"}, ["evolution (DIEN)", "attention (DIN)", "mean"]),
    "bst": ([], {"bst.keras", "training.png"}, ["transformer (BST)", "attention (DIN)", "mean"]),
    "fields": ([], {"fields.keras", "training.png"}, ["attention (DIN)", "mean"]),
    "two_towers": (
        ["--seeds", "2"],
        {"user_tower.keras", "item_tower.keras"},
        ["two towers", "popularity list"],
    ),
    "community": (
        ["--limit", "120"],
        {"feed.keras", "serving", "logs", "training.png"},
        ["attention (DIN)", "mean", "(the best there is)"],
    ),
    "interests": ([], {"interests.png"}, ["best possible", "DIN", "mean pooling"]),
    "ablation": (
        ["--seeds", "1", "--variants", "prelu", "mean_l2"],
        {"ablation.png", "table.txt", "finished"},
        ["DIN with PReLU", "mean pooling, plain L2"],
    ),
}
LOAD = """
import sys
import din_layers  # registers the layers, which is all that loading needs
import keras
for file in sys.argv[1:]:
    print(keras.models.load_model(file).count_params())
"""


@pytest.mark.slow
@pytest.mark.parametrize("study", WHOLE)
def test_the_whole_study_on_a_few_users(tmp_path, capsys, study):
    arguments, files, names = WHOLE[study]
    out = tmp_path / "some" / "out"
    whole = [study, "--limit", "12", "--epochs", "1", *arguments, "--out", str(out)]
    assert main(whole) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert {path.name for path in out.iterdir()} == files
    assert list((tmp_path / "some").iterdir()) == [out]
    for name in names:
        lines = [text for text in printed.splitlines() if text.startswith(f"{name} ")]
        number = lines[0].removeprefix(name).split()[1 if study == "ablation" else 0]
        assert 0 <= float(number) <= 1, lines
    for file in out.glob("*.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
    models = sorted(out.glob("*.keras"))
    assert len(run_fresh(LOAD, *models).split()) == len(models)


@pytest.mark.slow
def test_an_interrupted_ablation_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    from studies import ablation

    trained, train = [], ablation.train

    def counted(*arguments, **options):
        trained.append(arguments)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(ablation, "train", counted)
    out = tmp_path / "out"
    whole = ["ablation", "--limit", "12", "--epochs", "1", "--seeds", "2", "--variants", "mean"]
    assert main([*whole, "--out", str(out)]) == 130
    assert "the finished runs are kept" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {"finished"}
    for expected in (3, 3):  # one more run, and then none
        assert main([*whole, "--out", str(out)]) == 0
        assert len(trained) == expected
    assert (out / "table.txt").read_text(encoding="utf-8") in capsys.readouterr().out
    assert main([*whole, "--epochs", "2", "--out", str(out)]) == 0
    assert len(trained) == 5  # another setting is another run


# Pictures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 20), (14, 20)])
def test_the_picture_has_room_for_its_labels(tmp_path, rows, columns):
    """Matplotlib warns where they leave no room for the colours."""
    film = "W" * 29 + " (1995)"
    figure = report.heat_map(
        np.ones((rows, columns)), [film + " p = 0.50"] * rows, [film] * columns
    )
    report.save(figure, tmp_path / "attention.png")


@pytest.mark.parametrize("most", [0.5, 3.9, 7.0])
def test_a_plain_mean_is_the_middle_of_the_colours(most):
    """White is 1, and a factor above 1 is as strong as the same factor below."""
    image = report.heat_map(np.array([[0.0, most]]), ["row"], ["one", "other"]).axes[0].images[0]
    assert image.norm(1) == pytest.approx(0.5)
    assert image.norm(1.5) - 0.5 == pytest.approx(0.5 - image.norm(1 / 1.5))
    assert image.norm.vmax >= max(4, most)
    # 0 is drawn as the least colour, not left blank.
    assert not np.ma.getmaskarray(image.get_array()).any()


def test_shortened_titles_keep_their_year():
    assert report.shorten("Heat (1995)", 20) == "Heat (1995)"
    short = report.shorten("A very, very long title indeed (1995)", 20)
    assert len(short) <= 20
    assert short.endswith("… (1995)")
