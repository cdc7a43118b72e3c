"""What two sets are found to share: questions, documents, and what is too common to count."""

import gzip

import numpy as np
import pytest

from data.contamination import EvaluationIndex, find_overlaps, ngram_hashes, words_of
from data.prepare import prepare
from data.problem import DataError, SourceProblem
from data.readers import read_problems
from tests.data.docqa import docqa
from tests.data.test_readers_jsonl import OURS, write
from tests.data.tokenizers import byte_tokenizer


def problem(problem_id="t1", *, question="Which one is it?", context="A document of its own."):
    return SourceProblem(
        problem_id=problem_id, task="t", context=context, question=question, answers=("x",), answer_type="text"
    )


def numbered(start, stop):
    """Words that stand in order nowhere else: `w5 w6 w7`."""
    return " ".join(f"w{n}" for n in range(start, stop))


def index(tmp_path, *rows, **options):
    named = [{**OURS, "problem_id": f"e{n}", **row} for n, row in enumerate(rows, start=1)]
    return EvaluationIndex([str(write(tmp_path / "eval.jsonl", *named))], **options)


def found(overlaps):
    return [(overlap.part, overlap.eval_id, overlap.share) for overlap in overlaps]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  -- !", []),
        ("The C.E.O.'s 12.5%", ["the", "c", "e", "o", "s", "12", "5"]),
        ("a “curly” — Straße\n\tÉté", ["a", "curly", "strasse", "été"]),
        ("snake_case", ["snake", "case"]),
        ("東京 is", ["東", "京", "is"]),
        ("हिन्दी", ["हिन्दी"]),
    ],
)
def test_words_are_case_folded_and_without_punctuation(text, words):
    assert [word.decode() for word in words_of(text)] == words


def test_equal_runs_of_words_hash_alike_wherever_they_stand_and_a_short_text_is_one_ngram():
    first, second = words_of("a b c d e f"), words_of("x c d e y")
    hashes = ngram_hashes(first, 3)
    assert len(set(hashes.tolist())) == len(hashes) == 4
    assert np.intersect1d(hashes, ngram_hashes(second, 3)).tolist() == [hashes[2]]
    assert ngram_hashes(words_of("a b"), 3).shape == (1,)
    assert (
        ngram_hashes(words_of("a b"), 3)[0] == ngram_hashes(words_of("A, b!"), 3)[0] != ngram_hashes([b"b", b"a"], 3)[0]
    )
    assert ngram_hashes([], 3).shape == (0,)


def test_a_short_question_is_found_only_where_it_is_the_whole_question(tmp_path):
    evaluated = index(tmp_path, {"question": "Who wrote  the letter?"}, {"question": "When?"})
    assert found(evaluated.overlaps(problem(question="who wrote the LETTER"))) == [("question", "e1", 1.0)]
    assert evaluated.overlaps(problem(question="Who wrote the letter to Ada?")) == ()


def test_one_shared_ngram_is_enough_for_a_long_question(tmp_path):
    evaluated = index(tmp_path, {"question": numbered(0, 20)})
    (overlap,) = evaluated.overlaps(problem(question=numbered(7, 27)))  # w7 .. w19 are 13 words, one of 8 n-grams
    assert (overlap.part, overlap.eval_id, overlap.share) == ("question", "e1", 1 / 8)
    assert str(overlap) == f"question shared with 'e1' of {tmp_path / 'eval.jsonl'} (share 0.12)"
    assert evaluated.overlaps(problem(question=numbered(8, 28))) == ()


@pytest.mark.parametrize(("num_questions", "is_found"), [(10, True), (11, False)])
def test_what_more_than_ten_evaluation_questions_hold_is_a_form_and_no_question(tmp_path, num_questions, is_found):
    form = numbered(0, 13)
    evaluated = index(tmp_path, *({"question": f"{form} q{n} end"} for n in range(num_questions)))
    assert bool(evaluated.overlaps(problem(question=f"{form} another"))) is is_found
    assert evaluated.overlaps(problem(question=f"{form} q3"))[0].eval_id == "e4"  # its own words still count


@pytest.mark.parametrize(("num_shared", "is_found"), [(62, True), (61, False)])
def test_documents_count_from_half_of_the_ngrams(tmp_path, num_shared, is_found):
    evaluated = index(tmp_path, {"context": numbered(0, 112)})  # 100 n-grams
    overlaps = evaluated.overlaps(problem(context=f"{numbered(0, num_shared)} {numbered(1000, 1112 - num_shared)}"))
    assert found(overlaps) == ([("document", "e1", 0.5)] if is_found else [])


