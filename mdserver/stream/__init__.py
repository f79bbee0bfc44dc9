"""From an accepted batch to the clients: first the journal, then the fan-out."""
