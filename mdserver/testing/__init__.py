"""Public fakes, so that a plugin is tested the way ours are: over real sockets, without the venue.

* :mod:`.host`: the server's side of a broker plugin
* :mod:`.binance`: a venue that speaks Binance's spot streams
* :mod:`.dukascopy`: a venue that serves recorded ticks, with faults on demand; :mod:`.bi5`: its encoders
* :mod:`.recorded`: readers for files of recorded frames
"""
