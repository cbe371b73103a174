import itertools

from hypothesis import given
from hypothesis import strategies as st

from kd.seeds import derive_seed
from tests.support.processes import python

PARTS = st.lists(st.integers(0, 10**6) | st.text(max_size=5), max_size=3)


def test_seeds_are_those_of_every_earlier_version() -> None:
    """What a study was made with must be made again: these numbers never change."""
    assert derive_seed(0, "initialisation") == 6408838898611641115
    assert derive_seed(7, "order", 3, "plain") == 7425578044895742218


@given(study_seed=st.integers(0, 2**63 - 1), purpose=st.text(), parts=PARTS)
def test_a_seed_fits_63_bits_and_is_the_same_again(
    study_seed: int, purpose: str, parts: list[int | str]
) -> None:
    found = derive_seed(study_seed, purpose, *parts)
    assert 0 <= found < 2**63
    assert derive_seed(study_seed, purpose, *parts) == found


def test_every_argument_changes_the_seed() -> None:
    arguments: list[tuple[int, str, tuple[int | str, ...]]] = [
        (study_seed, purpose, parts)
        for study_seed, purpose in itertools.product(range(3), ("order", "views"))
        for parts in ((), (0,), (1,), (10,), (1, 0), (0, 1), ("1",), ("1", "0"), ("plain", 0))
    ]
    seeds = {derive_seed(seed, purpose, *parts) for seed, purpose, parts in arguments}
    assert len(seeds) == len(arguments)


def test_neighbouring_seeds_share_no_pattern() -> None:
    """About half of the 63 bits differ between one number and the next."""
    seeds = [derive_seed(0, "order", number) for number in range(200)]
    flips = [(a ^ b).bit_count() for a, b in itertools.pairwise(seeds)]
    assert 29 < sum(flips) / len(flips) < 34


def test_seeds_do_not_depend_on_the_process() -> None:
    code = "from kd.seeds import derive_seed; print(derive_seed(5, 'views', 'a', 1))"
    for hash_seed in ("0", "1"):
        assert python(code, hash_seed=hash_seed) == f"{derive_seed(5, 'views', 'a', 1)}\n"
