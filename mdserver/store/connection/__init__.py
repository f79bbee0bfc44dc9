"""Connections to PostgreSQL, and transactions in worker threads."""
