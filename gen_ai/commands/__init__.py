"""One module a command. `python -m gen_ai.NAME` finds them, by the line on `__path__` in gen_ai/__init__.py."""
