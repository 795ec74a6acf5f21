"""What changes with a Transformer's width so that one learning rate serves all widths: the maximal update
parametrisation, Tensor Programs V (arXiv 2203.03466), in the form of its table 8, which tied embeddings can have.

Of a network that is `growth` times as wide as the one whose learning rate is known:

- kernels between hidden layers begin smaller by growth^-1/2, and Adam moves them by 1 / growth as much;
- logits are divided by growth, whose kernel begins and moves as it did;
- scores of queries and keys whose heads have grown go by 1 / H and not H^-1/2, see `Architecture.attention_scale`: with
  normalised ones (QK-norm) they then never exceed H0^1/2 of the first heads, so let more heads grow rather than wider
  ones;
- embeddings, norms and biases begin and move as they did.

A router leads to a number of experts that does not grow, without a factor behind it: it begins and moves smaller by
1 / growth, as outputs do in table 3. So do LoRA's A; its B are as embeddings are. Muon gives every matrix one spectral
norm a unit of RMS, which needs growth^-1/2 where Adam needs 1 / growth ("A Spectral Condition for Feature Learning",
arXiv 2310.17813, condition 1). The learning rate of plain gradient descent is that of table 8's row for SGD.
"""

HIDDEN = r'(qkv|attention_out|mlp_in|mlp_out|experts_in|experts_out)/kernel'  # both of whose sides grow
INPUTS = r'router/kernel|lora_a'  # which read what grows and do not grow in number
OTHERS = r'.*'  # which lead to what grows, or have a factor behind them


def rates(growth: float, optimiser: str) -> dict[str, float]:
  """{end of a parameter's name: factor of its updates}, the first that fits; {} for a network that has not grown.

  Args:
    growth: width over the width at which the learning rate is known.
    optimiser: config.optim.name.
  """
  if growth == 1:
    return {}
  if optimiser == 'sgd':
    return {HIDDEN: 1.0, INPUTS: 1 / growth, OTHERS: growth}
  return {HIDDEN: growth**-0.5 if optimiser == 'muon' else 1 / growth, INPUTS: 1 / growth}
