"""What replicas that train on parts of one batch know of each other."""

from typing import Any

import keras


def gather(x: Any) -> Any:
    """Return the rows of `x` of all replicas, in the same order on each, or `x` if it is all.

    On JAX there is nothing to gather: a batch is one array wherever its parts are.
    """
    if keras.backend.backend() != "tensorflow":
        return x
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return x
    return replica.all_gather(x, axis=0)
