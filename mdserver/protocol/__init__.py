"""Our client protocol without I/O: what requests mean and how answers and records look on the wire."""
