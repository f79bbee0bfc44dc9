"""Load whole hours of imported ticks into the tables, with their candles and their ledger."""
