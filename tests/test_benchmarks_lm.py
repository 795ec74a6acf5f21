"""The benchmarks of the language model: beside compressors, and on a GPU (here at tiny size on the CPU)."""

import json

import numpy as np
import pytest
import tiny

from benchmarks import compressors, gpu_lines, gpu_parts, gpu_processes, methods
from gen_ai.core.errors import UserError
from gen_ai.run import directory

JOB = {'tiny': True, 'batch_size': 32, 'data_dir': '', 'text': '', 'limit': 60.0, 'rate': 1e9}


def test_a_compressor_may_look_back_into_the_training_text():
  noise = np.random.default_rng(0).integers(0, 256, 30_000, np.uint8).tobytes()
  for size in compressors.COMPRESSORS.values():
    alone, after = compressors.bits_per_byte(size, noise, noise[10_000:20_000])
    assert alone > 7.9 and after < 0.5


def test_a_trained_model_stands_beside_the_compressors_of_the_same_text(tmp_path):
  config, out = tiny.config('lm'), tmp_path / 'report.json'
  tiny.run(config, tmp_path / 'run')
  done = tiny.command('-m', 'benchmarks.compression', tmp_path / 'run', f'--out={out}')
  assert done.returncode == 0, done.stderr
  report, rows = json.loads(out.read_text()), directory.read_metrics(tmp_path / 'run')
  assert report['model'] == [row for row in rows if row['kind'] == 'eval'][-1]['bits_per_byte']
  # Bytes are the tokens here, so that the text which was compressed is the one which the model was judged on.
  splits = tiny.dataset(config).splits
  text = {name: np.asarray(splits[name].arrays()['tokens'], np.uint8).tobytes() for name in ('train', 'validation')}
  train, validation = compressors.parts(config)
  assert (train, validation) == (text['train'], text['validation'])
  assert report['validation_bytes'] == len(validation)
  assert report['compressors']['xz -9']['alone'] == compressors.xz(validation) * 8 / len(validation)
  assert f'{report["model"]:.3f}' in done.stdout and 'zstd --ultra -22' in done.stdout


def test_a_model_that_drafts_for_itself_is_never_refused_and_is_timed_beside_plain_decoding(tmp_path):
  tiny.run(tiny.config('lm'), tmp_path / 'run')
  sizes = ['--temperatures=0', '--batches=2', '--draft_tokens=3', '--length=9', '--rounds=2', '--prompt=a']
  runs = [f'--model={tmp_path}/run', f'--draft={tmp_path}/run', f'--out={tmp_path}/report.json']
  done = tiny.command('-m', 'benchmarks.speculative', *runs, *sizes)
  assert done.returncode == 0, done.stderr
  plain, drafted = json.loads((tmp_path / 'report.json').read_text())['rows']
  assert (plain['drafted'], plain['ratio'], drafted['drafted']) == (0, 1.0, 3)
  assert plain['tokens_per_second'] > 0 and drafted['ratio_min'] <= drafted['ratio'] <= drafted['ratio_max']
  # Greedy, each pass of the model takes the three tokens of its draft and adds its own: 9 tokens are three passes.
  assert (drafted['accepted'], drafted['tokens_per_pass']) == (1.0, 3.0)
  assert f'{drafted["tokens_per_second"]:.0f}' in done.stdout and 'plain' in done.stdout


@pytest.mark.parametrize(
  ('rows', 'said'),
  [([], 'has no evaluation yet'), ([{'kind': 'eval', 'step': 1, 'elbo_nats': 0.0}], 'is no language model')],
)
def test_a_run_without_bits_per_byte_is_named(tmp_path, rows, said):
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps({'attempt': 1, **row}) + '\n' for row in rows))
  with pytest.raises(UserError, match=said):
    compressors.of_model(tmp_path)


def test_parts_that_take_their_whole_shares_end_in_time():
  chosen, left = list(gpu_processes.PARTS), 510.0
  for part in chosen:
    limit = gpu_processes.limits(left, part, chosen)
    assert limit > 20
    left -= limit
  assert left == pytest.approx(0.0)
  assert gpu_processes.limits(100.0, 'decode', ['matmul', 'decode']) == 100.0


