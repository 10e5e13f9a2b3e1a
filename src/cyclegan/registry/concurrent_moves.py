"""Champions that two machines choose at the same moment.

The lock of the registry excludes processes of one machine only. MLflow has none for several machines, and keeps the
last value of an alias. So each machine records its move, and only then reads the moves of the others: of two that
overlap, at least one sees the other. It compares the versions as if they had been registered one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cyclegan.registry.champion import Move, champion_of, move, moves
from cyclegan.tracking.store import Store

# Machines with different versions of this code may disagree about the champion. One of them must stop.
ATTEMPTS = 5


def settle(
    store: Store, name: str, made: Move, known: Sequence[Move], is_better: Callable[[str, str | None], bool]
) -> None:
    """Move the alias to the right version, if another machine moved it since `known` was read.

    Args:
        made: the move of this process.
        known: the moves that were recorded before this process compared its version with the champion.
        is_better: whether the gate promotes the first version when the second is champion (None: there is none).
    """
    for _ in range(ATTEMPTS):
        # Both are read after this process has written both. The comment at the top relies on it.
        holder, new = champion_of(store, name), [other for other in moves(store, name) if other not in known]
        if _follows(made, holder, new):
            return
        winner = _winner(made, holder, new, is_better)
        if winner is None or winner == holder:
            return
        made = move(store, name, winner, "register", f"registered at the same moment as version {holder}")


def _follows(made: Move, holder: str | None, new: Sequence[Move]) -> bool:
    """Whether every other new move replaced the version of `made`, so that its process has compared the two."""
    heirs = {made.version}
    for other in new:
        if other.before in heirs:
            heirs.add(other.version)
    return holder in heirs and all(other.version in heirs for other in new)


def _winner(
    made: Move, holder: str | None, new: Sequence[Move], is_better: Callable[[str, str | None], bool]
) -> str | None:
    """The champion after one registration after the other, in the order of the versions' numbers."""
    by_hand = [other for other in new if other.by != "register"]
    # A user's choice needs no comparison, and replaces what the user saw.
    winner = by_hand[-1].version if by_hand else made.before
    replaced = {by_hand[-1].before} if by_hand else set()
    contenders = {made.version, *(other.version for other in new if other.by == "register")} - replaced
    if holder is not None:
        contenders.add(holder)
    for version in sorted(contenders, key=int):
        if version != winner and is_better(version, winner):
            winner = version
    return winner
