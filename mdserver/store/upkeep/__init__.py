"""Retention, repair and checks."""
