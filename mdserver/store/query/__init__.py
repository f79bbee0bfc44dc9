"""Queries of the HTTP interface."""