def test_a_part_that_fails_or_hangs_is_reported(monkeypatch):
  assert 'ended with code 1' in gpu_processes.measured('matmul', {}, 60.0)['error']  # a job without its settings
  monkeypatch.setattr(gpu_processes, 'GRACE', 0.0)
  found = gpu_processes.measured('attention', JOB, 0.3)
  assert found['error'] == 'stopped after 0 s' and found['seconds'] < 10


def test_the_rate_of_matrix_products_is_that_of_the_fastest_size():
  *_, found = gpu_parts.matmul(JOB)
  assert found['flops_per_second'] == max(found['by_size'].values()) > 0
  assert found['device'] in gpu_lines.matmul(found)[0][0]


def test_what_cudnn_refuses_is_a_line_of_its_own(monkeypatch):
  monkeypatch.setattr(gpu_parts, 'CASES', {name: gpu_parts.CASES[name] for name in ('mask, T = 192',)})
  *_, found = gpu_parts.attention(JOB)
  assert found['ran'] == [] and found['cases']['mask, T = 192']['rule'] == 'xla'
  lines, passed = gpu_lines.attention(found)
  assert passed is None and 'not computed by cuDNN' in lines[0] and lines[-1].endswith('runs XLA alone')


def test_xla_is_finite_and_right_in_every_case(monkeypatch):
  import jax

  real = jax.nn.dot_product_attention

  def stand_in(*given, implementation, **options):
    return real(*given, implementation='xla', **options)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', stand_in)
  for name, case in gpu_parts.CASES.items():
    judged = gpu_parts._judged(*case)
    assert not judged['not_finite'] and judged['error'] < gpu_lines.LARGEST_ERROR, (name, judged)


@pytest.mark.parametrize(
  ('case', 'change', 'ran', 'passed'),
  [
    ('causal, T = 256', {}, ['__cudnn$fmhaSoftmax'], True),
    ('causal, T = 256', {'not_finite': ['dQ']}, ['__cudnn$fmhaSoftmax'], False),
    ('causal, T = 256', {'error': 0.2}, ['__cudnn$fmhaSoftmax'], False),
    ('causal, T = 256', {}, ['__cudnn$fmhaScaleBiasSoftmax'], False),  # a mask became a bias
    ('causal, T = 192', {'rule': 'xla', 'not_finite': ['dQ']}, [], True),  # our rule keeps it from cuDNN
    ('mask, T = 256, one row sees nothing', {'not_finite': ['dQ']}, [], True),  # and whatever has a mask
  ],
)
def test_attention_that_our_rule_gives_to_cudnn_must_be_right(case, change, ran, passed):
  found = {'platform': 'gpu', 'cases': {case: {'rule': 'cudnn', 'not_finite': [], 'error': 1e-3} | change}, 'ran': ran}
  assert gpu_lines.attention(found)[1] is passed


def test_the_modern_setting_is_no_larger_and_sees_the_same_tokens():
  import jax
  import jax.numpy as jnp

  from experiments import lm
  from gen_ai import config as config_lib
  from gen_ai.nets.transformer import Transformer

  configs, parameters = {}, {}
  for setting in ('cpu', 'modern'):
    configs[setting] = config = config_lib.load(f'configs/lm_shakespeare.py:{setting}')
    net = Transformer(lm.architecture(config, len(methods.ALPHABET)))
    made = jax.eval_shape(lambda net=net: net.init(jax.random.key(0), jnp.zeros((1, 4), jnp.int32), False))
    parameters[setting] = sum(leaf.size for leaf in jax.tree.leaves(made))
  assert parameters == {'cpu': 804_096, 'modern': 800_000}
  for section in ('data', 'run'):
    assert configs['modern'][section] == configs['cpu'][section]


