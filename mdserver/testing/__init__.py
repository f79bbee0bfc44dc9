"""Public fakes, so that a plugin is tested the way ours are: over real sockets, without the venue.

* :mod:`.host`: the server's side of a broker plugin
* :mod:`.binance`: a venue that speaks Binance's spot streams
* :mod:`.recorded`: readers for files of recorded frames
"""
