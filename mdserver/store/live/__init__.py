"""Store live records: from the journal into the tables, with their candles."""
