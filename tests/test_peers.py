"""What today's collections get wrong, each as a test that this package passes.

The order is that of the failures found in DeepCTR 0.9.4, keras-rs 0.4.0 and Keras 3.15 itself.
Vocabulary and hash (a vocabulary saved as a path, "" hashed into a bucket, a float symbolic
dtype) are in test_id_layer.py, test_vocab_layer.py and test_hash_layer.py.
"""

import keras
import numpy as np
import pytest
from backend import recording
from keras import ops
from models import click_model, numeric_inputs, numeric_model

import din_layers
from din_layers.testing._gradients import differentiate

EMPTY_AND_FULL = ops.convert_to_tensor([[False, False], [True, True]])
SEQUENCE = np.array([[[5.0], [7.0]], [[1.0], [2.0]]], "float32")


def test_01_models_with_attention_and_dice_reload_clone_and_count_their_weights(tmp_path):
    model = numeric_model()
    counted = model.count_params()
    model.save(tmp_path / "din.keras")
    reloaded = keras.models.load_model(tmp_path / "din.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    inputs = numeric_inputs()
    expected = model(inputs)
    assert model.count_params() == counted
    for other in (reloaded, clone):
        for a, b in zip(other(inputs), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_01_freezing_before_the_first_call_is_not_ignored():
    layer = din_layers.AttentionPoolingLayer(att_activation="dice")
    layer.trainable = False
    layer([np.ones((1, 1, 2), "float32"), np.ones((1, 3, 2), "float32")])
    assert not layer.trainable_weights


def two_histories():
    films, genres = (keras.Input((None,), dtype="int32") for _ in range(2))
    film, genre = (keras.Input((1,), dtype="int32") for _ in range(2))
    embed = [keras.layers.Embedding(9, 4, mask_zero=True) for _ in range(2)]
    query = keras.layers.Concatenate()([embed[0](film), embed[1](genre)])
    keys = keras.layers.Concatenate()([embed[0](films), embed[1](genres)])
    return [films, genres, film, genre], query, keys


def test_02_din_with_two_history_features_builds_and_trains():
    inputs, query, keys = two_histories()
    interest = din_layers.AttentionPoolingLayer((8,), "dice")([query, keys])
    click = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(interest))
    train(keras.Model(inputs, click))


def test_02_bst_builds_and_trains():
    inputs, query, keys = two_histories()
    attended = keras.layers.MultiHeadAttention(2, 4)(keys, keys)
    encoded = keras.layers.LayerNormalization()(keras.layers.Add()([keys, attended]))
    interest = din_layers.AttentionPoolingLayer((8,), "relu")([query, encoded, inputs[0]])
    click = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(interest))
    train(keras.Model(inputs, click))


def test_02_dien_builds_trains_and_reloads(tmp_path):
    inputs, query, keys = two_histories()
    states = keras.layers.GRU(8, return_sequences=True)(keys)
    _, scores = din_layers.AttentionPoolingLayer((8,), "dice")(
        [query, states, inputs[0]], return_attention_scores=True
    )
    interest = din_layers.AUGRU(8)([states, scores])
    click = keras.layers.Dense(1, activation="sigmoid")(interest)
    model = keras.Model(inputs, click)
    train(model)
    model.save(tmp_path / "dien.keras")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    arrays = [np.array([[3, 4, 0, 5], [0, 0, 0, 0]])] * 2 + [np.array([[6], [7]])] * 2
    for other in (keras.models.load_model(tmp_path / "dien.keras"), clone):
        np.testing.assert_array_equal(other(arrays), model(arrays))


def train(model):
    rng = np.random.default_rng(0)
    history = rng.integers(1, 9, (32, 6)) * (np.arange(6) < rng.integers(0, 7, (32, 1)))
    history[0] = 0
    inputs = [history, history, *(rng.integers(1, 9, (32, 1)) for _ in range(2))]
    model.compile("adam", "binary_crossentropy")
    with recording():
        history = model.fit(inputs, rng.integers(0, 2, (32, 1)), epochs=2, verbose=0)
    assert all(0 < loss < 2 for loss in history.history["loss"])


def test_03_every_class_is_registered():
    for name, layer in din_layers.custom_objects.items():
        assert keras.saving.get_registered_object(f"din_layers>{name}") is layer


@pytest.mark.parametrize("mode", ["sum", "mean", "max", "sqrtn"])
def test_04_an_empty_history_is_zero_under_every_pooling(mode):
    pooled = din_layers.SequencePoolingLayer(mode)(-SEQUENCE, mask=EMPTY_AND_FULL)
    np.testing.assert_array_equal(pooled[0], 0)
    assert pooled[1] < 0


