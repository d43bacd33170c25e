"""Rounds: choose, draft, evaluate, verify, keep."""
