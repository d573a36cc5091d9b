"""One module for each kind of input, with a TARGET."""
