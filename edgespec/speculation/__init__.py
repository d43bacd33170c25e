"""Drafting, trees, sampling, verification and control: pure numpy over backends.base."""
