"""Two processes of PyTorch that share a batch have the results of one that has it all."""

import datetime
import os
import pickle
import warnings

import keras
import numpy as np
import pytest
from helpers.backend import BACKEND, recording

import din_layers
from din_layers.testing._gradients import differentiate

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="TensorFlow and JAX have other ways")

RNG = np.random.default_rng(0)
SOME = RNG.random((8, 5)) < 0.6
FEW_FIRST = SOME & (np.arange(5) < np.array([1] * 4 + [5] * 4)[:, None])


def part_of(x, rank, first):
    """Return the rows of one process, the first so many or the others; of None all of them."""
    return x if rank is None else (x[:first], x[first:])[rank]


def step(layer, arrays, masks, rank, first):
    """Train on a part: return what belongs to its rows, what adds up, and what all have."""
    inputs = [part_of(x, rank, first) for x in arrays]
    masks = [None if x is None else keras.ops.array(part_of(x, rank, first)) for x in masks]

    def call(*x):
        given = (list(x), masks) if len(x) > 1 else (x[0], masks[0])
        return layer(given[0], mask=given[1], training=True)

    counts = np.ones(len(inputs[0]), bool)
    output, of_inputs, of_weights = differentiate(call, inputs, counts, layer.trainable_variables)
    kept = [keras.ops.convert_to_numpy(x) for x in layer.non_trainable_variables]
    return {"rows": [output, *of_inputs], "sums": of_weights, "same": kept}


def dice(rank, first=4, mask=None, axis=-1, dtype="float32"):
    layer = din_layers.Dice(
        axis, 0.5, 1e-3, keras.initializers.Constant(0.3), synchronized=True, dtype=dtype
    )
    x = np.random.default_rng(1).normal(1, 2, (8, 5, 3)).astype(layer.compute_dtype)
    return step(layer, [x], [mask], rank, first)


