"""The journal of a review and the state that it makes, whatever was decided and wherever the program was killed."""

from __future__ import annotations

import logging
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longilesion.errors import InputError
from longilesion.review.decisions import (
    Confirm,
    Decision,
    Draw,
    Entry,
    Gone,
    Merge,
    Move,
    New,
    NotALesion,
    Redo,
    Undo,
)
from longilesion.review.journal import FILE_NAME, Journal
from longilesion.review.runs import indices_of, runs_of
from longilesion.review.state import ReviewState, decided, replay
from test.unit.reviews import journal_in

FIRST = ReviewState.begin([1, 2, 3], [7])
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)

lesion_ids = st.integers(1, 9)
runs = st.sets(st.integers(0, 40), max_size=8).map(lambda voxels: tuple((voxel, 1) for voxel in sorted(voxels)))
points = st.tuples(*(st.floats(-500, 500),) * 3)
actions = st.one_of(
    st.builds(Confirm, lesion=lesion_ids),
    st.builds(Move, lesion=lesion_ids, scan=st.sampled_from(["primary", "secondary"]), point_xyz_mm=points),
    st.builds(Gone, lesion=lesion_ids),
    st.builds(New, scan=st.just("primary"), point_xyz_mm=points),
    st.builds(NotALesion, lesion=lesion_ids),
    st.builds(Merge, lesion=lesion_ids, into=lesion_ids),
    st.builds(Draw, lesion=lesion_ids, added=runs, removed=runs),
    st.just(Undo()),
    st.just(Undo()),
    st.just(Redo()),
)


@contextmanager
def folder() -> Iterator[Path]:
    # Not tmp_path, which all examples of a property would share.
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def written(journal: Journal, given_actions: list[Decision | Undo | Redo]) -> tuple[ReviewState, list[ReviewState]]:
    """The state after the actions that are possible, and all states on the way, the first one before any."""
    state = FIRST
    states = [state]
    for action in given_actions:
        entry = Entry(number=len(journal.entries) + 1, at=NOW, reader="R", action=action)
        try:
            state.after(entry)
        except InputError:
            continue
        state = state.after(journal.append(action, at=NOW, reader="R"))
        states.append(state)
    return state, states


@settings(max_examples=40)
@given(st.lists(actions, max_size=15))
def test_journal_read_again_gives_the_state_that_was_reached(given_actions: list[Decision | Undo | Redo]) -> None:
    with folder() as place:
        journal = journal_in(place)
        state, _ = written(journal, given_actions)
        journal.close()
        again = journal_in(place)
        assert again.entries == journal.entries
        assert replay(FIRST, again.entries) == state
        again.close()


@settings(max_examples=40)
@given(st.lists(actions, max_size=10), st.data())
def test_program_killed_at_any_byte_loses_no_decision_that_was_acknowledged(
    given_actions: list[Decision | Undo | Redo], data: st.DataObject
) -> None:
    with folder() as place:
        journal = journal_in(place)
        _, states = written(journal, given_actions)
        journal.close()
        content = journal.path.read_bytes()
        end = data.draw(st.integers(0, len(content)))
        journal.path.write_bytes(content[:end])
        # The lines that were complete, without the first.
        kept = max(content[:end].count(b"\n") - 1, 0)
        recovered = journal_in(place)
        assert replay(FIRST, recovered.entries) == states[kept]
        # It goes on, and nothing of the torn line is left.
        recovered.append(Confirm(lesion=1), at=NOW, reader="R")
        recovered.close()
        again = journal_in(place)
        assert len(again.entries) == kept + 1
        assert replay(FIRST, again.entries).lesions[1].verdict == "confirmed"
        again.close()


@settings(max_examples=40)
@given(st.lists(actions, max_size=15))
def test_undo_and_redo_go_back_and_forth_along_what_stands(given_actions: list[Decision | Undo | Redo]) -> None:
    with folder() as place:
        journal = journal_in(place)
        state, _ = written(journal, given_actions)
        # Independently: a stack of decisions, and one of those undone.
        stack: list[Entry] = []
        undone: list[Entry] = []
        for entry in journal.entries:
            if isinstance(entry.action, Undo):
                undone.append(stack.pop())
            elif isinstance(entry.action, Redo):
                stack.append(undone.pop())
            else:
                stack.append(entry)
                undone = []
        lesions = dict(FIRST.lesions)
        for entry in stack:
            assert not isinstance(entry.action, Undo | Redo)
            lesions = decided(lesions, entry.action, entry)
        assert state.lesions == lesions
        forth = state
        for _ in stack:
            forth = forth.after(Entry(number=99, at=NOW, reader="R", action=Undo()))
        assert forth.lesions == FIRST.lesions
        for _ in stack:
            forth = forth.after(Entry(number=99, at=NOW, reader="R", action=Redo()))
        assert forth.lesions == state.lesions
        journal.close()


def after(*given_actions: Decision | Undo | Redo) -> ReviewState:
    entries = [
        Entry(number=number, at=NOW, reader="R", action=action) for number, action in enumerate(given_actions, start=1)
    ]
    return replay(FIRST, entries)


