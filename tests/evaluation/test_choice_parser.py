"""Which letter an answer names: the forms of the table in `choice_parser`, read and unparsed."""

from __future__ import annotations

import pytest

from vlm_ablate.evaluation.metrics import metrics
from vlm_ablate.evaluation.metrics.choice_parser import parse_choice

ANIMALS = {"A": "a cat", "B": "a dog", "C": "a bird"}
BOTH = {**ANIMALS, "D": "both A and B"}
LETTERS = {"A": "B", "B": "C", "C": "D", "D": "A"}
UNKNOWN: dict[str, str] = {}

READ = [
    ("B", ANIMALS, "B"),
    ("b", ANIMALS, "B"),
    ("**B**", ANIMALS, "B"),
    ("**B.** a dog", ANIMALS, "B"),
    ("\\boxed{B}", ANIMALS, "B"),
    ("The answer is \\boxed{B}.", ANIMALS, "B"),
    ("B\n\nThe picture shows a dog.", ANIMALS, "B"),
    ("B - a dog", ANIMALS, "B"),
    ("The correct answer is b.", ANIMALS, "B"),
    ("The answer is 'B'.", ANIMALS, "B"),
    ("（B）", ANIMALS, "B"),
    ("答案是B", ANIMALS, "B"),
    ("<answer>B</answer>", ANIMALS, "B"),
    ("Answer: a dog", ANIMALS, "B"),
    ("Answer: A dog", ANIMALS, "B"),
    ("A dog", ANIMALS, "B"),
    ("B", LETTERS, "B"),
    ("C", LETTERS, "C"),
    ("B. C", LETTERS, "B"),
    ("(B)", LETTERS, "B"),
    ("Answer: B", LETTERS, "B"),
    ("(B) because the animal barks", ANIMALS, "B"),
    ("(A) a cat (B) a dog (C) a bird\nAnswer: B", ANIMALS, "B"),
    ("Option A is wrong. The answer is (B).", ANIMALS, "B"),
    ("It is not (A) but (B)", ANIMALS, "B"),
    ("D. both A and B", BOTH, "D"),
    ("Both A and B", BOTH, "D"),
    ("Answer: both A and B", BOTH, "D"),
    ("D", BOTH, "D"),
    ("I would choose B", ANIMALS, "B"),
    ("I choose option (B).", ANIMALS, "B"),
    ("Reasoning (A) is a cat, (C) is a bird.\nB", ANIMALS, "B"),
    ("\\boxed{\\text{B}}", ANIMALS, "B"),
    ("\\boxed{\\text{B: a dog}}", ANIMALS, "B"),
    ("\\boxed{\\langle H\\rangle}\n**Answer: B**", ANIMALS, "B"),
    ("<think>maybe A or C</think>B", ANIMALS, "B"),
    ("$B$", ANIMALS, "B"),
    ("\\(B\\)", ANIMALS, "B"),
    ("`B`", ANIMALS, "B"),
    ("\"B\"", ANIMALS, "B"),
    ("Answer:\nB", ANIMALS, "B"),
    ("Answer:\n(B) a dog", ANIMALS, "B"),
    ("Answer: B. a dog", ANIMALS, "B"),
    ("The answer is B because A is a cat", ANIMALS, "B"),
    ("The answer is B. (A) and (C) show other animals", ANIMALS, "B"),
    ("the answer to the question is B", ANIMALS, "B"),
    ("ANSWER: B", ANIMALS, "B"),
    ("Answer:B", ANIMALS, "B"),
    ("answer is a", ANIMALS, "A"),
    ("The answer is A because it meows", ANIMALS, "A"),
    ("The answer is A.", ANIMALS, "A"),
    ("The answer is A dog", ANIMALS, "B"),
    ("the answer is a dog because it barks", ANIMALS, "B"),
    ("b) a dog", ANIMALS, "B"),
    ("B a dog", ANIMALS, "B"),
    ("The animal (B) barks", ANIMALS, "B"),
    ("Based on the image, the correct option is B) a dog.", ANIMALS, "B"),
    ("B. a dog, not A. a cat", ANIMALS, "B"),
    ("Ｂ", ANIMALS, "B"),
    ("选B", ANIMALS, "B"),
    ("故选：B", ANIMALS, "B"),
    ("正确答案为 (B)", ANIMALS, "B"),
    ("B, because it barks", ANIMALS, "B"),
    ("B because it barks", ANIMALS, "B"),
    ("B: a dog", ANIMALS, "B"),
    ("a dog (B)", ANIMALS, "B"),
    ("The final answer is: $\\boxed{B}$", ANIMALS, "B"),
    ("**Answer:** B", ANIMALS, "B"),
    ("**Answer: B**", ANIMALS, "B"),
    ("### Answer\nB", ANIMALS, "B"),
    ("Option B", ANIMALS, "B"),
    ("Answer: Option B", ANIMALS, "B"),
    ("The correct answer is option **(B)** a dog.", ANIMALS, "B"),
    ("The answer should be B.", ANIMALS, "B"),
    ("A", UNKNOWN, "A"),
    ("I", UNKNOWN, "I"),
    ("A, I think", ANIMALS, "A"),
    ("(A) I believe", ANIMALS, "A"),
    ("The answer is likely B", ANIMALS, "B"),
    ("B is correct.", ANIMALS, "B"),
    ("B is the correct answer", ANIMALS, "B"),
    ("A is wrong, B is correct", ANIMALS, "B"),
    ("Answer: C. elegans", {"A": "E. coli", "B": "C. elegans"}, "B"),
    ("E. coli", {"A": "E. coli", "B": "C. elegans"}, "A"),
    ("Answer: \"B\"", ANIMALS, "B"),
    ("-B", ANIMALS, "B"),
    ("- B", ANIMALS, "B"),
    ("3", {"A": "2", "B": "3"}, "B"),
    ("Answer: 3", {"A": "2", "B": "3"}, "B"),
    ("$3$", {"A": "2", "B": "3"}, "B"),
    ("\\boxed{3}", {"A": "2", "B": "3"}, "B"),
    ("x^2", {"A": "$x^2$", "B": "3"}, "A"),
    ("Maybe B", ANIMALS, "B"),
    ("B? No, C.", ANIMALS, "C"),
    ("It is B.", ANIMALS, "B"),
    ("It's (B)", ANIMALS, "B"),
    ("It does not meow. So it's B.", ANIMALS, "B"),
    ("(A) meows and this barks; therefore, B.", ANIMALS, "B"),
    ("It is A.", UNKNOWN, "A"),
    ("B。", ANIMALS, "B"),
    ("B、", ANIMALS, "B"),
    ("Ans: B", ANIMALS, "B"),
]

