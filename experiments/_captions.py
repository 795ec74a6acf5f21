"""Captions of classes: the words that a model of images and words knows, as tokens of one length.

A caption is the words of one of config.model.captions with the name of a class put in. Tokens are 0, a blank, and 1, 2,
... the words in alphabetical order. Every caption is filled up with blanks to the longest one and one more, as DALL-E
does (arXiv 2102.12092, section 2.2): an image always begins at the same position, whatever is said of it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gen_ai.core import random
from gen_ai.core.errors import UserError
from gen_ai.core.method import Array, Key, Spec
from gen_ai.core.text import did_you_mean

BLANK = 0
_PLACE = '{}'  # of the name, in a template
_VOWELS = 'aeiou8'  # before which 'a' is 'an'


def words_of(text: str) -> list[str]:
  """The words of `text`: what stands between spaces, in lower case, without punctuation at its ends."""
  return [word for word in (part.strip('.,;:!?"\'()') for part in text.lower().split()) if word]


def names_of(spec: Spec) -> list[list[str]]:
  """What each class is called: 'T-shirt/top' has two names, '3' has one, a class without a name has its number."""
  given = spec.class_names or tuple(map(str, range(spec.num_classes)))
  return [[part.replace('_', ' ').strip() for part in name.split('/')] for name in given]


def filled(template: str, name: str) -> list[str]:
  """The words of a template with `name` in it; 'a' before a vowel becomes 'an'."""
  words, (first, *_) = words_of(template.replace(_PLACE, name)), words_of(name)
  return [
    'an' if word == 'a' and after == first and after[0] in _VOWELS else word
    for word, after in zip(words, [*words[1:], ''], strict=True)
  ]


class Captions:
  """The captions of the classes of a data set.

  Args:
    templates: config.model.captions, each with one '{}'; the first makes the caption that evaluations use.
    spec: of the data.

  Attributes:
    words: that are known, in order.
    size: tokens, the blank among them.
    length: tokens of every caption, blanks included.
    first: int32 [classes, length], the first caption of every class.

  Raises:
    UserError: data without labels, a template without exactly one place, a name without a word, or two classes that
      are called alike.
  """

  def __init__(self, templates: Sequence[str], spec: Spec):
    if spec.num_classes < 2:
      raise UserError(
        'captions are made of the names of classes, and this data has no labels: choose a labelled data set, such as '
        'mnist_5k or fashion_mnist.'
      )
    for template in templates:
      if template.count(_PLACE) != 1:
        raise UserError(f"config.model.captions has '{template}', which needs one {{}} where the name of a class goes.")
    if not templates:
      raise UserError("config.model.captions is empty: give at least one, such as 'a {}'.")
    names = names_of(spec)
    for label, own in enumerate(names):
      if not all(map(words_of, own)):
        raise UserError(f"class {label} is called '{'/'.join(own)}', of which no caption can be made: rename it.")
    said = [[filled(template, name) for template in templates for name in own] for own in names]
    for label, captions in enumerate(said):
      for other in range(label):
        if same := next((caption for caption in captions if caption in said[other]), None):
          raise UserError(f"classes {other} and {label} are both called '{' '.join(same)}': rename one of them.")
    self.words = tuple(sorted({word for own in said for caption in own for word in caption}))
    self.size = len(self.words) + 1
    self.most = max(len(caption) for own in said for caption in own)
    self.length = self.most + 1
    self._counts = np.asarray([len(own) for own in said], np.int32)
    most = self._counts.max()
    # Shorter lists go round: no draw reaches what is added.
    self._table = np.stack([[self._tokens(own[i % len(own)]) for i in range(most)] for own in said])
    self.first = self._table[:, 0]

  def _tokens(self, words: Sequence[str]) -> np.ndarray:
    numbers = [self.words.index(word) + 1 for word in words]
    return np.asarray(numbers + [BLANK] * (self.length - len(words)), np.int32)

  def encode(self, text: str) -> np.ndarray:
    """Tokens int32 [length] of what a person writes; of '' blanks alone.

    Raises:
      UserError: a word that is not known, or more words than any caption has.
    """
    words = words_of(text)
    for word in words:
      if word not in self.words:
        hint = did_you_mean(word, self.words, cutoff=0.6)
        raise UserError(f"the prompt '{text}' has the unknown word '{word}'.{hint} Known are {', '.join(self.words)}.")
    if len(words) > self.most:
      raise UserError(f"the prompt '{text}' has {len(words)} words; this model reads at most {self.most}.")
    return self._tokens(words)

  def drawn(self, keys: Key, label: Array) -> Array:
    """One of the captions of each class of label int32 [B], drawn evenly by its own of the keys [B]: [B, length]."""
    counts = jnp.asarray(self._counts)[label]
    which = jax.vmap(lambda key, count: jax.random.randint(random.stream(key, 'caption'), (), 0, count))(keys, counts)
    return jnp.asarray(self._table)[label, which]

  def blanks(self, rows: int) -> Array:
    """The empty caption, int32 [rows, length]."""
    return jnp.full((rows, self.length), BLANK, jnp.int32)

  def label(self, tokens: Array) -> Array:
    """The class int32 [B] whose caption tokens [B, length] are; -1 where they are nobody's."""
    same = (tokens[:, None, None] == jnp.asarray(self._table)).all(-1).any(-1)
    return jnp.where(same.any(1), same.argmax(1), -1).astype(jnp.int32)
