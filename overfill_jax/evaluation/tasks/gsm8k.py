"""GSM8K with a chain of thought: the harness's gsm8k_cot_llama (Cobbe et al., arXiv 2110.14168).

The shots are those of Wei et al. (arXiv 2201.11903, table 20), as Llama 3's evaluation words them.
"""

import re
from pathlib import Path

from overfill_jax.errors import InputError
from overfill_jax.evaluation.tasks.question import Benchmark, Question, ask, turn
from overfill_jax.evaluation.tasks.rows import check_shots, read_rows

SHOTS = (
    (
        "There are 15 trees in the grove. Grove workers will plant trees in the grove today. "
        "After they are done, there will be 21 trees. How many trees did the grove workers plant "
        "today?",
        "There are 15 trees originally. Then there were 21 trees after some more were planted. So "
        "there must have been 21 - 15 = 6. The final answer is 6",
    ),
    (
        "If there are 3 cars in the parking lot and 2 more cars arrive, how many cars are in the "
        "parking lot?",
        "There are originally 3 cars. 2 more cars arrive. 3 + 2 = 5. The final answer is 5",
    ),
    (
        "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they "
        "have left in total?",
        "Originally, Leah had 32 chocolates. Her sister had 42. So in total they had 32 + 42 = "
        "74. After eating 35, they had 74 - 35 = 39. The final answer is 39",
    ),
    (
        "Jason had 20 lollipops. He gave Denny some lollipops. Now Jason has 12 lollipops. How "
        "many lollipops did Jason give to Denny?",
        "Jason started with 20 lollipops. Then he had 12 after giving some to Denny. So he gave "
        "Denny 20 - 12 = 8. The final answer is 8",
    ),
    (
        "Shawn has five toys. For Christmas, he got two toys each from his mom and dad. How many "
        "toys does he have now?",
        "Shawn started with 5 toys. If he got 2 toys each from his mom and dad, then that is 4 "
        "more toys. 5 + 4 = 9. The final answer is 9",
    ),
    (
        "There were nine computers in the server room. Five more computers were installed each "
        "day, from monday to thursday. How many computers are now in the server room?",
        "There were originally 9 computers. For each of 4 days, 5 more computers were added. So "
        "5 * 4 = 20 computers were added. 9 + 20 is 29. The final answer is 29",
    ),
    (
        "Michael had 58 golf balls. On tuesday, he lost 23 golf balls. On wednesday, he lost 2 "
        "more. How many golf balls did he have at the end of wednesday?",
        "Michael started with 58 golf balls. After losing 23 on tuesday, he had 58 - 23 = 35. "
        "After losing 2 more, he had 35 - 2 = 33 golf balls. The final answer is 33",
    ),
    (
        "Olivia has $23. She bought five bagels for $3 each. How much money does she have left?",
        "Olivia had 23 dollars. 5 bagels for 3 dollars each will be 5 x 3 = 15 dollars. So she "
        "has 23 - 15 dollars left. 23 - 15 is 8. The final answer is 8",
    ),
)
# A number and its currency: of two characters and more, or a digit.
_NUMBER = r"(-?[$0-9.,]{2,}|-?[0-9]+)"
_FINAL = re.compile(rf"The final answer is {_NUMBER}")
_ANY = re.compile(_NUMBER)


def read(path: Path, shots: int) -> list[Question]:
    """Rows with `question` and `answer`, whose number stands behind `####`.

    Raises:
      InputError: more shots than there are; a malformed row.
    """
    check_shots(shots, len(SHOTS))
    before = [m for question, answer in SHOTS[:shots] for m in turn(_posed(question), answer)]
    questions = []
    for number, row in read_rows(path, {"question": str, "answer": str}):
        gold = _plain(row["answer"].rpartition("####")[2].strip())
        if not re.fullmatch(r"-?\d+", gold):
            raise InputError(f"{path}:{number}: found no whole number behind ####, expected one")
        questions.append(Question(f"{number}", [*before, ask(_posed(row["question"]))], gold))
    return questions


def _posed(question: str) -> str:
    return (
        "Given the following problem, reason and give a final answer to the problem.\n"
        f"Problem: {question}\n"
        'Your response should end with "The final answer is [answer]" where [answer] is the '
        "response to the problem.\n"
    )


def verdict(question: Question, answer: str) -> dict[str, float]:
    """`strict`: the number of the last sentence that gives a final answer; `flexible`: the last."""
    return {
        "strict": float(_last(_FINAL, answer) == question.gold),
        "flexible": float(_last(_ANY, answer) == question.gold),
    }


def _last(pattern: re.Pattern, answer: str) -> str | None:
    found = pattern.findall(answer)
    return _plain(found[-1].strip()) if found else None


def _plain(number: str) -> str:
    """Without thousands' commas, currency and a full stop; 18.00 is not 18, as in the harness."""
    return re.sub(r"\.$", "", number.replace(",", "").replace("$", ""))


GSM8K = Benchmark(
    name="gsm8k",
    read=read,
    verdict=verdict,
    shots=4,
    max_new_tokens=256,
    stop=(
        "<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>",
        "Q:",
        "</s>",
        "<|im_end|>",
    ),
)
