"""Trials trained one after the other in one Python process, as a notebook does: a side of `benchmarks.sweep`."""

import json
import sys
from pathlib import Path

from gen_ai import config as config_lib
from gen_ai.parallel import compilation_cache
from gen_ai.run import provenance
from gen_ai.run.info import Origin
from gen_ai.train import open_run


def main() -> int:
  """Trains the trials of the job that the command line holds as JSON; returns the exit code of the first that failed.

  The job is {'reference': configs/NAME.py, 'shared': overrides of all trials, 'trials': overrides of each,
  'folder': where their run directories go, 'cache': folder of compiled programs}.
  """
  job = json.loads(sys.argv[1])
  compilation_cache.use_cache(job['cache'])
  base = config_lib.override(config_lib.load(job['reference']), job['shared'])
  file = provenance.describe_file(job['reference'])
  for number, overrides in enumerate(job['trials']):
    origin = Origin(sys.argv, file, job['shared'] | overrides, job['cache'])
    run_dir = str(Path(job['folder']) / str(number))
    code = open_run.work(config_lib.override(base, overrides), run_dir, '', origin)
    if code:
      return code
  return 0


if __name__ == '__main__':
  sys.exit(main())
