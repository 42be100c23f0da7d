"""Which texts are scored together: those that begin alike share that beginning, and all of a pass are about as long.

Pure: sequences in, a plan out. The same sequences and limits give the same plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

# A pass takes about as long as so many tokens besides: weights are read, and those of 4 bits unpacked.
_PASS_TOKENS = 100


@dataclass(frozen=True)
class Limits:
    """What one pass may take: `tokens` that are read, padding included, `cached` tokens whose keys and values are held, and `wanted`
    places at which the vocabulary is looked at. A single text may go beyond them."""

    tokens: int
    cached: int
    wanted: int


@dataclass(frozen=True)
class Group:
    """Texts by their numbers, and how many tokens at their beginning are the same and read once."""

    members: tuple[int, ...]
    shared: int


@dataclass(frozen=True)
class Pack:
    """Groups whose beginnings are read in one pass, and the passes behind it: each the (group of this pack, text) that it reads on."""

    groups: tuple[Group, ...]
    passes: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def members(self) -> list[int]:
        return [member for group in self.groups for member in group.members]


@dataclass
class _Node:
    """Sorted texts that share `depth` tokens, and the best grouping of them so far."""

    depth: int
    members: list[int] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    saved: int = 0

    def add(self, other: "_Node") -> None:
        self.members += other.members
        self.groups += other.groups
        self.saved += other.saved

    def closed(self) -> "_Node":
        """With one group of all where that reads fewest tokens, else with one of those that are in none yet."""
        single = [group.members[0] for group in self.groups if not group.shared]
        beside = max(len(single) - 1, 0) * self.depth
        together = (len(self.members) - 1) * self.depth
        if together > self.saved + beside:
            self.groups, self.saved = [Group(tuple(self.members), self.depth)], together
        elif beside:
            self.groups = [*(group for group in self.groups if group.shared), Group(tuple(single), self.depth)]
            self.saved += beside
        return self


def groups(sequences: Sequence[Sequence[int]]) -> list[Group]:
    """Part sequences into groups with a common beginning so that the fewest tokens are read; each is in exactly one group, and what
    shares nothing worth it is a group by itself."""
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    stack = [_Node(0)]  # a path in the tree of common beginnings, the deepest last
    for at, number in enumerate(order):
        following = order[at + 1] if at + 1 < len(order) else None
        depth = 0 if following is None else _common(sequences[number], sequences[following])
        _hang(stack, _Node(len(sequences[number]), [number], [Group((number,), 0)]), depth)
    return stack[0].groups


def _hang(stack: list[_Node], node: _Node, depth: int) -> None:
    """Hang a node into the tree where the next one shares `depth` tokens with it. What is deeper is complete then."""
    while stack[-1].depth > depth:
        parent = stack.pop()
        parent.add(node)
        node = parent.closed()
    if stack[-1].depth < depth:
        stack.append(_Node(depth))
    stack[-1].add(node)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def plan(sequences: Sequence[Sequence[int]], wanted: Sequence[int], limits: Limits) -> list[Pack]:
    """Packs in which every sequence is read once. `wanted` has for each how many places of it are asked for. As many beginnings of like
    lengths as fit share a pass, so that what is behind them can be sorted by its length."""
    packs: list[Pack] = []
    begun: list[Group] = []
    asked = 0
    for group in sorted(groups(sequences), key=lambda group: (group.shared, group.members)):
        more = min(group.shared, max(wanted[member] for member in group.members))
        read = (len(begun) + 1) * group.shared
        full = read > min(limits.tokens, limits.cached) or asked + more > limits.wanted
        if begun and (full or bool(begun[0].shared) != bool(group.shared) or _padding(begun, group) > _PASS_TOKENS):
            packs.append(_packed(begun, sequences, wanted, limits))
            begun, asked = [], 0
        begun.append(group)
        asked += more
    return [*packs, _packed(begun, sequences, wanted, limits)] if begun else packs


def _padding(begun: Sequence[Group], group: Group) -> int:
    """By how many tokens the beginnings of groups, sorted by length, are filled up more where another is read with them."""
    return len(begun) * (group.shared - begun[-1].shared)


def _packed(found: Sequence[Group], sequences: Sequence[Sequence[int]], wanted: Sequence[int], limits: Limits) -> Pack:
    """The passes behind the beginnings of a pack, the shortest texts first, parted so that the least is read, padding included."""
    shared = max(group.shared for group in found)
    rows = sorted(
        (len(sequences[member]) - group.shared, at, member)
        for at, group in enumerate(found)
        for member in group.members
        if len(sequences[member]) > group.shared
    )
    # Of the first rows, up to each: the least cost of reading them, and where their last pass begins.
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end, (longest, _, _) in enumerate(rows, 1):
        asked, choices = 0, []
        for start in range(end - 1, -1, -1):
            count = end - start
            asked += wanted[rows[start][2]]
            full = count * longest > limits.tokens or count * (shared + longest) > limits.cached or asked > limits.wanted
            if full and count > 1:
                break
            choices.append((best[start][0] + _PASS_TOKENS + count * longest, start))
        best.append(min(choices))
    passes: list[tuple[tuple[int, int], ...]] = []
    end = len(rows)
    while end:
        start = best[end][1]
        passes.append(tuple((at, member) for _, at, member in rows[start:end]))
        end = start
    return Pack(tuple(found), tuple(reversed(passes)))
