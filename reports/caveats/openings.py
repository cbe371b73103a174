"""Limitations of a test split that was looked at more than once, by other studies or by this one.

A study whose two arms are equally good claims a difference with some probability; of several such
studies on one test split, one that claims it can always be shown.
"""

from collections.abc import Iterator, Sequence

from reports.read.data import StudyData
from reports.wording import counted, listed, percent
from storage.files.layout import whole_path
from storage.files.seal import Opener, OtherStudies

# Of studies that search the same space in both arms, once each, those that claim a difference: the
# audit of A/A studies on the digits, at 6 seeds, that docs/method.md describes ("Looking again").
CLAIMS_OF_ONE = 0.08
MOST_NAMED = 5  # studies in a sentence


def repeated_claims(studies: int) -> float:
    """Return the probability, 0-1, that any of `studies` claims a difference where there is none.

    1 - (1 - p)^k for k independent studies of one search per arm: an approximation, since they
    share test images.
    """
    return 1.0 - (1.0 - CLAIMS_OF_ONE) ** studies


def of_others(data: StudyData) -> Iterator[str]:
    """Name the other studies that opened this test split, or another one of the same data."""
    others = data.others
    texts = []
    if others.same:
        many = counted(len(others.same), "other study", "other studies")
        texts.append(f"This test split was opened by {many} too: {_names(data, others.same)}.")
    if others.overlapping:
        many = counted(len(others.overlapping), "other study", "other studies")
        texts.append(
            f"Another test split of the same data was opened by {many}: "
            f"{_names(data, others.overlapping)}. Some of its {data.example}s may be the same."
        )
    if texts:
        yield f"{' '.join(texts)} {_rate(1 + len(others.all))}"


def of_choices(data: StudyData) -> Iterator[str]:
    """Find finalists that were chosen anew once the test split had been opened."""
    late = [choice for choice in data.choices if choice.opened]
    if not late or len(data.choices) < 2:
        return
    first, last = data.choices[0], data.choices[-1]
    grown = [
        f"{arm} from {first.trials[arm]} to {counted(count, 'trial')}"
        if arm in first.trials
        else f"{arm} was added"
        for arm, count in last.trials.items()
        if count != first.trials.get(arm)
    ]
    what = f": {listed(grown)}" if grown else ""
    text = f"The finalists were chosen anew after the test split had been opened{what}."
    looks = len({tuple(sorted(choice.tuned.items())) for choice in (first, *late)})
    if looks == 1:
        yield f"{text} The tuned recipes are those of the first choice."
        return
    other = [arm for arm, name in last.tuned.items() if first.tuned.get(arm) not in (None, name)]
    changed = f" Of {listed(other)} it is another recipe now." if other else ""
    yield f"{text}{changed} This is a further look at the same {data.example}s. {_rate(looks)}"


def of_several(studies: Sequence[StudyData]) -> Iterator[str]:
    """Find studies that are shown side by side and opened one test split, or those of one data set.

    All studies that opened it count, also those that are not shown.
    """
    for group in _groups(studies):
        shown = {one.others.study: one.name for one in group if one.others.study}
        others = {one.study: one for data in group for one in data.others.all}
        hidden = [one for study, one in others.items() if study not in shown]
        if len(shown) + len(hidden) < 2:
            continue
        names = _named([*shown.values(), *(_name(group[0], one) for one in hidden)])
        same = all(_same(group[0].others, study) for study in {*shown, *others})
        what = "One test split was" if same else "Test splits of the same data were"
        yield f"{what} opened by {names}. {_rate(len(shown) + len(hidden))}"


def _same(others: OtherStudies, study: str) -> bool:
    return study in (others.study, *(one.study for one in others.same))


def _groups(studies: Sequence[StudyData]) -> list[list[StudyData]]:
    """Return the studies by the data of their test splits, in their order."""
    groups: list[tuple[set[str], list[StudyData]]] = []
    for data in studies:
        known = {data.others.study, *(one.study for one in data.others.all)} - {""}
        joined = [group for group in groups if group[0] & known]
        groups = [group for group in groups if group not in joined]
        members = [one for group in joined for one in group[1]]
        groups.append((known.union(*(group[0] for group in joined)), [*members, data]))
    return [members for _, members in groups]


def _rate(studies: int) -> str:
    """Return the sentence on what so many studies, or looks, claim where there is no difference."""
    return (
        f"Where distillation changes nothing, one or more of {studies} independent studies with a "
        f"single search per arm claims a difference in about "
        f"{percent(repeated_claims(studies), 0)} of all cases."
    )


def _names(data: StudyData, openers: Sequence[Opener]) -> str:
    return _named([_name(data, one) for one in openers])


def _named(names: Sequence[str]) -> str:
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return listed([*names[:MOST_NAMED], *more])


def _name(data: StudyData, other: Opener) -> str:
    """Return another study's name, with its root, or the day of its opening, to tell it apart."""
    if other.root != str(whole_path(data.root)):
        return f"{other.name} in {other.root}"
    return f"an earlier {other.name}" if other.name == data.name else other.name
