"""The composition root: builds the server from its config, runs it, and takes it down in the order of the data."""
