"""What the layers compute, in NumPy float64, for the valid events of one row.

Nothing here knows about padding, batches or the package: `events` are (n, dim) with n from 0.
"""

import numpy as np


def pool(mode, events):
    """Pool events (n, dim) to (dim,); zeros for no event."""
    n = len(events)
    pooled = {
        "sum": lambda: events.sum(0),
        "mean": lambda: events.sum(0) / n,
        "max": lambda: events.max(0),
        "sqrtn": lambda: events.sum(0) / np.sqrt(n),
    }[mode]
    return pooled() if n else np.zeros(events.shape[1])


def softmax(scores):
    """Normalise scores (n, ...) over the events."""
    if len(scores) == 0:
        return scores
    exp = np.exp(scores - scores.max(0))
    return exp / exp.sum(0)


def normalize(kind, weights):
    """Normalise weights (n, ...) over the events, as `weight_normalization` says."""
    if kind is None:
        return weights
    if kind == "softmax":
        return softmax(weights)
    total = {"sum": weights.sum(0), "sqrtn": np.sqrt((weights**2).sum(0))}[kind]
    return weights / total if total != 0 else np.zeros_like(weights)


def dice(x, mean, variance, alpha, epsilon):
    """Dice for x (n, channels) with statistics and alpha (channels,)."""
    p = sigmoid((x - mean) / np.sqrt(variance + epsilon))
    return p * x + (1 - p) * alpha * x


def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    return np.where(
        x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))
    )


def attention_scores(query, events, kernels, biases, activations, scale):
    """Score events (n, dim) against queries (q, dim) by the MLP on [q, k, q - k, q * k]: (n, q)."""
    n, queries = len(events), len(query)
    k = np.repeat(events[:, None], queries, axis=1)
    q = np.repeat(query[None], n, axis=0)
    x = np.concatenate([q, k, q - k, q * k], axis=-1)
    for kernel, bias, activation in zip(kernels, biases, activations, strict=True):
        x = activation(x @ kernel + bias)
    return x[..., 0] / (np.sqrt(events.shape[1]) if scale else 1.0)


def attend(mode, weights, events):
    """Sum events (n, dim) with weights (n, q), (q, dim), or weight each, (n, dim)."""
    return {"sum": lambda: weights.T @ events, "sequence": lambda: events * weights}[mode]()


def augru(events, scores, update, reset, candidate):
    """Run AUGRU over events (n, dim) with scores (n,): all states (n + 1, units), zeros first.

    `update`, `reset` and `candidate` are each (kernel, recurrent kernel, bias, bias of the state).
    """

    def gate(event, state, kernel, recurrent, bias, state_bias):
        return sigmoid(event @ kernel + state @ recurrent + bias + state_bias)

    kernel, recurrent, bias, state_bias = candidate
    states = [np.zeros(len(recurrent))]
    for event, score in zip(events, scores, strict=True):
        h = states[-1]
        u, r = gate(event, h, *update), gate(event, h, *reset)
        proposal = np.tanh(event @ kernel + bias + r * (h @ recurrent + state_bias))
        states.append((1 - score * u) * h + score * u * proposal)
    return np.array(states)
