"""Billing: prices, quotes, the ledger and the bill. See README.md."""
