"""Measuring, not deciding."""
