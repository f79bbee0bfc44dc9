"""The tables themselves: migrations, partitions, keys and indexes."""
