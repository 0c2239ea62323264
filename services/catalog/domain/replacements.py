"""Which model follows which; nobody may be sent in a circle."""

from __future__ import annotations

from collections.abc import Mapping


def replacement_cycles(replaced_by: Mapping[str, str]) -> list[list[str]]:
    """Every circle of replacements once, each beginning and ending with its first name in order.

    Args:
        replaced_by: The model to move to, by the model that is left.
    """
    cycles: list[list[str]] = []
    settled: set[str] = set()
    for start in sorted(replaced_by):
        path: list[str] = []
        name = start
        while name in replaced_by and name not in settled:
            if name in path:
                circle = path[path.index(name) :]
                first = circle.index(min(circle))
                cycles.append([*circle[first:], *circle[:first], circle[first]])
                break
            path.append(name)
            name = replaced_by[name]
        settled.update(path)
    return cycles
