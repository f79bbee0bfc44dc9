"""More than one process: batches, leases and demand over an engine that all of them reach."""
