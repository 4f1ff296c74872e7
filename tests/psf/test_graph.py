"""Histories as drawings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from psf.graph import draw, in_order


def drawing(**parents: str) -> list[str]:
    """Nodes in the order they happened, each with its parents' names."""
    known = {node: tuple(above.split()) for node, above in parents.items()}
    recency = {node: number for number, node in enumerate(known)}
    return [f"{row.lines}{' ' + row.node if row.node else ''}" for row in draw(in_order(known, recency), known)]


def test_a_line_is_a_line() -> None:
    assert drawing(a="", b="a", c="b") == ["* c", "* b", "* a"]


def test_a_branch_comes_out_of_where_it_began() -> None:
    assert drawing(a="", b="a", c="a", d="b") == ["* d", "| * c", "* | b", "|/", "* a"]


def test_what_was_merged_joins_and_left_from_one_place() -> None:
    assert drawing(a="", b="a", c="a", m="b c") == ["* m", "|\\", "| * c", "* | b", "|/", "* a"]


def test_lines_cross_to_where_they_belong() -> None:
    assert drawing(a="", b="a", c="a", d="a", e="b") == ["* e", "| * d", "| | * c", "* | | b", "|_|/", "|/", "* a"]


def test_a_beginning_in_the_middle_lets_the_others_move_up() -> None:
    assert drawing(x="", a="", b="x", c="a") == ["* c", "| * b", "* | a", " /", "* x"]


def test_a_parent_that_is_not_shown_is_a_line_that_goes_on() -> None:
    assert drawing(b="a", c="b") == ["* c", "* b"]


@given(st.data())
def test_every_node_is_drawn_once_and_before_its_parents(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    parents: dict[str, tuple[str, ...]] = {}
    for number in range(count):
        above = [str(one) for one in range(number)]
        parents[str(number)] = (
            tuple(data.draw(st.lists(st.sampled_from(above), max_size=2, unique=True))) if above else ()
        )
    recency = data.draw(st.permutations(range(count)))
    order = in_order(parents, {node: recency[int(node)] for node in parents})
    rows = list(draw(order, parents))
    assert [row.node for row in rows if row.node] == order
    assert sorted(order) == sorted(parents)
    for node, above in parents.items():
        assert all(order.index(node) < order.index(parent) for parent in above)
    assert all(set(row.lines) <= set("*|/\\_ ") for row in rows)
    assert all(row.lines.count("*") == (row.node is not None) for row in rows)
