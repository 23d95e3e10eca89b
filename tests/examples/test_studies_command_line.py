"""The command line of the studies, and each study end to end."""

import pytest
from studies import million
from studies.__main__ import STUDIES, main

from din_layers.testing._fresh_process import run_fresh


def test_the_studies_are_listed_with_a_line_each(capsys):
    main([])
    assert set(STUDIES) <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", ["din --data nowhere", "million --variants median"])
def test_what_cannot_be_done_is_said_before_anything_is_computed(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    assert arguments.split()[-1] in capsys.readouterr().err


# Each study: more arguments, what it writes, and the rows of its table.
WHOLE = {
    "din": ("--seeds 2", "din.keras attention.png", ["attention (DIN)", "mean"]),
    "interests": ("", "interests.png", ["best possible", "attention", "mean"]),
    "million": (
        "--seeds 1 --variants din dien bst mean_200",
        "table.txt finished attention_1.png attention_2.png",
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
    main([study, "--limit", "12", "--epochs", "1", *arguments.split(), "--out", str(out)])
    printed = capsys.readouterr().out
    assert "- loss: " in printed  # a line for each epoch where there is no terminal
    assert {path.name for path in out.iterdir()} == set(files.split())
    for name in names:
        lines = [text for text in printed.splitlines() if text.startswith(f"{name} ")]
        number = lines[0].removeprefix(name).split()[1 if study == "million" else 0]
        assert 0 <= float(number) <= 1, lines
    models = sorted(out.glob("*.keras"))
    assert len(run_fresh(LOAD, *models).split()) == len(models)


@pytest.mark.slow
def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    trained, train = [], million.train

    def counted(*arguments, **options):
        trained.append(arguments)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(million, "train", counted)
    out = tmp_path / "out"
    whole = ["million", "--limit", "12", "--epochs", "1", "--seeds", "2", "--variants", "mean"]
    with pytest.raises(KeyboardInterrupt):
        main([*whole, "--out", str(out)])
    for expected in (3, 3):  # one more run, and then none
        main([*whole, "--out", str(out)])
        assert len(trained) == expected
    assert (out / "table.txt").read_text(encoding="utf-8") in capsys.readouterr().out
    main([*whole, "--epochs", "2", "--out", str(out)])
    assert len(trained) == 5  # another setting is another run
