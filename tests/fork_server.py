"""Starts commands of the project quickly: a server that has imported JAX and what goes with it forks one for each.

Most of the 4 CPU seconds of a tiny command go into imports, which are alike in all of them. The server imports packages
from elsewhere alone, nothing of the project, and it uses no device: so a command finds the code of its own checkout,
and devices by its own flags. A command whose environment Python or JAX reads at import in another way than the server's
is started as usual.

  python tests/fork_server.py --serve PATH   the server, at the socket PATH; it ends with its parent
  python tests/fork_server.py WORDS          as `python WORDS`, by the server at $GEN_AI_TEST_FORKS
"""

import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

PLACE = 'GEN_AI_TEST_FORKS'  # the variable with the path of the server's socket
READ_AT_IMPORT = ('JAX_', 'PYTHON', 'LC_', 'LANG', 'LD_', 'TF_', 'TFDS_', 'OMP_')


def _read_at_import(variables):
  return {name: value for name, value in variables.items() if name.startswith(READ_AT_IMPORT)}


def serve(place):
  """Forks a process for every request as long as the parent lives; in that process, returns the request."""
  import absl.app  # noqa: F401
  import flax.linen  # noqa: F401
  import jax  # noqa: F401
  import ml_collections  # noqa: F401
  import optax  # noqa: F401
  import orbax.checkpoint  # noqa: F401
  import tensorflow_datasets  # noqa: F401

  parent = os.getppid()
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for a command
  with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(f'{place}.new')
    listening.listen(16)
    Path(f'{place}.new').rename(place)  # there once it answers
    while os.getppid() == parent:
      if not select.select([listening], [], [], 1.0)[0]:
        continue
      connection, _ = listening.accept()
      if os.fork() == 0:
        listening.close()
        return _watch(connection)
      connection.close()
  sys.exit()


def _watch(connection):
  """Forks the process of a request, which returns it; this one waits for it, tells its exit code and ends."""
  signal.signal(signal.SIGCHLD, signal.SIG_DFL)
  first, files, _, _ = socket.recv_fds(connection, 8, 3)
  with connection.makefile('rb') as text:
    words, folder, variables = json.loads(text.read(int(first)))
  if _read_at_import(variables) != _read_at_import(os.environ):
    connection.sendall(b'no')
    os._exit(0)
  child = os.fork()
  if child == 0:
    connection.close()
    return words, folder, variables, files
  for file in files:
    os.close(file)
  ended = os.pidfd_open(child)
  if connection in select.select([connection, ended], [], [])[0]:  # it was closed, as after a timeout
    os.kill(child, signal.SIGKILL)
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  try:
    connection.sendall(str(code).encode())
  finally:
    os._exit(0)


def become(words, folder, variables, files):
  """Goes on as `python WORDS` in a folder, with an environment and three files of its own."""
  import runpy

  for number, file in enumerate(files):
    os.dup2(file, number)
    os.close(file)
  os.environ.clear()
  os.environ.update(variables)
  os.chdir(folder)
  sys.orig_argv = [sys.executable, *words]
  if words[0] == '-m':
    sys.argv, sys.path[0] = words[1:], folder
    runpy.run_module(words[1], run_name='__main__', alter_sys=True)
  else:
    sys.argv, sys.path[0] = words, str(Path(words[0]).resolve().parent)
    runpy.run_path(words[0], run_name='__main__')


def request(words):
  """Exit code of `python WORDS` by the server; None: it is to be started as usual."""
  if not words or (words[0].startswith('-') and words[0] != '-m'):
    return None
  with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(os.environ[PLACE])
    text = json.dumps([words, str(Path.cwd()), dict(os.environ)]).encode()
    socket.send_fds(connection, [f'{len(text):8}'.encode()], (0, 1, 2))
    connection.sendall(text)
    answer = connection.recv(16)
  assert answer, 'the server of forks has died'
  return None if answer == b'no' else int(answer)


def main(words):
  if words[0] == '--serve':
    return become(*serve(words[1]))
  code = request(words)
  if code is None:
    os.execv(sys.executable, [sys.executable, *words])
  if code < 0:
    os.kill(os.getpid(), -code)
  sys.exit(code)


if __name__ == '__main__':
  main(sys.argv[1:])