def test_05_an_empty_history_is_not_the_padding_embedding_and_does_not_train_it():
    embedding = keras.layers.Embedding(4, 3, mask_zero=True)
    attend = din_layers.AttentionPoolingLayer((5,))
    embedding.build()
    candidate, ids = ops.convert_to_tensor([[3], [3]]), ops.convert_to_tensor([[0, 0], [1, 2]])
    output, _, (gradient,) = differentiate(
        lambda: attend([embedding(candidate), embedding(ids)]),
        [],
        np.ones(2, bool),
        [embedding.embeddings],
    )
    np.testing.assert_array_equal(output[0], 0)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.abs(gradient[1:]).sum() > 0


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_06_mixed_precision_trains_on_empty_histories(dtype):
    keras.config.set_dtype_policy(dtype)
    model = click_model()
    model.compile("adam", "binary_crossentropy")
    inputs, target = numeric_inputs(batch=32), np.arange(32)[:, None] % 2
    inputs[0][::3] = 0
    with recording():
        history = model.fit(inputs, target, epochs=3, batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_07_dice_inside_attention_does_not_count_padding():
    """The law for all data: test_attention_pooling_layer.py, ..._the_statistics_of_dice."""
    query, keys = np.ones((1, 1, 2), "float32"), np.ones((1, 2, 2), "float32")
    longer = np.concatenate([keys, np.full((1, 5, 2), 9, "float32")], axis=1)
    statistics = []
    for sequence, time in ((keys, 2), (longer, 2)):
        keras.utils.set_random_seed(0)
        layer = din_layers.AttentionPoolingLayer((3,), "dice", kernel_initializer="ones")
        layer([query, sequence, np.array([time])], training=True)
        statistics.append(layer.get_weights())
    for a, b in zip(*statistics, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_08_time_may_be_unknown_and_queries_many():
    inputs = [keras.Input((3, 2)), keras.Input((None, 2))]
    model = keras.Model(inputs, din_layers.AttentionPoolingLayer((4,))(inputs))
    for time in (0, 1, 7):
        assert model([np.ones((2, 3, 2)), np.ones((2, time, 2))]).shape == (2, 3, 2)


def test_08_weights_are_read_along_time_also_when_there_are_as_many_rows():
    weights = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    output = din_layers.WeightedSequenceLayer(None)([np.ones((2, 2, 1), "float32"), weights])
    np.testing.assert_array_equal(output[..., 0], weights)


def test_09_nan_in_padding_does_not_leak():
    sequence = SEQUENCE.copy()
    sequence[1, 1] = np.nan
    mask = ops.convert_to_tensor([[True, True], [True, False]])
    output = din_layers.AttentionPoolingLayer((3,))([SEQUENCE[:, :1], sequence], mask=[None, mask])
    assert np.isfinite(np.asarray(output)).all()
    np.testing.assert_allclose(output[1], [[1.0]])


def test_09_a_padded_3e9_does_not_win_a_max_pool():
    pooled = din_layers.SequencePoolingLayer("max")(
        np.array([[[-5.0], [3e9]]], "float32"), mask=ops.convert_to_tensor([[True, False]])
    )
    np.testing.assert_array_equal(pooled, [[[-5.0]]])


def test_10_the_weighted_mean_is_not_divided_by_the_number_of_events_again():
    sequence, weights = np.array([[[1.0], [2.0]]], "float32"), np.array([[0.0, 0.1524]], "float32")
    weighted = din_layers.WeightedSequenceLayer()([sequence, weights])
    average = din_layers.SequencePoolingLayer("sum")(weighted)
    np.testing.assert_allclose(average, [[[1.538]]], atol=1e-3)


def test_13_two_seeds_start_from_two_sets_of_weights():
    starts = []
    for seed in (1, 2, 1):
        keras.utils.set_random_seed(seed)
        layer = din_layers.AttentionPoolingLayer()
        layer.build([(None, 1, 4), (None, None, 4)])
        starts.append(layer.get_weights()[0])
    assert not np.allclose(starts[0], starts[1])
    np.testing.assert_array_equal(starts[0], starts[2])


def test_14_the_scores_come_beside_the_output():
    inputs = [np.ones((2, 3, 4), "float32"), np.ones((2, 5, 4), "float32")]
    layer = din_layers.AttentionPoolingLayer()
    output, scores = layer(inputs, return_attention_scores=True)
    assert output.shape == (2, 3, 4)
    assert scores.shape == (2, 3, 5)
    np.testing.assert_allclose(output, layer(inputs), rtol=1e-6)


def test_15_keras_itself_gives_nan_where_this_package_does_not():
    """If Keras mends this, the claim in the README must go."""
    average = keras.layers.GlobalAveragePooling1D()(SEQUENCE, mask=EMPTY_AND_FULL)
    assert np.isnan(np.asarray(average[0])).all()
    pooled = din_layers.SequencePoolingLayer("mean")(SEQUENCE, mask=EMPTY_AND_FULL)
    np.testing.assert_array_equal(pooled[:, 0, 0], [0, 1.5])


def test_15_the_mean_of_an_embedding_with_mask_zero_does_not_count_the_padding():
    embedding = keras.layers.Embedding(3, 2, mask_zero=True)
    pooled = din_layers.SequencePoolingLayer("mean")(embedding(ops.convert_to_tensor([[1, 2, 0]])))
    np.testing.assert_allclose(
        pooled[0, 0], np.asarray(embedding.embeddings)[1:].mean(0), rtol=1e-6
    )


def test_16_a_mask_lost_on_the_way_is_noticed_where_one_is_required():
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(keras.Input((None,), dtype="int32"))
    pool = din_layers.SequencePoolingLayer(supports_masking=True)
    with pytest.raises(ValueError, match="`mask` must be given"):
        pool(embedded + 1)
    pool(keras.layers.Add()([embedded, embedded]))
