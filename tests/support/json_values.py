"""JSON of any shape, as hypothesis draws it."""

from typing import Any

from hypothesis import strategies as st


def any_json(*known: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for any JSON, in which the scalars `known` are more likely than others."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    return st.recursive(
        scalars | st.sampled_from(known),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=8,
    )
