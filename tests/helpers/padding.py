"""What every model that README, recipes, lessons and studies show has to hold."""

from collections.abc import Iterable
from typing import Any

import keras

from din_layers.testing import check_ids

# What the inputs of the candidates are called; all others with a time axis are the history's.
CANDIDATES = {"candidates", "film", "item", "movie", "page", "category", "shop"}
CANDIDATES |= {"candidate_category", "candidate_tags"}


def check_models(models: Iterable[Any], ids: int | None = None) -> int:
    """Check that more padding changes nothing, of the history and of the candidates.

    `ids` is how many there are, for inputs that go into no embedding. Returns how many models
    begin with padded ids: not strings, not ragged tensors.
    """
    checked = {
        (model.name, model.count_params()): model  # which a loaded copy has too
        for model in models
        if isinstance(model, keras.Model)
        and not any(x.dtype == "string" or getattr(x, "ragged", False) for x in model.inputs)
    }
    for model in checked.values():
        axes: dict[bool, list[str]] = {True: [], False: []}
        for x in model.inputs:
            if len(x.shape) > 1 and x.shape[1] != 1:
                axes[x.name in CANDIDATES].append(x.name)
        # Either finds padding that counts; of a fixed number one can be asked.
        free = all(x.shape[1] is None for x in model.inputs if x.name in axes[False])
        options = {
            "output": model.output_names[0],
            "invariants": ["padding_invariance"] * free + ["padding_is_inert"],
            "vocabulary": {x.name: ids for x in model.inputs if ids and "int" in x.dtype},
            "max_examples": 2,
        }
        for names in filter(None, axes.values()):
            check_ids(model, history=names, **options)
    return len(checked)
