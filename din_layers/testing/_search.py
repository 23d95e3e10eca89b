"""Lets Hypothesis look for a counterexample to invariants, the same one in every run."""

from collections.abc import Sequence

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import strategies as st

from din_layers._checks import check_integer, message
from din_layers.testing._invariants import BY_NAME, MaskingError, certain
from din_layers.testing._subject import Subject


def chosen(
    names: Sequence[str] | None, default: Sequence[str], known: Sequence[str], subject: Subject
) -> list[str]:
    """Return the names of the invariants to check, or of the `default` ones that apply."""
    if names is None:
        return [name for name in default if applies(name, subject)]
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(message("invariants", "must be a list of names", invariants=names))
    if not names:
        raise ValueError(message("invariants", "must name at least one", invariants=names))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(message("invariants", f"must be among {tuple(known)}", unknown=unknown))
    if (idle := "padding_invariance") in names and not applies(idle, subject):
        expected = "must be able to fail: with one number of positions, use `padding='any'`"
        raise ValueError(
            message("invariants", expected, invariants=[idle], padding=subject.padding)
        )
    return list(names)


def applies(invariant: str, subject: Subject) -> bool:
    """Tell whether a subject can break an invariant at all."""
    if invariant == "loss_skips_padding":
        return subject.keeps_time
    movable = subject.padding == "any" or subject.sizes.shape[1] is None
    return movable or invariant != "padding_invariance"


def search(subject: Subject, invariant: str, max_examples: int, seed: int) -> None:
    """Raise a MaskingError with the smallest counterexample to an invariant, if one is found."""
    __tracebackhide__ = True
    check_integer("max_examples", max_examples, minimum=1)
    check_integer("seed", seed, minimum=0)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(st.data())
    def run(data: st.DataObject) -> None:
        BY_NAME[invariant](subject, data.draw)  # type: ignore[arg-type]  # it has no __signature__

    try:
        run()
        certain(subject, invariant)
    except MaskingError as error:
        # Hypothesis's own notes repeat the counterexample in a form for its own tests.
        error.__notes__ = []
        raise error.with_traceback(None) from None
