"""Hypercorn's trio server made safe, and what stands between it and Quart-Trio."""
