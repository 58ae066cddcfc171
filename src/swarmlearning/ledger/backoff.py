"""How long to wait before asking a node again that did not answer."""

import random


class Backoff:
    """Waits that double from `first_s` to `last_s`, each shortened at random by up to half to spread nodes out."""

    def __init__(self, first_s: float, last_s: float, rng: random.Random) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._rng = rng
        self._next_s = first_s

    def next_s(self) -> float:
        """Seconds to wait now."""
        now, self._next_s = self._next_s, min(2 * self._next_s, self._last_s)
        return now * (1 - self._rng.random() / 2)

    def reset(self) -> None:
        """It answered: begin anew."""
        self._next_s = self._first_s
