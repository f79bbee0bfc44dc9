"""From an accepted batch to the clients: the journal first, then the fan-out."""
