"""The storage layer. Nothing outside this package knows SQL."""
