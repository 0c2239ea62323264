"""Rules of prices, records, windows and bills; no I/O."""
