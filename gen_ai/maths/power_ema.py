"""An average of another length from kept power averages, by least squares (arXiv 2312.02696, appendix C).

The average of power gamma after update T weighs the parameters after update t by p(t) = (gamma+1) t^gamma / T^(gamma+1)
for t in [0, T]. Of kept averages i, each of its own gamma_i and T_i, the combination x whose sum x_i p_i is nearest to
the wanted p in L2 solves A x = b, with the inner products A_ij = <p_i, p_j> and b_i = <p_i, p>. NumPy in float64: the
averages of neighbouring updates are nearly parallel.
"""

from collections.abc import Sequence

import numpy as np

from gen_ai.core.averages import gamma_of


def products(steps: np.ndarray, gammas: np.ndarray, other_steps: np.ndarray, other_gammas: np.ndarray) -> np.ndarray:
  """Inner products <p_i, q_j> over [0, infinity) of weights [N] and other weights [M]: float64 [N, M].

  With T the earlier and T' the later of both updates, and gamma' the power of the later,
  (gamma_i + 1) (gamma_j + 1) / (gamma_i + gamma_j + 1) (T / T')^gamma' / T'; arXiv 2312.02696, appendix C.
  """
  T, g = (np.asarray(values, np.float64)[:, None] for values in (steps, gammas))
  S, h = (np.asarray(values, np.float64)[None, :] for values in (other_steps, other_gammas))
  later, share = np.maximum(T, S), np.minimum(T, S) / np.maximum(T, S)
  return (g + 1) * (h + 1) / (g + h + 1) * share ** np.where(T < S, h, g) / later


def combination(steps: Sequence[int], lengths: Sequence[float], step: int, length: float) -> tuple[np.ndarray, float]:
  """How an average is made of others.

  Args:
    steps: [N] updates after which averages were kept.
    lengths: [N] their lengths sigma_rel; no (step, length) twice.
    step: update after which the average is wanted.
    length: its length.

  Returns:
    (weights float64 [N], which sum to 1, as parameters that never moved must be what they are; the error of the
    combination, |sum x_i p_i - p| / |p| in L2: 0 for one of those that were kept).
  """
  gammas, wanted = np.array([gamma_of(one) for one in lengths]), np.array([gamma_of(length)])
  at, end = np.asarray(steps), np.array([step])
  A, b = products(at, gammas, at, gammas), products(at, gammas, end, wanted)[:, 0]
  (square,) = products(end, wanted, end, wanted)[0]
  x = np.linalg.solve(A, b)
  x = x / x.sum()
  return x, float(np.sqrt(max(x @ A @ x - 2 * b @ x + square, 0.0) / square))
