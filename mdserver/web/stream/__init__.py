"""The WebSocket interface: one session and one write side per client."""