def test_muons_own_coefficients_lie_whole_on_every_device():
  import jax

  from benchmarks import ours
  from gen_ai import config as config_lib
  from gen_ai.parallel.layouts import make_layout

  config = config_lib.load('configs/lm_shakespeare.py:modern')
  config = config_lib.override(config, {'mesh.fsdp': 2, 'mesh.min_shard': 0})
  program = ours.program(config, ours.dataset(config), make_layout(config, jax.devices()[:2]))
  lies = {
    jax.tree_util.keystr(path): leaf.sharding.spec
    for path, leaf in jax.tree_util.tree_leaves_with_path(program.abstract_state().opt_state)
  }
  (coefficients,) = (spec for name, spec in lies.items() if 'ns_coeffs' in name)
  assert coefficients == jax.sharding.PartitionSpec()
  assert any('fsdp' in spec for name, spec in lies.items() if 'kernel' in name)


def test_gpt2_has_the_size_and_the_work_of_nanogpts():
  config = methods.method_config(methods.GPT2)
  parameters = 12 * 12 * 768**2 + (50_304 + 1024) * 768 + 25 * 768
  assert len(methods.alphabet(config)) == len(set(methods.alphabet(config))) == 50_304
  assert gpu_parts.flops_per_token(config, parameters) == 6 * 123_587_328 + 12 * 12 * 12 * 64 * 1024


@pytest.mark.parametrize(('share', 'ratio', 'passed'), [(0.6, 1.2, True), (0.5, 1.2, False), (0.6, 1.0, False)])
def test_training_is_judged_by_pytorch_and_by_the_rate_of_the_card(share, ratio, passed):
  side = {'tokens_per_second': 1e5, 'share_of_matmul': share}
  found = {'parameters': 1, 'batch_size': 1, 'block_size': 1, 'flops_per_token': 1.0, 'ours': side}
  assert gpu_lines.training(found | {'theirs_error': 'PyTorch is not installed'})[1] is None
  both = found | {'theirs': side, 'ratio': ratio, 'ratio_range': [ratio, ratio], 'versions': {'torch': '2.13'}}
  assert gpu_lines.training(both)[1] is passed


def test_without_tiny_shakespeare_other_text_is_read_and_said_so(tmp_path):
  data, note = gpu_parts.texts({**JOB, 'data_dir': str(tmp_path)})
  assert data['data.name'] == 'python_stdlib' and 'cannot be compared' in note
  data, note = gpu_parts.texts({**JOB, 'text': '/a/file.txt'})
  assert data['data.name'] == 'text:/a/file.txt' and not note
  reached = {'wall_seconds': 9.0, 'train_seconds': 5.0, 'step': 250, 'loss_nats': 1.46, 'ended': ''}
  assert gpu_lines.quality(reached | {'note': '', 'comparable': True})[1] is True
  assert gpu_lines.quality(reached | {'note': 'other text', 'comparable': False})[1] is None
  assert gpu_lines.quality(reached | {'loss_nats': 1.48, 'note': '', 'comparable': True})[1] is False


def test_texts_are_written_and_counted():
  *_, found = gpu_parts.decode(JOB)
  assert set(found['tokens_per_second']) == {2} and found['tokens_per_second'][2] > 0
  lines, passed = gpu_lines.decode(found)
  assert passed is None and lines[0].startswith('2 texts of 8 tokens: ')


@pytest.mark.slow
def test_the_gpu_benchmark_reports_every_part_at_tiny_size(tmp_path):
  out = tmp_path / 'report.json'
  done = tiny.command('-m', 'benchmarks.gpu', '--tiny', '--parts=training,quality', f'--out={out}')
  assert done.returncode == 0, done.stdout + done.stderr
  parts = json.loads(out.read_text())['parts']
  assert not any(part['error'] for part in parts.values()), parts
  assert parts['training']['found']['ours']['tokens_per_second'] > 0
  told = parts['training']['found'].get('theirs_error')
  assert 'theirs' in parts['training']['found'] or told == 'PyTorch is not installed'
  assert 0 < parts['quality']['found']['loss_nats'] < 10 and 'lowest validation loss' in done.stdout


def test_without_a_gpu_the_command_says_what_works_here(tmp_path):
  done = tiny.command('-m', 'benchmarks.gpu')
  assert done.returncode == 1 and '--tiny' in done.stderr and 'Traceback' not in done.stderr
  done = tiny.command('-m', 'benchmarks.gpu', '--tiny', f'--text={tmp_path / "none.txt"}')
  assert done.returncode == 1 and 'none.txt: there is no such file' in done.stderr
