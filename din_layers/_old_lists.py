"""The lists in which versions before 0.4 took their inputs, read as the names of today.

`[query, keys, history_ids]`, `[sequence, lengths]`, `[sequence, lengths, weights]`: the position
says what an input is; the third of the attention is ids, elsewhere it is lengths. Code and files of
those versions also put lengths where ids stand, and the other way round. A static shape that leaves
no doubt decides then; a shape that is seen only when a graph runs never does.
"""

from collections.abc import Sequence

import keras

from din_layers._backend import Tensor, is_ragged, is_text
from din_layers._checks import message


def name_companions(companions: Sequence[Tensor], sequence: Tensor, ids_first: bool) -> list[str]:
    """Return what each of the tensors is that stand beside a sequence: "lengths" or "ids".

    Args:
        companions: The tensors.
        sequence: The sequence.
        ids_first: Whether ids are meant where either could be.
    """
    if companions and len(sequence.shape) == 4:  # which no earlier version took
        expected = "must name what stands beside nested events: pass `lengths=` or `ids=`"
        raise ValueError(message("inputs", expected, inputs=1 + len(companions)))
    single_position = tuple(sequence.shape)[1:2] == (1,)
    names = [_name(x, single_position, ids_first) for x in companions]
    if len(set(names)) < len(names):
        expected = (
            "must hold lengths once and ids once: say by keyword what they are, `lengths=`, `ids=` "
            "or `mask=`"
        )
        received = {"inputs": names, "shapes": [tuple(x.shape) for x in companions]}
        raise ValueError(message("inputs", expected, **received))
    return names


def _name(companion: Tensor, single_position: bool, ids_first: bool) -> str:
    if is_ragged(companion) or is_text(companion):
        return "ids"
    shape = tuple(companion.shape)
    if len(shape) != 2:
        return "lengths"
    if shape[1] == 1:
        return "ids" if single_position and ids_first else "lengths"
    if shape[1] is None and not ids_first:
        # An `Input` whose second axis is free has a history's; lengths are declared (1,) or ().
        return "ids" if isinstance(companion, keras.KerasTensor) else "lengths"
    return "ids"
