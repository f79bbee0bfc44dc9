"""Connections to PostgreSQL, and units of work in worker threads."""
