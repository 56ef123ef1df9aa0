import pytest

from compat.smuggling import CASES, HOSTILE_ANSWERS, Answer, Case, Outcome
from testbed.heads import AnswerCutter, RequestCutter, cut_requests


def test_the_corpus_is_not_empty_and_names_each_case_once() -> None:
    names = [case.name for case in CASES]
    assert len(names) > 100
    assert len(set(names)) == len(names)
    assert len({answer.name for answer in HOSTILE_ANSWERS}) == len(HOSTILE_ANSWERS) > 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_smuggler_gets_no_request_past_the_rules(case: Case) -> None:
    _expect(case, cut_requests(case.raw))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_smuggler_gains_nothing_by_sending_byte_after_byte(case: Case) -> None:
    cutter = RequestCutter()
    for at in range(len(case.raw)):
        cutter.feed(case.raw[at : at + 1])
    _expect(case, cutter)


def _expect(case: Case, cutter: RequestCutter) -> None:
    whole = [request for request in cutter.requests if request.whole]
    if case.outcome in (Outcome.REFUSED, Outcome.CUT):
        assert cutter.refused is not None
        assert not whole
        assert len(cutter.requests) <= (case.outcome is Outcome.CUT)
        return
    assert tuple(request.facts.target for request in cutter.requests) == case.targets
    assert tuple(request.body for request in whole) == case.bodies
    assert (cutter.refused is not None) == (case.outcome is Outcome.ONE_THEN_REFUSED)


@pytest.mark.parametrize("answer", HOSTILE_ANSWERS, ids=lambda answer: answer.name)
def test_a_hostile_upstreams_answer_is_refused(answer: Answer) -> None:
    cutter = AnswerCutter()
    cutter.feed(answer.raw)
    assert cutter.refused is not None
    assert b"smuggled" not in cutter.out
