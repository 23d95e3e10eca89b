"""Run a lesson as a reader does, then check the padding of the models that it trained or asked."""

import runpy
import sys
from pathlib import Path

import keras
from helpers.padding import check_models

import din_layers
from din_layers.testing import MaskingError

# Lessons without a model whose padding is 0, and the sizes of vocabularies that no embedding tells.
NO_MODEL = {"attention_by_hand", "strings_and_weights", "test_your_masks", "two_towers"}
IDS = {"several_fields": 50, "large_tables": 1000}

lesson, start = Path(sys.argv[1]), Path.cwd()  # a lesson may go to another folder
models = []


def recording(method):
    def recorded(model, *args, **options):
        models.append(model)
        return method(model, *args, **options)

    return recorded


for name in ("fit", "predict"):
    setattr(keras.Model, name, recording(getattr(keras.Model, name)))
runpy.run_path(str(lesson), run_name="__main__")

if not models:  # other processes had them, and saved them
    files = start.rglob("*.keras")
    models = [keras.models.load_model(file, din_layers.custom_objects) for file in files]
wrong = [model for model in models if model.name.endswith("without_ids")]  # says the lesson itself
right = [model for model in models if model not in wrong]
if lesson.stem not in NO_MODEL:
    assert check_models(right, ids=IDS.get(lesson.stem)) > 0
if wrong:
    try:
        check_models(wrong)
    except MaskingError:
        pass
    else:
        raise AssertionError("nothing is wrong with it")
