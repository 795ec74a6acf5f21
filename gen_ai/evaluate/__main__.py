"""Where `python -m gen_ai.evaluate` begins: the command is gen_ai/commands/evaluate.py."""

import runpy

runpy.run_module('gen_ai.commands.evaluate', run_name='__main__', alter_sys=True)
