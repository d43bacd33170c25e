"""Bytes: predicted from a file's header, measured on the runtime, planned against a budget, watched while it runs."""
