import copy
from dataclasses import replace

import pytest

from data.problem import DataError, SourceProblem
from data.prompts import (
    CUT_MARK,
    PromptTemplate,
    count_prompt_tokens,
    cut_middle,
    find_cut,
    measured,
    opens_thinking,
    render_messages,
    render_prompt_ids,
)
from tests.data.tokenizers import byte_tokenizer, word_tokenizer

PROBLEM = SourceProblem(
    problem_id="p", task="t", context="ab" * 50, question="Which?", answers=("x",), answer_type="text"
)
BARE = PromptTemplate("{context}|{question}")


def test_the_default_prompt_is_that_of_the_paper():
    (message,) = render_messages(replace(PROBLEM, context="DOC"))
    assert message == {
        "role": "user",
        "content": (
            "Please read the following text and answer the question below.\n\n<text>\nDOC\n</text>\n\nWhich?\n\n"
            'Format your response as follows: "Therefore, the answer is (insert answer here)".'
        ),
    }


def test_braces_and_placeholders_in_a_document_stay_as_they_are():
    problem = replace(PROBLEM, context="{question} {context} {0} {{ \\1", question="{context}?")
    assert BARE.render(problem) == "{question} {context} {0} {{ \\1|{context}?"
    assert PromptTemplate('{"q": "{question}"} {context} {x}').render(replace(PROBLEM, context="c")) == (
        '{"q": "Which?"} c {x}'
    )


@pytest.mark.parametrize(
    "text", ["no placeholder", "{context}", "{context}{context}{question}", "{Context} {question}"]
)
def test_a_template_without_both_placeholders_once_is_refused(text):
    with pytest.raises(DataError, match="once each"):
        PromptTemplate(text)


def test_prompt_ids_are_those_of_the_chat_template_with_its_generation_prompt():
    tokenizer = byte_tokenizer()
    ids = render_prompt_ids(tokenizer, PROBLEM, BARE)
    assert tokenizer.decode(ids) == f"<|user|>{'ab' * 50}|Which?<|end|><|assistant|>"
    assert len(ids) == 1 + 100 + 1 + 6 + 1 + 1
    assert ids == tokenizer.apply_chat_template(
        render_messages(PROBLEM, BARE), tokenize=True, add_generation_prompt=True, return_dict=False
    )


def test_counting_a_batch_agrees_with_the_ids_of_each():
    tokenizer = word_tokenizer()
    problems = [replace(PROBLEM, context="one two, " * n) for n in (1, 7, 30)]
    assert count_prompt_tokens(tokenizer, problems) == [len(render_prompt_ids(tokenizer, p)) for p in problems]
    assert count_prompt_tokens(tokenizer, []) == []


def test_a_tokenizer_without_a_chat_template_is_refused():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")))
    with pytest.raises(DataError, match="has no chat template"):
        render_prompt_ids(bare, PROBLEM)


def test_the_cut_takes_the_middle_and_keeps_both_ends_and_the_question():
    # One token a byte: 3 markers, "|" and "Which?" are 10; of 40 remain 30, less the mark's 7: 12 before, 11 after.
    document = "".join(chr(97 + i % 26) for i in range(100))
    problem = replace(PROBLEM, context=document)
    assert len(CUT_MARK) == 7
    cut = cut_middle(byte_tokenizer(), problem, BARE, 40)
    assert cut.context == document[:12] + CUT_MARK + document[-11:]
    assert cut.question == "Which?"
    assert cut.num_prompt_tokens == 40


def test_a_prompt_that_fits_is_not_cut():
    assert cut_middle(byte_tokenizer(), PROBLEM, BARE, 110).context == PROBLEM.context
    assert cut_middle(byte_tokenizer(), PROBLEM, BARE, 109).context != PROBLEM.context


def test_the_cut_never_splits_a_character_and_never_exceeds_the_limit():
    problem = replace(PROBLEM, context="Ω≈ç√ 長い文書 " * 40)
    for limit in range(40, 80):
        cut = cut_middle(byte_tokenizer(), problem, BARE, limit)
        assert limit - 8 <= cut.num_prompt_tokens <= limit
        head, tail = cut.context.split(CUT_MARK)
        assert problem.context.startswith(head) and problem.context.endswith(tail)


