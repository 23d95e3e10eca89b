"""The studies: what makes the numbers in the documentation. `python examples/studies` lists them.

A system's module has its `build_*` function, to be taken along, and the study that trains it:
`din`, `dien`, `bst`, `two_towers`, `fields` and `community`; `ablation` and `interests` ask more of
DIN. They share one module each for data, training, scores, report and command line.
"""
