"""TradingView's UDF protocol: what its own client asks for a chart."""