def attention(rank, skip_padding, positions=5, first=4, queries=1):
    """Attend to histories most of which the first process has short, or not at all."""
    rng = np.random.default_rng(2)
    activation = din_layers.Dice(momentum=0.5, epsilon=1e-3, synchronized=True)
    layer = din_layers.AttentionPoolingLayer((6, 4), activation, skip_padding=skip_padding)
    rows = 8 if positions == 5 else 40
    query, keys = (rng.normal(size=(rows, n, 3)).astype("float32") for n in (queries, positions))
    lengths = np.where(np.arange(rows) < rows // 2, rng.integers(0, 2, rows), positions)
    valid_queries = None if queries == 1 else rng.random((rows, queries)) < 0.6
    mask = np.arange(positions) < lengths[:, None]
    return step(layer, [query, keys], [valid_queries, mask], rank, first)


def training(rank):
    """Train a DIN for three steps as one does with DistributedDataParallel."""
    import torch

    past, item = keras.Input((6,), dtype="int32"), keras.Input((1,), dtype="int32")
    embed = keras.layers.Embedding(20, 4, mask_zero=True)
    vectors = [embed(item), embed(past)]
    penalized = din_layers.MiniBatchAwareL2(np.arange(20), 2.0)(vectors, [item, past])
    interest = din_layers.AttentionPoolingLayer((6,), din_layers.Dice(synchronized=True))(penalized)
    x = keras.layers.Dense(5)(keras.layers.Concatenate()([interest, penalized[0]]))
    x = din_layers.Dice(synchronized=True)(x)
    model = keras.Model([past, item], keras.layers.Dense(1)(x))
    rng = np.random.default_rng(3)
    history = rng.integers(1, 20, (3, 16, 6)) * (np.arange(6) < rng.integers(0, 7, (3, 16, 1)))
    history[1, :8] = 0  # the first process has no event
    items = rng.integers(1, 20, (3, 16, 1))
    shared = rank is not None
    run = torch.nn.parallel.DistributedDataParallel(model) if shared else model
    weights = [x for x in model.parameters() if x.requires_grad]
    optimizer, losses = torch.optim.SGD(weights, 0.1), []
    for past, item in zip(history, items, strict=True):
        label = (item % 2)[..., None]
        *inputs, label = (torch.tensor(part_of(x, rank, 8)) for x in (past, item, label))
        logits = run(inputs, training=True)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label.float())
        loss = loss + sum(model.losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(np.array(loss.item() / (2 if shared else 1)))
    return {"rows": [], "sums": losses, "same": model.get_weights()}


def gauc(rank):
    """Gather what each process has seen; what it knows by itself needs no other."""
    import torch

    rng = np.random.default_rng(4)
    label, user = rng.integers(0, 2, 30), rng.integers(0, 4, 30)
    seen = din_layers.GAUC.targets(label, user), rng.random(30, "float32")
    seen = [part_of(x, rank, 13) for x in seen]
    metric = din_layers.GAUC(99)
    if rank == 0:
        metric.update_state(*seen)
        assert np.isfinite(float(metric.result()))
        metric.reset_state()
    parts = [seen]
    if rank is not None:
        parts = [None, None]
        torch.distributed.all_gather_object(parts, seen)
    for part in parts:
        metric.update_state(*part)
    return {"rows": [], "sums": [], "same": [np.array(metric.result())]}


CASES = {
    "all valid": (dice,),
    "parts of unequal sizes": (dice, {"first": 6, "mask": SOME}),
    "few events in the first": (dice, {"mask": FEW_FIRST}),
    "no event in the first": (dice, {"mask": SOME & (np.arange(8) > 3)[:, None]}),
    "no event at all": (dice, {"mask": SOME & False}),
    "no row in the second": (dice, {"first": 8, "mask": SOME}),
    "channels at axis 1": (dice, {"axis": 1}),
    "channels at axis 2": (dice, {"mask": FEW_FIRST, "axis": 2}),
    **{name: (dice, {"mask": FEW_FIRST, "dtype": name}) for name in ("mixed_float16", "float64")},
    **{f"attention, {skip}": (attention, {"skip_padding": skip}) for skip in (None, True, False)},
    # So many positions that the first process skips its padding, the second does not.
    "attention, each its way": (attention, {"skip_padding": None, "positions": 60, "first": 20}),
    "attention, unequal": (attention, {"skip_padding": True, "first": 2, "queries": 3}),
    "attention, no row": (attention, {"skip_padding": True, "first": 0}),
    "training": (training,),
    "gauc": (gauc,),
}


def result(name, rank):
    keras.utils.set_random_seed(0)
    function, options = (*CASES[name], {})[:2]
    return function(rank, **options)


def run_cases(rank, folder):
    """Be one of two processes."""
    import torch

    warnings.simplefilter("error", FutureWarning)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        timeout=datetime.timedelta(minutes=5),  # who waits for the other for ever fails
        rank=rank,
        world_size=2,
    )
    results = {name: result(name, rank) for name in CASES}
    torch.distributed.destroy_process_group()
    with open(f"{folder}/{rank}", "wb") as file:
        pickle.dump(results, file)


# How what two processes have makes what one has.
JOIN = {"rows": np.concatenate, "sums": sum, "same": lambda both: both[0]}


def test_two_processes_have_the_results_of_one(tmp_path):
    import torch.multiprocessing

    torch.multiprocessing.spawn(run_cases, (os.fspath(tmp_path),), nprocs=2)
    first, second = (pickle.loads((tmp_path / rank).read_bytes()) for rank in "01")
    for name in CASES:
        with recording():
            one = result(name, None)
        for kind, join in JOIN.items():
            rounded = name == "mixed_float16" and kind != "same"
            close = {"rtol": 1e-5, "atol": 1e-2 if rounded else 1e-5, "err_msg": f"{name}: {kind}"}
            for whole, *both in zip(one[kind], first[name][kind], second[name][kind], strict=True):
                np.testing.assert_allclose(join(both), whole, **close)
        for ours, theirs in zip(first[name]["same"], second[name]["same"], strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_one_process_may_be_a_group():
    import torch.distributed as group

    expected = dice(None, mask=SOME)
    group.init_process_group("gloo", store=group.HashStore(), rank=0, world_size=1)
    try:
        found = dice(None, mask=SOME)
    finally:
        group.destroy_process_group()
    for kind, arrays in expected.items():
        for ours, theirs in zip(found[kind], arrays, strict=True):
            np.testing.assert_array_equal(ours, theirs)
