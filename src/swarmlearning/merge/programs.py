"""Selecting by rank without sorting: straight-line programs of element-wise minima and maxima, made once, run often.

A weighted quantile is the value at which the weight of it and all smaller ones reaches a threshold. Whether it does is
a monotone Boolean function of "this contributor's value is among them"; its decision diagram, with `and` read as
maximum and `or` as minimum, computes the quantile itself, weights and all, without carrying any weight along. For equal
weights the wanted ranks of a sorting network may take fewer steps.

Does not: know element types; whoever runs a program says what has an order. Spec: docs/spec/merging.md, G-50, G-51.
"""

import functools
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from swarmlearning.parameters.dtypes import Array

MAX_STEPS: Final = 2000
"""Longest program: beyond it, sorting is faster."""

_MAX_INPUTS: Final = 64
"""More contributors are not tried."""

_EXACT_SUMS: Final = 10
"""For so many remaining contributors all sums of their weights are known, and thresholds between two are one."""


class Step(NamedTuple):
    """One element-wise minimum or maximum of two registers."""

    is_max: bool
    left: int
    right: int
    into: int


class Program(NamedTuple):
    """Steps over registers: the inputs come first, then scratch."""

    inputs: int
    registers: int
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    """Which registers hold the results in the end; may be an input's."""


class _TooLong(Exception):
    """The program would have more steps than sorting costs."""


class _Graph:
    """Minima and maxima of earlier nodes; equal ones are one node."""

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.nodes: list[tuple[bool, int, int]] = []
        self._known: dict[tuple[bool, int, int], int] = {}

    def add(self, is_max: bool, left: int, right: int) -> int:
        if left == right:
            return left
        key = (is_max, min(left, right), max(left, right))
        if key not in self._known:
            if len(self.nodes) >= 4 * MAX_STEPS:
                raise _TooLong
            self._known[key] = self.inputs + len(self.nodes)
            self.nodes.append(key)
        return self._known[key]


