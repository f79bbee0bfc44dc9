"""The composition root: builds the server from its config, runs it, and stops its parts in the order of the data."""
