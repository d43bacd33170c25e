"""The only rooms that touch a runtime; everything above speaks to base.py."""
