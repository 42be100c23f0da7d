"""Which texts are scored together: every text in exactly one place, beginnings that really are the same, limits kept."""

from hypothesis import given
from hypothesis import strategies as st

from engine.backends.prefixes import Limits, groups, plan

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), max_size=12)
ROOMY = Limits(10_000, 10_000, 10_000)


@given(sequences)
def test_groups_are_a_partition_of_texts_that_begin_alike(texts):
    found = groups(texts)
    assert sorted(member for group in found for member in group.members) == list(range(len(texts)))
    for group in found:
        assert len({texts[member][: group.shared] for member in group.members}) == 1
        assert all(len(texts[member]) >= group.shared for member in group.members)


@given(sequences)
def test_what_begins_alike_is_never_left_apart(texts):
    alone = [texts[group.members[0]] for group in groups(texts) if not group.shared]
    assert len({text[0] for text in alone}) == len(alone)


@given(sequences)
def test_no_group_would_read_less_as_single_texts(texts):
    for group in groups(texts):
        assert len(group.members) == 1 or group.shared > 0


def test_shots_are_shared_by_subject_and_not_by_the_words_that_all_begin_with():
    header = (7, 7)
    subjects = [[(*header, *[subject] * 50, *tail) for tail in ((1,), (2, 3), (3,))] for subject in (10, 11)]
    found = groups([text for subject in subjects for text in subject])
    assert sorted((group.members, group.shared) for group in found) == [((0, 1, 2), 52), ((3, 4, 5), 52)]


@given(sequences, st.integers(1, 30), st.integers(1, 40), st.integers(1, 6))
def test_a_plan_reads_every_text_once_within_its_limits(texts, tokens, cached, wanted):
    limits = Limits(tokens, cached, wanted)
    packs = plan(texts, [1] * len(texts), limits)
    assert sorted(member for pack in packs for member in pack.members) == list(range(len(texts)))
    for pack in packs:
        shared = max(group.shared for group in pack.groups)
        behind = [member for each in pack.passes for _, member in each]
        assert len(set(behind)) == len(behind)
        assert {member for member in pack.members if member not in behind} == {
            member for group in pack.groups for member in group.members if len(texts[member]) == group.shared
        }
        for each in pack.passes:
            longest = max(len(texts[member]) - pack.groups[at].shared for at, member in each)
            assert all(member in pack.groups[at].members for at, member in each)
            assert len(each) == 1 or (len(each) * longest <= tokens and len(each) * (shared + longest) <= cached and len(each) <= wanted)
        assert len(pack.groups) == 1 or len(pack.groups) * shared <= tokens


@given(sequences)
def test_the_same_texts_make_the_same_plan(texts):
    assert plan(texts, [1] * len(texts), Limits(12, 30, 5)) == plan(list(texts), [1] * len(texts), Limits(12, 30, 5))


def test_texts_with_and_without_a_shared_beginning_are_apart():
    packs = plan([(1, 2, 3, 4), (1, 2, 3, 5), (9, 9)], [1, 1, 1], ROOMY)
    assert [[group.shared for group in pack.groups] for pack in packs] == [[0], [3]]
