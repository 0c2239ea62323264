"""The usage journal: every admitted call, durable before its first and its last byte."""
