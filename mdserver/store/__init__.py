"""Everything that is stored. Nothing outside this package knows SQL."""
