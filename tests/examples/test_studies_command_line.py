"""The one command line: errors in one line, and each study end to end."""

import os

import pytest
from studies import ablation, din
from studies.command_line import STUDIES, main
from studies.variants import VARIANTS

from din_layers.testing._fresh_process import run_fresh


def test_the_studies_are_listed_with_a_line_each(capsys):
    assert main([]) == 0
    assert set(STUDIES) <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "sorting",
        "din --epochs two",
        "din --limit 1",
        "din surplus\nargument",
        "din --published",
        "din --data .",
        f"din --data {os.devnull}",
        f"din --limit 20 --out {os.devnull}",
        "din --limit 20 --out",
        "bst --data . --published",
        "ablation --variants median",
        "interests --data .",
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split(" ")) == 2
    printed, error = capsys.readouterr()
    assert printed == ""
    assert error.count("\n") == 1
    assert error.startswith(("studies: ", f"{arguments.split()[0]}: "))
    assert list(tmp_path.iterdir()) == []


def test_nothing_slow_is_imported_before_arguments_and_data_are_in_order():
    program = """
import sys
from studies.command_line import main
assert main(["bst", "--data", "."]) == 2
print({"tensorflow", "keras", "matplotlib", "sklearn"} & set(sys.modules))
"""
    assert run_fresh(program) == "set()\n"


def test_an_interrupted_study_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(din, "compare", interrupt)
    assert main(["din", "--limit", "2", "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == "din: interrupted, nothing written\n"


# Each study: more arguments, what it writes, and the rows of its table.
WHOLE = {
    "din": ("--seeds 2", "din.keras attention.png training.png", ["attention (DIN)", "mean"]),
    "dien": ("", "dien.keras training.png", ["evolution (DIEN)", "attention (DIN)", "mean"]),
    "bst": ("", "bst.keras training.png", ["transformer (BST)", "attention (DIN)", "mean"]),
    "fields": ("", "fields.keras training.png", ["attention (DIN)", "mean"]),
    "two_towers": (
        "--seeds 2",
        "user_tower.keras item_tower.keras",
        ["two towers", "popularity list"],
    ),
    "community": (
        "--limit 120",
        "feed.keras serving logs training.png",
        ["attention (DIN)", "mean", "(the best there is)"],
    ),
    "interests": ("", "interests.png", ["best possible", "DIN", "mean pooling"]),
    "ablation": (
        "--seeds 1 --variants prelu mean_l2",
        "ablation.png table.txt finished",
        ["DIN with PReLU", "mean pooling, plain L2"],
    ),
    "million": (
        "--seeds 1 --variants din dien bst mean_200",
        "million.png table.txt finished attention_1.png attention_2.png",
        ["DIN, 30 ratings", "DIEN, 30 ratings", "BST, 30 ratings", "mean pooling, 200 ratings"],
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
    whole = [study, "--limit", "12", "--epochs", "1", *arguments.split(), "--out", str(out)]
    assert main(whole) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    assert {path.name for path in out.iterdir()} == set(files.split())
    for name in names:
        lines = [text for text in printed.splitlines() if text.startswith(f"{name} ")]
        number = lines[0].removeprefix(name).split()[1 if study in VARIANTS else 0]
        assert 0 <= float(number) <= 1, lines
    models = sorted(out.glob("*.keras"))
    assert len(run_fresh(LOAD, *models).split()) == len(models)


@pytest.mark.slow
def test_an_interrupted_ablation_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
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
