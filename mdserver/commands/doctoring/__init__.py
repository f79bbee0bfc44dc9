"""The checks of ``mdserver run doctor``."""
