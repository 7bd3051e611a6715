"""Segments, churn risk and key figures."""
