"""Trained runs at work: samples and other tasks, figures under one protocol, and the metrics that give them."""
