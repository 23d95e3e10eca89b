"""DIN's attention, Dice and one step of AUGRU, written out in NumPy and compared with the layers.

Each step is a line or two of NumPy in float64. If a layer can stop at a step, the script compares
its result and prints the largest difference. The layers compute in float32.
"""

import keras
import numpy as np

import din_layers

keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)

# Thirty-two users, each with one candidate (the query) and a history of 1 to 20 events (the keys),
# all vectors of 14 numbers. Whatever follows the last event is padding, and must not matter.
BATCH, TIME, DIM = 32, 20, 14
query = rng.normal(size=(BATCH, 1, DIM))
keys = rng.normal(size=(BATCH, TIME, DIM))
lengths = rng.integers(1, TIME + 1, BATCH)
valid = np.arange(TIME) < lengths[:, None]  # (batch, time)

print(f"{'step':32} {'shape':14} difference of the layer")


def compare(step, ours, layers=None):
    difference = "-"
    if layers is not None:
        largest = np.abs(ours - keras.ops.convert_to_numpy(layers)).max()
        assert largest < 5e-6  # float32 has seven digits, and sums here have some dozens of terms
        difference = f"{largest:.0e}"
    print(f"{step:32} {np.shape(ours)!s:14} {difference}")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ## The attention
#
# One layer returns the raw scores, one divides them by the root of `dim`, and one goes on to
# softmax. All have the same weights: one hidden layer of 36 units, then one linear unit.


def attention(**options):
    layer = din_layers.AttentionPoolingLayer((36,), att_activation="sigmoid", **options)
    layer.build([query.shape, keys.shape])
    layer.set_weights(weights)
    return layer([query, keys], lengths=lengths, return_attention_scores=True)


some = din_layers.AttentionPoolingLayer((36,), bias_initializer="random_normal")
some.build([query.shape, keys.shape])
weights = some.get_weights()

# Step 1: every event meets the query, as [q, k, q - k, q * k]. (The layer never builds this.)
q = np.repeat(query, TIME, axis=1)
pairs = np.concatenate([q, keys, q - keys, q * keys], axis=-1)
compare("[q, k, q - k, q * k]", pairs)

# Step 2: a small network turns each pair into one score.
kernel, bias, last_kernel, last_bias = weights
hidden = sigmoid(pairs @ kernel + bias)
compare("hidden layer, sigmoid", hidden)
scores = (hidden @ last_kernel + last_bias)[..., 0]
_, layers = attention(weight_normalization=False)
compare("scores", np.where(valid, scores, 0)[:, None], layers)

# Step 3: divide by the root of `dim`. The paper does not; `scale=True` does.
scaled = scores / np.sqrt(DIM)
_, layers = attention(weight_normalization=False, scale=True)
compare("scores / root of dim", np.where(valid, scaled, 0)[:, None], layers)

# Step 4: softmax over the valid events. Padding has the weight 0.
exponentials = np.where(valid, np.exp(scaled - scaled.max(axis=1, keepdims=True)), 0)
shares = exponentials / exponentials.sum(axis=1, keepdims=True)
pooled, layers = attention(scale=True)
compare("softmax over the valid events", shares[:, None], layers)

# Step 5: the sum of the events, each times its weight.
compare("weighted sum", (shares[..., None] * keys).sum(axis=1)[:, None], pooled)

# Code that sets invalid scores to -2**32, instead of leaving them out, has a uniform softmax for an
# empty history: it returns the mean of the padding. The layer returns zeros.
empty = some([query, keys], lengths=0 * lengths)
compare("an empty history", np.zeros((BATCH, 1, DIM)), empty)

# ## Dice
#
# PReLU whose turning point follows the data: p goes from 0 to 1 where x passes the batch's mean.
x = keys[:, 0]
alpha = np.linspace(-0.5, 0.5, DIM)
p = sigmoid((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-8))
dice = din_layers.Dice()
dice.build(x.shape)
dice.alpha.assign(alpha)
compare("Dice, p x + (1 - p) alpha x", p * x + (1 - p) * alpha * x, dice(x, training=True))

# ## One step of AUGRU
#
# A GRU whose update gate is multiplied by the event's score: at 0 the state stays as it is. The
# kernels hold three blocks: the gate that keeps the old state (1 - u), the reset gate and the
# candidate.
UNITS = 8
augru = din_layers.AUGRU(UNITS, bias_initializer="random_normal")
state = rng.normal(size=(BATCH, UNITS))
event, score = keys[:, :1], shares[:, :1]
result = augru([event, score], initial_state=state)
kernel, recurrent, (event_bias, state_bias) = augru.get_weights()
keep_x, reset_x, candidate_x = np.split(event[:, 0] @ kernel + event_bias, 3, axis=1)
keep_h, reset_h, candidate_h = np.split(state @ recurrent + state_bias, 3, axis=1)
update = 1 - sigmoid(keep_x + keep_h)
candidate = np.tanh(candidate_x + sigmoid(reset_x + reset_h) * candidate_h)
compare(
    "AUGRU, (1 - a u) h + a u h~", (1 - score * update) * state + score * update * candidate, result
)
