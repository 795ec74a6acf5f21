"""Launchers: the ways to run the trials of a sweep."""
