"""The log on disk of what was published and is not yet stored."""
