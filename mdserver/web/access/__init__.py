"""Access control: keys, limits, origins."""
