"""Upkeep of the tables: retention, checks, repair."""
