"""Where `python -m gen_ai.compare` begins: the command is gen_ai/commands/compare.py."""

import runpy

runpy.run_module('gen_ai.commands.compare', run_name='__main__', alter_sys=True)