UNPARSED = [
    ("B, C", ANIMALS),
    ("A. a cat\nB. a dog\nC. a bird", ANIMALS),
    ("B. a dog or C. a bird", ANIMALS),
    ("B. D", LETTERS),
    ("B and C", ANIMALS),
    ("B or C", UNKNOWN),
    ("B/C", ANIMALS),
    ("(A) or (B)", UNKNOWN),
    ("A or B", UNKNOWN),
    ("B. Or is it (C)?", ANIMALS),
    ("Answer: A\nActually, Answer: B", ANIMALS),
    ("A. a cat B. a dog C. a bird", ANIMALS),
    ("The answer is not B", ANIMALS),
    ("not (B)", ANIMALS),
    ("Option B is wrong", ANIMALS),
    ("A man on a horse", UNKNOWN),
    ("the answer is a red car", UNKNOWN),
    ("I cannot tell", UNKNOWN),
    ("I think so", UNKNOWN),
    ("U.S.", UNKNOWN),
    ("B12", UNKNOWN),
    ("B-52", UNKNOWN),
    ("AB", UNKNOWN),
    ("A. a dog", ANIMALS),
    ("E", ANIMALS),
    ("it is a dog", ANIMALS),
    ("「B」", ANIMALS),
    ("the answer is b or c", ANIMALS),
    ("a) a cat\nb) a dog", ANIMALS),
    ("B,C", ANIMALS),
    ("A, B and C", ANIMALS),
    ("A, B, C", UNKNOWN),
    ("Answer: B, C", UNKNOWN),
    ("Answer: A and B", UNKNOWN),
    ("", ANIMALS),
    ("   ", ANIMALS),
    ("None of the above", ANIMALS),
    ("answer a question", UNKNOWN),
    ("The answers are B and C", ANIMALS),
    ("Answers: A, C", ANIMALS),
    ("A answer", UNKNOWN),
    ("I don't think it's B.", ANIMALS),
    ("I doubt that it is B", ANIMALS),
    ("If it is B, the tail is long", ANIMALS),
    ("It's B or it's C", ANIMALS),
    ("It's A. So B", ANIMALS),
    ("is it B?", ANIMALS),
    ("so a", ANIMALS),
    ("It is B. a bird", ANIMALS),
    ("(B)(C)", ANIMALS),
    ("Perhaps B. Perhaps C.", ANIMALS),
    ("B. No, C.", ANIMALS),
    ("Both A and B are correct", ANIMALS),
    ("A is correct and B is correct", ANIMALS),
    ("B\nC", ANIMALS),
    ("Answer: B\nA", ANIMALS),
]


@pytest.mark.parametrize(("answer", "choices", "letter"), READ)
def test_an_answer_that_names_one_choice_is_read(answer: str, choices: dict[str, str], letter: str) -> None:
    assert parse_choice(answer, choices) == letter


@pytest.mark.parametrize(("answer", "choices"), UNPARSED)
def test_nothing_is_guessed(answer: str, choices: dict[str, str]) -> None:
    assert parse_choice(answer, choices) is None


FORMS = ["{}", "({})", "**{}**", "Answer: {}", "\\boxed{{{}}}", "{}\n\nbecause of this", "{}."]


@pytest.mark.parametrize(("choices", "letter"), [(ANIMALS, "B"), (LETTERS, "B"), (UNKNOWN, "B")])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_whatever_the_choices_are(form: str, choices: dict[str, str], letter: str) -> None:
    assert parse_choice(form.format(letter), choices) == letter


def test_the_version_says_that_scores_of_another_parser_are_not_these() -> None:
    assert metrics["multiple_choice"].version == "4"
