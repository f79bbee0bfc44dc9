"""Hypercorn's trio server, made safe, and the adapters between it and Quart-Trio."""
