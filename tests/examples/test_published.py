"""Numbers that others printed of their models, and the same models made of these layers."""

import keras
from keras import layers
from studies.bst import encode

from din_layers import AttentionPoolingLayer

# The summary that a public BST in TensorFlow 2.1 prints of itself (`bst_model.py`, after
# https://zhuanlan.zhihu.com/p/161311198): shape and parameters of each layer that has some, and of
# what they take. A shared embedding has "multiple" shapes there.
BST = {
    "item_id_embedding": (None, 2_560_512),
    "cate_id_embedding": (None, 109_568),
    "concatenate_1": ((50, 1024), 0),
    "user_id_embedding_layer": ((1, 512), 154_112),
    "gender_embedding_layer": ((1, 512), 1_536),
    "age_embedding_layer": ((1, 512), 5_632),
    "concatenate_2": ((1, 1024), 0),
    "encoder": ((50, 1024), 12_603_392),
    "concatenate_0": ((1, 1536), 0),  # "concatenate" there
    "din_attention_layer": ((1, 1024), 5_244_928),
    "concatenate_3": ((1, 2560), 0),
    "tf_op_layer_Squeeze": ((2560,), 0),
    "FC_1": ((512,), 1_311_232),
    "FC_2": ((128,), 65_664),
    "FC_3": ((32,), 4_128),
    "Sigmoid_output_layer": ((1,), 33),
}
# The published attention makes its last, linear unit inside `call`, where Keras does not find it.
NOT_COUNTED = 1024 + 1


def test_the_published_bst_has_its_parts_and_the_unit_that_was_not_counted():
    keras.utils.clear_session()  # else Keras may have given "concatenate_3" to what came before

    def ids(name, length=1):
        return keras.Input((length,), dtype="int32", name=name)

    def embedding(name, count):
        return layers.Embedding(count, 512, name=name)

    def join(name, *parts):
        return layers.Concatenate(name=name)(parts)

    item, cate = embedding("item_id_embedding", 5001), embedding("cate_id_embedding", 214)
    inputs = [ids("item"), ids("cate"), ids("items", 50), ids("cates", 50)]
    inputs += [ids(name) for name in ("user", "gender", "age")]
    candidate = join("concatenate_2", item(inputs[0]), cate(inputs[1]))
    history = join("concatenate_1", item(inputs[2]), cate(inputs[3]))
    fields = {"user_id": 301, "gender": 3, "age": 11}.items()
    tables = [embedding(f"{name}_embedding_layer", count) for name, count in fields]
    user = join("concatenate_0", *(of(x) for of, x in zip(tables, inputs[4:], strict=True)))
    start = keras.Model(inputs, history).count_params()
    encoded = encode(history, inputs[2], 2, heads=8, feed_forward_units=1024, dropout=0.1)
    attention = AttentionPoolingLayer((1024, 1024), "relu", name="din_attention_layer")
    interest = attention([candidate, encoded], ids=inputs[2])
    x = join("concatenate_3", user, interest)
    x = layers.Flatten(name="tf_op_layer_Squeeze")(x)
    for place, units in enumerate((512, 128, 32), 1):
        x = layers.Dropout(0.1)(layers.Dense(units, "relu", name=f"FC_{place}")(x))
    output = layers.Dense(1, "sigmoid", name="Sigmoid_output_layer")(x)
    model = keras.Model(inputs, output)

    encoder = keras.Model(inputs, encoded).count_params() - start
    found = {"encoder": (tuple(encoded.shape[1:]), encoder)}
    for layer in model.layers:
        if layer.name in BST:
            shared = layer in (item, cate)
            shape = None if shared else tuple(layer.output.shape[1:])
            found[layer.name] = (shape, layer.count_params())
    expected = {**BST, "din_attention_layer": ((1, 1024), 5_244_928 + NOT_COUNTED)}
    assert found == expected
    assert model.count_params() == 22_060_737 + NOT_COUNTED == 22_061_762