def test_counts_are_the_lengths_of_the_prompts_ids_for_every_script():
    texts = ["Ω≈ç√ 長い文書 🙂", "e\u0301 \u200d\r\n\t x", "<|user|> in a <|end|> document", "a" * 3000, "{% raw %}"]
    problems = [replace(PROBLEM, context=text) for text in texts]
    for tokenizer in (byte_tokenizer(), word_tokenizer()):
        assert count_prompt_tokens(tokenizer, problems) == [len(render_prompt_ids(tokenizer, p)) for p in problems]


def test_counts_do_not_depend_on_truncation_left_on_in_the_tokenizer():
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=500)
    assert count_prompt_tokens(tokenizer, [PROBLEM], BARE) == [110]
    tokenizer.backend_tokenizer.enable_truncation(8)
    assert cut_middle(tokenizer, PROBLEM, BARE, 60).num_prompt_tokens == 60


def test_a_tokenizer_whose_call_does_more_than_its_backend_is_counted_by_its_call():
    class Doubling(type(byte_tokenizer())):
        def _encode_plus(self, text, *args, **kwargs):
            doubled = [t * 2 for t in text] if isinstance(text, list) else text * 2
            return super()._encode_plus(doubled, *args, **kwargs)

    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.__class__ = Doubling
    assert count_prompt_tokens(tokenizer, [PROBLEM], BARE) == [220]
    assert len(render_prompt_ids(tokenizer, PROBLEM, BARE)) == 220


def test_a_document_of_a_million_tokens_is_cut_in_few_tokenizations(monkeypatch):
    document = " ".join(f"w{i}" for i in range(1_000_000))
    problem = measured(replace(PROBLEM, context=document, question="Which one?"), 1_000_007)
    assert count_prompt_tokens(word_tokenizer(), [problem], BARE) == [1_000_007]
    asked = []

    def counted(tokenizer, problems, template):
        asked.extend(len(p.context) for p in problems)
        return count_prompt_tokens(tokenizer, problems, template)

    monkeypatch.setattr("data.prompts.count_prompt_tokens", counted)
    cut = find_cut(word_tokenizer(), problem, BARE, 60_000).applied(problem)
    assert cut.num_prompt_tokens == 60_000
    assert len(asked) == 1 and asked[0] < 500_000
    # 7 tokens of template and question, 1 of the mark "[...]": 59,992 of the document stay.
    head, tail = cut.context.split(CUT_MARK)
    assert head.split() == [f"w{i}" for i in range(29_996)]
    assert tail.split() == [f"w{i}" for i in range(1_000_000 - 29_996, 1_000_000)]
    assert cut.question == "Which one?"
    assert BARE.render(cut) == f"{head}{CUT_MARK}{tail}|Which one?"


def test_a_cut_that_never_fits_ends_after_a_few_tries(monkeypatch):
    asked = []

    def never(tokenizer, problems, template):
        asked.append(1)
        return [10_001]

    monkeypatch.setattr("data.prompts.count_prompt_tokens", never)
    problem = measured(replace(PROBLEM, context="c" * 20_000), 20_010)
    with pytest.raises(DataError, match="leave no room for the document"):
        find_cut(byte_tokenizer(), problem, BARE, 10_000)
    assert len(asked) == 8


def test_a_limit_below_the_question_is_refused():
    with pytest.raises(DataError, match="problem 'p': 10 tokens of question and template"):
        cut_middle(byte_tokenizer(), PROBLEM, BARE, 12)


def test_a_prompt_that_ends_in_an_opened_think_tag_is_noticed() -> None:
    tokenizer = copy.deepcopy(byte_tokenizer())
    assert not opens_thinking(tokenizer, PROBLEM)
    tokenizer.chat_template = f"{tokenizer.chat_template}<think>\n"
    assert opens_thinking(tokenizer, PROBLEM)
