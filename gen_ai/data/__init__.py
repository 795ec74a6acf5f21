"""Data sets, the order in which they are read, and the feeds that bring them to the device."""
