"""The log on disk of records that are published but not yet stored."""