def test_new_lesions_get_the_ids_after_the_highest_one_and_keep_them_when_redone() -> None:
    new = New(scan="primary", point_xyz_mm=(1.0, 2.0, 3.0))
    state = after(new, new, Undo(), Redo())
    assert [lesion_id for lesion_id, lesion in state.lesions.items() if lesion.is_new] == [8, 9]
    assert after(new, Undo(), new).lesions.keys() == {1, 2, 3, 7, 8}


def test_what_was_drawn_last_counts_and_a_move_drops_it() -> None:
    first, second = Draw(lesion=1, added=((3, 4),)), Draw(lesion=1, removed=((5, 1), (9, 1)))
    lesion = after(first, second).lesions[1]
    assert (lesion.added, lesion.removed) == (frozenset({3, 4, 6}), frozenset({5, 9}))
    moved = after(first, second, Move(lesion=1, scan="primary", point_xyz_mm=(0.0, 0.0, 0.0))).lesions[1]
    assert (moved.added, moved.removed, moved.verdict) == (frozenset(), frozenset(), "moved")


@pytest.mark.parametrize(
    ("given_actions", "finding"),
    [
        ([Confirm(lesion=5)], "lesion 5: unknown"),
        ([Undo()], "nothing to undo"),
        ([Confirm(lesion=1), Redo()], "nothing to redo"),
        ([Merge(lesion=1, into=1)], "expected another of the lesions"),
        ([Merge(lesion=1, into=7)], "no outline of its own"),
        ([Gone(lesion=2), Merge(lesion=1, into=2)], "no outline of its own"),
        ([Merge(lesion=1, into=2), Merge(lesion=2, into=1)], "no outline of its own"),
        ([Merge(lesion=1, into=2), Gone(lesion=2)], "lesion 1 is merged with it"),
        ([Move(lesion=7, scan="primary", point_xyz_mm=(0.0, 0.0, 0.0))], "a candidate, which has no click"),
        ([Draw(lesion=1, added=((3, 2),), removed=((4, 1),))], "both added and removed"),
    ],
)
def test_impossible_decisions_are_refused(given_actions: list[Decision | Undo | Redo], finding: str) -> None:
    *before, last = given_actions
    state = after(*before)
    with pytest.raises(InputError, match=finding):
        state.after(Entry(number=9, at=NOW, reader="R", action=last))


@given(st.sets(st.integers(0, 500)))
def test_runs_are_the_same_voxels(voxels: set[int]) -> None:
    made = runs_of(list(voxels))
    assert indices_of(made).tolist() == sorted(voxels)
    assert all(first + count < following for (first, count), (following, _) in pairwise(made))


def test_torn_line_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = journal_in(tmp_path)
    journal.append(Confirm(lesion=1), at=NOW, reader="")
    journal.close()
    with journal.path.open("ab") as file:
        file.write(b'{"number":2,"at"')
    with caplog.at_level(logging.WARNING):
        journal_in(tmp_path).close()
    assert "the last line, of 16 bytes, was torn" in caplog.text


def test_journal_of_other_inputs_is_refused_unless_nothing_was_decided(tmp_path: Path) -> None:
    journal_in(tmp_path, fingerprint="a mistake").close()
    journal = journal_in(tmp_path)
    journal.append(Confirm(lesion=1), at=NOW, reader="")
    journal.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(InputError, match="of a review of other scans, masks or clicks"):
        journal_in(tmp_path, fingerprint="another")
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_damage_before_the_last_line_is_refused(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    for _ in range(3):
        journal.append(Confirm(lesion=1), at=NOW, reader="")
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    for damaged in ([*lines[:2], b"{}\n", lines[3]], [lines[0], *lines[2:]], [b"[]\n", *lines[1:]]):
        journal.path.write_bytes(b"".join(damaged))
        with pytest.raises(InputError, match=r"damaged|missing or out of order"):
            journal_in(tmp_path)
        assert journal.path.read_bytes() == b"".join(damaged)


def test_second_program_is_refused_while_one_writes(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    with pytest.raises(InputError, match="open in another review"):
        journal_in(tmp_path)
    # Looking is allowed.
    assert journal_in(tmp_path, is_read_only=True).entries == []
    journal.close()
    journal_in(tmp_path).close()


def test_journal_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(InputError, match="expected a journal that can be written to"):
        journal_in(tmp_path)


def test_read_only_journal_writes_nothing(tmp_path: Path) -> None:
    journal = journal_in(tmp_path / "none", is_read_only=True)
    with pytest.raises(InputError, match="not open for writing"):
        journal.append(Confirm(lesion=1), at=NOW, reader="")
    assert not (tmp_path / "none").exists()


def test_decision_that_the_disk_has_no_room_for_is_not_kept_and_damages_nothing(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.append(Confirm(lesion=1), at=NOW, reader="")
    size = journal.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        with pytest.raises(InputError, match=r"cannot be written .* not kept"):
            journal.append(Confirm(lesion=2), at=NOW, reader="")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.path.stat().st_size == size
    journal.append(Confirm(lesion=3), at=NOW, reader="")
    journal.close()
    assert [entry.action for entry in journal_in(tmp_path).entries] == [Confirm(lesion=1), Confirm(lesion=3)]
