"""``GET /``: a page of links for whoever opens the server in a browser."""

from __future__ import annotations

from html import escape

from ... import __version__

__all__ = ["CONTENT_SECURITY_POLICY", "WELCOME"]

CONTENT_SECURITY_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The page loads nothing, from nowhere."""

# relative, so that they also work behind a path prefix
_LINKS = (
    ("api/metadata", "which symbols are stored, from when to when"),
    ("api/brokers", "the state of each broker"),
    ("health/ready", "whether the server can do all of its work"),
    ("metrics", "metrics for Prometheus"),
    ("api/openapi.json", "the HTTP interface for programs, OpenAPI 3.1"),
)


def _page() -> str:
    links = "\n".join(f'<li><a href="{link}">/{link}</a>: {escape(text)}</li>' for link, text in _LINKS)
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>mdserver</title></head>
<body>
<h1>mdserver {escape(__version__)}</h1>
<p>A market data server. Live records come over a WebSocket, at this address or at <code>/stream</code>; recorded ones
over HTTP:</p>
<ul>
{links}
<li><code>/api/candles?symbol=EURUSD&amp;timeframe=1h&amp;from=…&amp;to=…</code>: candles; times are Unix seconds</li>
<li><code>/api/ticks</code>, <code>/api/trades</code>: recorded quotes and trades</li>
</ul>
</body>
</html>
"""


WELCOME = _page().encode()
