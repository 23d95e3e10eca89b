"""The studies make the numbers in the documentation. `python examples/studies` lists them."""
