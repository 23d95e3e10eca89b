"""The studies: what makes the numbers in the documentation. `python examples/studies` lists them.

`din`, `million` and `interests` each have a `run`; `dien` and `bst` have the parts of DIEN and BST
that `million` trains. To take along: `build_din`, `evolve` and `encode`.
"""
