"""What everything rests on: the interface, errors, random streams, optimisers, files, terminal and command lines."""
