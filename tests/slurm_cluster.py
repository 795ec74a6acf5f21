"""A real Slurm cluster on loopback: two nodes of two cores with two fake GPUs each, on whatever ports are free.

It runs as the user who runs the tests, without systemd, munge or any file outside its folder. `low` is the partition by
default; `high` preempts it.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ('slurmctld', 'slurmd', 'sbatch', 'srun', 'squeue', 'scancel', 'scontrol', 'setpriv')
NODES = ('n1', 'n2')
MAX_ARRAY_SIZE = 11  # so that a sweep of a dozen trials takes two arrays
REQUEUE_SECONDS = 5  # Slurm holds a requeued task back until its old credentials have expired (usually 120 s)

# NoInAddrAny: nothing listens outside loopback. config_overrides: the nodes are as large as said here, whatever the
# machine is. A killed slurmd counts as a lost node after SlurmdTimeout.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire={requeue}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
SlurmctldPidFile={path}/slurmctld.pid
SlurmdPidFile={path}/%n.pid
StateSaveLocation={path}/state
SlurmdSpoolDir={path}/spool.%n
SlurmctldLogFile={path}/slurmctld.log
SlurmdLogFile={path}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
MaxArraySize={array}
ReturnToService=2
SlurmdTimeout=8
KillWait=5
MinJobAge=300
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000 Gres=gpu:2
PartitionName=low Nodes=ALL Default=YES MaxTime=60 PriorityTier=1
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10
"""


def missing():
  """Why there can be no cluster here; '' where there can."""
  absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
  return (
    f'no {", ".join(absent)} here: apt-get install --no-install-recommends slurmctld slurmd slurm-client'
    if absent
    else ''
  )


def _path():
  return os.environ['PATH'] + ':/usr/sbin:/usr/local/sbin'  # where Debian keeps the daemons


def _free_ports(count):
  with contextlib.ExitStack() as stack:
    sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
    for s in sockets:
      s.bind(('127.0.0.1', 0))
    return [s.getsockname()[1] for s in sockets]


class Cluster:
  """The cluster, up while the context is open; commands find it by the environment variables `env`."""

  def __init__(self, path):
    self.path = Path(path)
    self.conf = self.path / 'slurm.conf'
    self.env = {'SLURM_CONF': str(self.conf), 'PATH': _path()}
    self._daemons = {}

  def __enter__(self):
    (self.path / 'state').mkdir(parents=True)
    host = socket.gethostname().partition('.')[0]
    user = subprocess.run(['id', '-un'], capture_output=True, text=True, check=True).stdout.strip()
    self.conf.write_text(
      CONF.format(
        host=host, user=user, path=self.path, ports=_free_ports(3), array=MAX_ARRAY_SIZE, requeue=REQUEUE_SECONDS
      )
    )
    (self.path / 'gres.conf').write_text('NodeName=n[1-2] Name=gpu File=/dev/null,/dev/zero\n')
    (self.path / 'cgroup.conf').write_text('CgroupPlugin=cgroup/v1\n')
    try:
      self._start('slurmctld', 'slurmctld', '-D')
      for node in NODES:
        self.start_node(node)
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *exc_info):
    with contextlib.suppress(subprocess.SubprocessError, AssertionError):
      self.run('scancel', '--user', str(os.getuid()), check=False)
      self.wait_for(lambda: not self.queue(), 15)
    for process in self._daemons.values():
      process.terminate()
    for process in self._daemons.values():
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
      process.kill()
      process.wait()
    deadline = time.monotonic() + 10
    while (left := self.processes()) and time.monotonic() < deadline:  # what a killed slurmd left to itself
      for pid in left:
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
      time.sleep(0.1)

  def _start(self, name, *command):
    with (self.path / f'{name}.out').open('a') as out:
      # A killed test session takes its cluster along.
      command, env = ['setpriv', '--pdeathsig', 'KILL', *command], {**os.environ, **self.env}
      process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    self._daemons[name] = process

  def start_node(self, node):
    """Starts the daemon of `node` and waits until the node is ready."""
    self._start(node, 'slurmd', '-N', node, '-D')
    self.wait_for(lambda: self.node_state(node) in ('idle', 'mix', 'alloc'), 30)

  def kill_node(self, node):
    """kill -9 of the node's daemon; its jobs' processes are left to themselves."""
    self._daemons[node].kill()
    self._daemons[node].wait()

  def node_state(self, node):
    """'idle', 'alloc', 'down*', ..."""
    return self.run('sinfo', '-h', '-n', node, '-p', 'low', '-o', '%t', check=False).strip()

  def run(self, *command, check=True):
    """Standard output of a Slurm command."""
    done = subprocess.run(
      list(map(str, command)), env={**os.environ, **self.env}, capture_output=True, text=True, timeout=60
    )
    assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout

  def clear(self):
    """Takes all jobs out of the queue and brings back killed nodes."""
    self.run('scancel', '--user', os.getuid(), check=False)
    for node in NODES:
      if self._daemons[node].poll() is not None:
        self.start_node(node)
    self.wait_for(lambda: not self.queue(), 30)

  def queue(self):
    """{'12_3': 'RUNNING', ...} of all jobs that have not ended."""
    lines = self.run('squeue', '--array', '--noheader', '--format=%i %T').splitlines()
    return dict(line.split() for line in lines)

  def processes(self):
    """Ids of the living processes of this cluster's daemons and jobs."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
      with contextlib.suppress(OSError):
        if f'SLURM_CONF={self.conf}'.encode() in (folder / 'environ').read_bytes().split(b'\0'):
          found.append(int(folder.name))
    return found

  def wait_for(self, true, seconds):
    """Waits until `true()`; fails with what the daemons say after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
      if time.monotonic() > deadline:
        tails = [file.read_text()[-1500:] for file in sorted(self.path.glob('*.out'))]
        raise AssertionError('\n'.join([f'nothing after {seconds} s; queue {self.run("squeue", check=False)}', *tails]))
      time.sleep(0.2)
    return value
