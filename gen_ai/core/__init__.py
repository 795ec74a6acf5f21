"""What everything rests on: the interface, errors, named random streams, optimisers, files, terminal and command lines."""
