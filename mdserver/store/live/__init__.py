"""From the journal into the tables, with their candles."""