def test_an_evaluation_document_inside_a_longer_training_document_is_found_whole(tmp_path):
    evaluated = index(tmp_path, {"context": numbered(0, 50)}, {"context": numbered(5000, 9000)})
    padded = f"{numbered(200, 900)}\n\n{numbered(0, 50).upper()}\n{numbered(1000, 2000)}"
    assert found(evaluated.overlaps(problem(context=padded))) == [("document", "e1", 1.0)]
    assert found(evaluated.overlaps(problem(context=numbered(6000, 6100)))) == [("document", "e2", 1.0)]


def test_repeating_a_passage_neither_raises_nor_lowers_the_share(tmp_path):
    evaluated = index(tmp_path, {"context": numbered(0, 100)})
    repeated = (numbered(0, 30) + " ") * 20 + numbered(1000, 1100)  # 18 of 88 n-grams, twenty times
    assert evaluated.overlaps(problem(context=repeated)) == ()
    twice = f"{numbered(0, 30)} {numbered(0, 30)}"  # the 18, and 12 across the seam
    assert found(evaluated.overlaps(problem(context=twice))) == [("document", "e1", 18 / 30)]


def test_the_document_that_shares_most_is_named_by_its_first_problem(tmp_path):
    same = {"context": numbered(0, 100)}
    evaluated = index(tmp_path, {"context": numbered(0, 60) + " " + numbered(300, 320)}, same, same)
    assert found(evaluated.overlaps(problem(context=numbered(0, 100)))) == [("document", "e2", 1.0)]


def test_ngram_length_and_share_are_the_callers(tmp_path):
    shared = {"question": "who was the first king of the north"}
    evaluated = index(tmp_path, shared, ngram_words=5)
    assert evaluated.overlaps(problem(question="And who was the first queen?")) == ()
    assert evaluated.overlaps(problem(question="Tell who was the first king."))[0].share == 0.5  # 1 of 2 n-grams
    documents = index(tmp_path, {"context": numbered(0, 112)}, min_share=0.1)
    assert found(documents.overlaps(problem(context=numbered(90, 202)))) == [("document", "e1", 0.1)]  # 10 of 100


def test_any_source_and_a_prepared_set_can_be_compared_with(tmp_path):
    evaluated = problem("e1", question="Who wrote the letter?", context=numbered(0, 40))
    prepare([evaluated], byte_tokenizer(), tmp_path / "set")
    row = {**OURS, "question": "Who wrote the letter?", "context": numbered(0, 40)}
    packed = tmp_path / "eval.jsonl.gz"
    packed.write_bytes(gzip.compress(write(tmp_path / "eval.jsonl", row).read_bytes()))
    asked = [problem("t1", question="Who wrote the letter?"), problem("t2", context=numbered(0, 40)), problem("t3")]
    for source in (tmp_path / "set", packed):
        overlaps = list(find_overlaps(asked, EvaluationIndex([str(source)])))
        assert [(o.problem_id, o.part, o.eval_source) for o in overlaps] == [
            ("t1", "question", str(source)),
            ("t2", "document", str(source)),
        ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ngram_words": 1}, "contamination n-gram: seen 1 words; it must be at least 2"),
        ({"min_share": 0.0}, "contamination share: seen 0.0; it must be above 0"),
        ({"min_share": 1.5}, "contamination share: seen 1.5; it must be above 0 and at most 1"),
    ],
)
def test_bounds_are_refused(tmp_path, options, told):
    with pytest.raises(DataError, match=told):
        index(tmp_path, {}, **options)


def test_an_evaluation_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        EvaluationIndex([str(tmp_path / "nothing.jsonl")])


def test_docqa_shares_documents_between_train_and_dev_and_a_set_is_all_of_itself():
    train, dev = docqa("docqa_train"), str(docqa("docqa_dev"))
    evaluated = EvaluationIndex([dev])
    itself = list(find_overlaps(read_problems(dev), evaluated))
    assert {(o.problem_id, o.part) for o in itself} >= {(p.problem_id, "document") for p in read_problems(dev)}
    assert {o.share for o in itself} == {1.0}
    overlaps = list(find_overlaps(read_problems(train), evaluated))
    documents = {o.problem_id: (o.eval_id, round(o.share, 2)) for o in overlaps if o.part == "document"}
    assert documents["multihoprag_excerpts-100"] == ("multihoprag_excerpts-66", 0.83)
    assert (len(documents), len(overlaps)) == (7, 12)
