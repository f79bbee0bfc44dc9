"""``mdserver watch``: the live records of a running server, as a table on a terminal, else as lines."""
