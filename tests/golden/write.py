"""Writes golden files: what this version of the package saves, for every later one to load.

    python tests/golden/write.py NAME...

writes `tests/golden/VERSION/NAME.keras`, `.weights.h5`, `.json` (the architecture) and `.npz`
(inputs and outputs) from the model in `tests/golden/recipes/NAME.py`, and pins them in
`tests/golden/sha256.txt`.

It is run once for each name, by whoever adds the recipe. It refuses to write a file a second time,
and files of an existing version are never replaced: people have such files, and a change that needs
new ones has broken theirs. A new layer, or a new form of an old one, gets a recipe of its own. What
the files of versions before 0.4 hold, their `.json` and `.npz` say: their recipes have gone.
"""

import hashlib
import os
import runpy
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
GOLDEN = Path(__file__).parent
sys.path[:0] = [str(GOLDEN.parent), str(GOLDEN.parent.parent)]


def write(name, folder):
    """Write the files of one recipe; return their paths."""
    import numpy as np
    import tensorflow as tf
    from helpers.layers import randomize

    if existing := list(folder.glob(f"{name}.*")):
        raise SystemExit(f"write.py: {existing[0]} exists: golden files are written once")
    recipe = runpy.run_path(str(GOLDEN / "recipes" / f"{name}.py"))
    model, inputs = recipe["model"](), recipe["inputs"]()
    randomize(model)
    tensors = [tf.constant(x) for x in inputs]
    outputs = model(tensors if len(tensors) > 1 else tensors[0])
    arrays = {f"input_{place}": x for place, x in enumerate(inputs)}
    for place, x in enumerate(outputs if isinstance(outputs, list) else [outputs]):
        arrays[f"output_{place}"] = np.asarray(x)
    folder.mkdir(exist_ok=True)
    model.save(folder / f"{name}.keras")
    model.save_weights(folder / f"{name}.weights.h5")
    (folder / f"{name}.json").write_text(model.to_json(indent=1) + "\n")
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    return sorted(folder.glob(f"{name}.*"))


if __name__ == "__main__":
    import din_layers

    with open(GOLDEN / "sha256.txt", "a") as pins:
        for name in sys.argv[1:]:
            for path in write(name, GOLDEN / din_layers.__version__):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                print(f"{digest}  {path.relative_to(GOLDEN).as_posix()}", file=pins)
