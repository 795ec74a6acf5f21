"""Weights go out as GPT-2 and Llama and come back: the same numbers, the same model in transformers, clear refusals."""

import json
import shutil

import cli
import jax
import numpy as np
import pytest
import tiny

import gen_ai
from gen_ai.core.errors import DONE, UserError
from gen_ai.evaluate.trained import Trained
from gen_ai.nets import hugging_face
from gen_ai.run import weight_files

safetensors = pytest.importorskip('safetensors.numpy', reason='needs the package safetensors')

GPT2 = {
  'model__norm': 'layer',
  'model__positions': 'learned',
  'model__gated': False,
  'model__bias': True,
  'model__activation': 'gelu',
  'model__qk_norm': False,
  'model__tied': True,
}
LLAMA = {'model__qk_norm': False, 'model__tied': False, 'model__kv_heads': 2, 'model__heads': 4, 'model__head_width': 8}
SIZES = {'model__layers': 3, 'model__width': 16, 'run__steps': 4, 'optim__ema_decay': 0.0}
MODELS = {'gpt2': GPT2, 'llama': LLAMA}
TEXT = 'def f(x):\n  retu'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """{kind: (run, folder that it was exported to, in several files)}."""
  folder, found = tmp_path_factory.mktemp('convert'), {}
  for kind, overrides in MODELS.items():
    assert tiny.run(tiny.config('lm', **SIZES, **overrides), folder / kind)[0] == DONE
    out = folder / f'{kind}-files'
    done = cli.command('gen_ai.export', folder / kind, f'--out={out}', '--shard_gb=0.00001')
    assert done.returncode == DONE, done
    assert (out / weight_files.INDEX).exists() and len(list(out.glob('*.safetensors'))) > 1
    found[kind] = folder / kind, out
  return found


@pytest.mark.parametrize('kind', MODELS)
def test_what_is_exported_comes_back_bit_for_bit(kind, trained, tmp_path):
  run_dir, files = trained[kind]
  done = cli.command('gen_ai.convert', files, f'--run_dir={tmp_path}/back', '--data=python_stdlib')
  assert done.returncode == DONE, done
  here, back = gen_ai.load(run_dir), gen_ai.load(tmp_path / 'back')
  assert back.step == 0
  jax.tree.map(np.testing.assert_array_equal, here.params, back.params)
  done = cli.command('gen_ai.sample', tmp_path / 'back', '--n=1', '--prompt=def ')
  assert done.returncode == DONE and 'def ' in done.stdout


@pytest.mark.parametrize('kind', MODELS)
def test_every_parameter_has_one_tensor(kind, trained):
  run = Trained(trained[kind][0])
  config = json.loads((trained[kind][1] / 'config.json').read_text())
  arch = hugging_face.architecture_of(config)
  leaves = hugging_face.empty(arch)
  total = 0
  for tensor in hugging_face.tensors(arch, kind):
    size = int(np.prod(tensor.shape))
    hugging_face.fill(leaves, tensor, np.ones(tensor.shape, np.float32))
    total += size
  assert all((leaf == 1).all() for leaf in leaves.values()), 'a part of a parameter that no tensor fills'
  assert total == sum(leaf.size for leaf in leaves.values()) == sum(leaf.size for leaf in jax.tree.leaves(run.params))


@pytest.mark.parametrize('kind', MODELS)
def test_transformers_has_the_same_logits_and_text_both_ways(kind, trained, tmp_path):
  torch = pytest.importorskip('torch', reason='PyTorch is not installed (pip install -r requirements/parity.txt)')
  transformers = pytest.importorskip('transformers', reason='transformers is not installed (requirements/parity.txt)')
  run_dir, files = trained[kind]
  run = Trained(run_dir)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(files, dtype=torch.float32).eval()
  tokens = run.spec.vocab.encode(TEXT)
  with torch.no_grad():
    logits = theirs(torch.tensor(tokens[None].astype(np.int64))).logits.log_softmax(-1)[0].numpy()
  expected = -logits[np.arange(len(tokens) - 1), tokens[1:]]
  np.testing.assert_allclose(run.run('score', prompt=TEXT)['nats'][0][1:], expected, atol=1e-4)
  # And what they save is read.
  torch.manual_seed(0)
  for parameter in theirs.parameters():
    torch.nn.init.normal_(parameter, std=0.2)
  theirs.save_pretrained(tmp_path / 'theirs')
  done = cli.command('gen_ai.convert', tmp_path / 'theirs', f'--run_dir={tmp_path}/ours')
  assert done.returncode == DONE, done
  ours = Trained(tmp_path / 'ours', settings={'sample.temperature': 0.0, 'sample.length': 8})
  with torch.no_grad():
    logits = theirs(torch.tensor(tokens[None].astype(np.int64))).logits.log_softmax(-1)[0].numpy()
    text = theirs.generate(torch.tensor(tokens[None, :8].astype(np.int64)), max_new_tokens=8, do_sample=False)[0]
  expected = -logits[np.arange(len(tokens) - 1), tokens[1:]]
  np.testing.assert_allclose(ours.run('score', prompt=TEXT)['nats'][0][1:], expected, atol=1e-4)
  drawn = ours.generate(n=1, prompt=ours.spec.vocab.decode(tokens[:8]))[0]
  assert drawn[:16].tolist() == text.tolist()


