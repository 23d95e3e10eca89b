"""What replicas that train on parts of one batch know of each other."""

from typing import Any

import keras


def gather(x: Any) -> Any:
    """Return the rows of `x` of all replicas, in the same order on each, or `x` if it is all.

    On JAX there is nothing to gather: a batch is one array wherever its parts are.
    """
    replica = _replica()
    return x if replica is None else replica.all_gather(x, axis=0)


def replica_number() -> int | None:
    """Return the number of the replica that calls, from 0, or None if it is the only one."""
    replica = _replica()
    if replica is None:
        return None
    import tensorflow as tf

    # A constant where replicas take turns; where one program is that of all, there is one number.
    return int(tf.get_static_value(replica.replica_id_in_sync_group) or 0)


def _replica() -> Any:
    """Return TensorFlow's view of the replica that calls, None if it is the only one."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return None if replica is None or replica.num_replicas_in_sync == 1 else replica
