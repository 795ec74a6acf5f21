"""Mode coverage by hand, its standard error against simulation, and what is refused."""

import math

import numpy as np
import pytest

from gen_ai.core.errors import UserError
from gen_ai.core.method import Spec
from gen_ai.evaluate import metrics
from gen_ai.evaluate.metrics.metric import Request
from gen_ai.evaluate.metrics.modes import modes


def logits(classes, K=4):
  """Logits that name the given classes."""
  return np.eye(K)[np.asarray(classes)] * 9.0


def test_counts_and_divergence_by_hand():
  reference = logits([0] * 50 + [1] * 30 + [2] * 20)  # class 3 does not occur
  # A tenth of the share of class 1 is 0.03: 3 of 100 samples reach it, 1 of 100 of class 2 does not reach 0.02.
  found = modes(logits([0] * 96 + [1] * 3 + [2]), reference)
  assert (found.covered, found.classes) == (2, 3)
  q = np.array([50.5, 30.5, 20.5, 0.5]) / 102
  p = np.array([0.96, 0.03, 0.01])
  assert found.kl_nats == pytest.approx(float((p * np.log(p / q[:3])).sum()), rel=1e-12)
  assert modes(logits([0] * 96 + [1] * 2 + [2] * 2), reference).covered == 2  # class 2 instead of class 1


def test_one_mode_and_all_modes():
  reference = logits(np.arange(4).repeat(100))
  lost = modes(logits([2] * 500), reference)
  assert (lost.covered, lost.classes) == (1, 4)
  assert lost.kl_nats == pytest.approx(math.log(4), abs=1e-12)
  same = modes(reference, reference)
  assert (same.covered, same.kl_nats) == (4, 0.0)


def test_a_class_that_real_images_lack_counts_for_no_mode_and_stays_finite():
  found = modes(logits([3] * 10), logits([0] * 10))
  assert (found.covered, found.classes) == (0, 1)
  assert found.kl_nats == pytest.approx(math.log(12 / 0.5))


@pytest.mark.parametrize('probs', [(0.25, 0.25, 0.25, 0.25), (0.6, 0.2, 0.15, 0.05)])
def test_the_standard_error_is_that_of_repetitions(probs):
  rng, reference = np.random.default_rng(0), logits(np.arange(4).repeat(2500))
  found = [modes(logits(rng.choice(4, 400, p=probs)), reference) for _ in range(400)]
  spread = np.std([one.kl_nats for one in found])
  assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.25)


def test_logits_that_are_not_numbers_are_refused():
  bad = logits([0, 1])
  bad[1, 2] = np.nan
  with pytest.raises(UserError, match='NaN or infinite'):
    modes(bad, logits([0, 1]))


def test_an_extractor_without_classes_is_refused():
  class Plain:
    name, dim, has_logits = 'random', 8, False

  with pytest.raises(UserError, match="mode coverage needs class probabilities.*leave 'modes' out"):
    metrics.of_kind('image')['modes'].check(Request(100, 100, 'test', Plain(), Spec('image', (28, 28, 1), 10)))