def test_weights_that_do_not_fit_are_refused_by_name(trained, tmp_path):
  source = trained['llama'][1]

  def changed(name, change=None, **fields):
    folder = shutil.copytree(source, tmp_path / name)
    weights = weight_files.Weights(folder)
    tensors = {tensor: weights.read(tensor) for tensor in weights.names}
    for file in folder.glob('*.safetensors*'):
      file.unlink()
    if change:
      change(tensors)
    weight_files.write(folder, tensors.items(), 2**30)
    config = json.loads((folder / 'config.json').read_text()) | fields
    (folder / 'config.json').write_text(json.dumps(config))
    return folder

  key, down = 'model.layers.1.self_attn.k_proj.weight', 'model.layers.0.mlp.down_proj.weight'
  cases = [
    (changed('missing', lambda t: t.pop(key)), f'the tensor {key} is missing'),
    (changed('shape', lambda t: t.update({down: t[down].T.copy()})), rf'the tensor {down} has the shape \[.*by config'),
    (changed('more', lambda t: t.update(bias=np.ones(3, np.float32))), 'the tensor bias is none of a llama'),
    (changed('kind', model_type='mamba'), "of the kind 'mamba'"),
    (changed('rope', rope_parameters={'rope_type': 'llama3'}), "rope_type 'llama3'"),
    (changed('act', hidden_act='tanh'), "the activation 'tanh'"),
    (changed('bias', attention_bias=True), 'attention_bias=True; only False'),
    (changed('tokens', vocab_size=257), 'has no tokenizer'),
    (changed('field', hidden_size=None), 'a field is missing, or not what it must be'),
  ]
  for folder, says in cases:
    with pytest.raises(UserError, match=says):
      gen_ai_convert(folder, tmp_path)
  torn = changed('torn')
  file = torn / weight_files.SINGLE
  file.write_bytes(file.read_bytes()[:-100])
  with pytest.raises(UserError, match='cannot be read'):
    gen_ai_convert(torn, tmp_path)
  file.unlink()
  with pytest.raises(UserError, match=f'has neither {weight_files.SINGLE} nor'):
    gen_ai_convert(torn, tmp_path)
  with pytest.raises(UserError, match='no folder of weights'):
    gen_ai_convert(tmp_path / 'none', tmp_path)
  done = cli.command('gen_ai.convert', source, '--context=17')
  cli.refused(done, '--context=17 is more than the 16 tokens')
  assert not (tmp_path / 'runs').exists(), 'nothing is left behind'


def gen_ai_convert(folder, tmp_path):
  from gen_ai.commands import convert

  return convert.convert(str(folder), 'python_stdlib', '', str(tmp_path / 'runs'))


def test_any_model_is_exported_with_a_card_and_programs(tmp_path):
  assert tiny.run(tiny.config('gan'), tmp_path / 'run')[0] == DONE
  done = cli.command('gen_ai.export', tmp_path / 'run', f'--out={tmp_path}/out', '--programs', '--batch=4')
  assert done.returncode == DONE, done
  run = Trained(tmp_path / 'run')
  found = safetensors.load_file(tmp_path / 'out' / 'model.safetensors')
  assert sum(array.size for array in found.values()) == sum(leaf.size for leaf in jax.tree.leaves(run.params))
  card = (tmp_path / 'out' / 'README.md').read_text()
  assert 'family `gan`' in card and 'mnist_5k' in card and '| logit_gap |' in card
  program = jax.export.deserialize(bytearray((tmp_path / 'out' / 'generate.jax').read_bytes()))
  seeds = np.arange(4, dtype=np.uint32)
  drawn = program.call(seeds, {})['sample']
  assert drawn.shape == (4, 28, 28, 1)
  keys = jax.vmap(jax.random.key)(seeds)
  np.testing.assert_allclose(drawn, run.tasks['generate'].run(run.state, {}, keys)['sample'], atol=1e-5)
  cli.refused(cli.command('gen_ai.export', tmp_path / 'run', f'--out={tmp_path}/out'), 'holds something already')
  cli.refused(cli.command('gen_ai.export', tmp_path / 'run'), 'needs --out=DIR')