@functools.lru_cache(maxsize=256)
def quantile_program(weights: tuple[int, ...], thresholds: tuple[int, ...]) -> Program | None:
    """The shortest program known for weighted quantiles.

    Args:
        weights: one a contributor, at least 1 each.
        thresholds: from 1 to the sum of weights: each gives the smallest value that, together with all smaller ones,
            carries at least so much.

    Returns:
        A program with one output a threshold, or None where sorting is faster.
    """
    if len(weights) > _MAX_INPUTS:
        return None
    found = [_try_diagram(weights, thresholds)]
    if len(set(weights)) == 1:
        found.append(sorting_program(len(weights), tuple(-(-t // weights[0]) - 1 for t in thresholds)))
    programs = [program for program in found if program is not None]
    return min(programs, key=lambda program: len(program.steps), default=None)


@functools.lru_cache(maxsize=256)
def sorting_program(count: int, ranks: tuple[int, ...]) -> Program | None:
    """What of a sorting network is needed for some ranks (Batcher's merge exchange, Knuth 5.2.2 M); None if too long.

    Args:
        count: of inputs.
        ranks: wanted, from 0 for the smallest.
    """
    if count > _MAX_INPUTS:
        return None
    graph = _Graph(count)
    wires = list(range(count))
    try:
        for low, high in _merge_exchange(count):
            a, b = wires[low], wires[high]
            wires[low], wires[high] = graph.add(False, a, b), graph.add(True, a, b)
        return _compile(graph, [wires[rank] for rank in ranks])
    except _TooLong:
        return None


def run_program(program: Program, inputs: Sequence[Array], scratch: Array) -> list[Array]:
    """Run a program; returns its outputs, which are inputs or lie in `scratch`.

    Args:
        program: what to do.
        inputs: flat, of one type and length; only read.
        scratch: at least `registers - inputs` rows of at least that length, of the same type.
    """
    length = len(inputs[0])
    registers = [*inputs, *(row[:length] for row in scratch[: program.registers - program.inputs])]
    for is_max, left, right, into in program.steps:
        (np.maximum if is_max else np.minimum)(registers[left], registers[right], out=registers[into])
    return [registers[output] for output in program.outputs]


_BOTTOM: Final = -1
"""Of a diagram: below every value, since the threshold is reached already."""
_TOP: Final = -2
"""Of a diagram: above every value, since the threshold cannot be reached any more."""


def _try_diagram(weights: tuple[int, ...], thresholds: tuple[int, ...]) -> Program | None:
    """The decision diagram of a weighted threshold, heaviest contributor first, so that most thresholds coincide."""
    order = sorted(range(len(weights)), key=lambda k: (-weights[k], k))
    heavy = [weights[k] for k in order]
    rest = [sum(heavy[k:]) for k in range(len(heavy) + 1)]
    sums = _sums_of_last(heavy)
    graph = _Graph(len(weights))
    known: dict[tuple[int, int], int] = {}

    def build(at: int, threshold: int) -> int:
        if threshold <= 0:
            return _BOTTOM
        if threshold > rest[at]:
            return _TOP
        left = len(heavy) - at
        if left <= _EXACT_SUMS:
            threshold = sums[left][bisect_left(sums[left], threshold)]
        key = (at, threshold)
        if key not in known:
            if len(known) > 4 * MAX_STEPS:
                raise _TooLong
            with_it, without = build(at + 1, threshold - heavy[at]), build(at + 1, threshold)
            known[key] = _choose(graph, order[at], with_it, without)
        return known[key]

    try:
        return _compile(graph, [build(0, threshold) for threshold in thresholds])
    except _TooLong:
        return None


def _choose(graph: _Graph, value: int, with_it: int, without: int) -> int:
    """The smaller of: this value or what is needed beside it, whichever is larger; what is needed without it."""
    if with_it == without:
        return without
    counted = value if with_it == _BOTTOM else with_it if with_it == _TOP else graph.add(True, value, with_it)
    if without == _TOP or counted == _TOP:
        return counted if without == _TOP else without
    return graph.add(False, counted, without)


def _sums_of_last(heavy: Sequence[int]) -> list[list[int]]:
    """All sums of some of the last k weights, rising, for k up to a few."""
    sums = [[0]]
    for weight in list(reversed(heavy))[:_EXACT_SUMS]:
        sums.append(sorted({*sums[-1], *(weight + s for s in sums[-1])}))
    return sums


def _merge_exchange(count: int) -> list[tuple[int, int]]:
    """Batcher's network for any number of inputs: pairs of which the smaller goes first."""
    pairs: list[tuple[int, int]] = []
    top = 1 << max((count - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return pairs


def _compile(graph: _Graph, wanted: Sequence[int]) -> Program:
    """Drop what is not needed, and give each node a register that nobody needs any more.

    Raises:
        _TooLong: more than `MAX_STEPS` are needed.
    """
    needed = set(wanted)
    for number in range(len(graph.nodes) - 1, -1, -1):
        if graph.inputs + number in needed:
            needed |= set(graph.nodes[number][1:])
    kept = [number for number in range(len(graph.nodes)) if graph.inputs + number in needed]
    if len(kept) > MAX_STEPS:
        raise _TooLong
    last_use = {node: len(graph.nodes) for node in wanted}
    for number in reversed(kept):
        for operand in graph.nodes[number][1:]:
            last_use.setdefault(operand, number)
    register = {k: k for k in range(graph.inputs)}
    free: list[int] = []
    count = graph.inputs
    steps = []
    for number in kept:
        is_max, left, right = graph.nodes[number]
        operands = register[left], register[right]
        free += [register[k] for k in (left, right) if k >= graph.inputs and last_use[k] == number]
        if free:
            into = free.pop()
        else:
            into, count = count, count + 1
        register[graph.inputs + number] = into
        steps.append(Step(is_max, *operands, into))
    return Program(graph.inputs, count, tuple(steps), tuple(register[node] for node in wanted))
