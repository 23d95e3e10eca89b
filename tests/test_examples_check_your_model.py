"""The example that catches a dropped mask."""

import re

import check_your_model


def test_the_broken_model_is_caught_and_the_repaired_one_passes(capsys):
    check_your_model.main([])
    broken, repaired, layer = re.split("\nThe same|\nA layer", capsys.readouterr().out)
    assert "padding_invariance: " in broken
    assert "every invariant holds" in repaired
    assert "padding_is_inert: " in layer
