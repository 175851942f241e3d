"""The commands of `python -m hub`: their arguments, and the function of a room that each calls."""
