"""What the venue lists, from its instrument channel. No I/O."""

from __future__ import annotations

from mdserver.model import Instrument

from .codec import Instruments

__all__ = ["InstrumentTable"]

_GONE = "delisted"


class InstrumentTable:
    """The listed instruments by our symbol. ``names`` are the venue's names of them.

    A pair stays in the table whatever its status, except ``delisted``: trading may pause, and who unsubscribed would
    miss its return.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._listed: dict[str, Instrument] = {}

    def take(self, message: Instruments) -> list[Instrument]:
        """Take a message; return the instruments that are left out because an earlier one has the same symbol."""
        listed = {} if message.snapshot else self._listed
        hidden = []
        for instrument, status in message.pairs.items():
            known = listed.get(instrument.symbol)
            if known is not None and known.venue_symbol != instrument.venue_symbol:
                hidden.append(instrument)
            elif status == _GONE:
                listed.pop(instrument.symbol, None)
            else:
                listed[instrument.symbol] = instrument
        self._listed = listed
        self.names = {symbol: instrument.venue_symbol for symbol, instrument in listed.items()}
        return hidden

    def all(self) -> list[Instrument]:
        """Return all listed instruments."""
        return list(self._listed.values())
