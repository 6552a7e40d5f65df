"""Answers with known verdicts: of each instruction, some that follow it and some that do not."""

# ruff: noqa: RUF001 (answers in any script)

from typing import Any

# Instruction, arguments, answers that follow it, answers that do not.
Case = tuple[str, dict[str, Any], tuple[str, ...], tuple[str, ...]]

GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund, und niemand weiß warum."
FRENCH = "Le petit renard brun saute par-dessus le chien paresseux, et personne ne sait pourquoi."
ENGLISH = "The quick brown fox jumps over the lazy dog, and nobody knows the reason for it."
HINDI = "यह एक सरल वाक्य है जो हिंदी में लिखा गया है और सबको समझ में आता है।"
RUSSIAN = "Быстрая коричневая лиса перепрыгивает через ленивую собаку."

KEYWORDS: list[Case] = [
    (
        "keywords:existence",
        {"keywords": ["cat", "red hat"]},
        ("The CAT wears a Red Hat.", "concatenate a red hatstand", "*cat*\n\n**red hat**"),
        ("The cat wears a red  hat.", "a red hat", "", "CAТ red hat"),  # a Cyrillic T
    ),
    (
        "keywords:existence",
        {"keywords": ["c++"]},
        ("I like C++.",),
        ("I like ccc.",),  # a text, no pattern
    ),
    (
        "keywords:existence",
        {"keywords": ["schön"]},
        ("Wie SCHÖN!",),
        ("Wie schon!",),
    ),
    (
        "keywords:frequency",
        {"keyword": "run", "frequency": 3, "relation": "at least"},
        ("Run, run, RUN!", "I run while runners run.", "runrunrun"),
        ("Run, run.", "", "r-u-n run ran run"),
    ),
    (
        "keywords:frequency",
        {"keyword": " run ", "frequency": 2, "relation": "less than"},
        ("I run.", "I walk."),
        ("Run and run", "prunes in a trunk", ""),  # within words, too; an empty answer never
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["bad", "under way"]},
        ("A badge of honour.", "bad_ luck", "Underway at last.", "BÀD"),
        ("That is BAD.", "bad-tempered", "(bad)", "It is under way.", ""),
    ),
    (
        "keywords:letter_frequency",
        {"letter": "e", "let_frequency": 3, "let_relation": "at least"},
        ("Eel, e", "e E e E", "**eee**"),
        ("Ee", "éèê", ""),
    ),
    (
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 1, "let_relation": "less than"},
        ("no such letter", "42"),
        ("a queue", "Q"),
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ("# one\n# two", "##"),
        ("# one", "no heading"),
    ),
]

LANGUAGE: list[Case] = [
    (
        "language:response_language",
        {"language": "de"},
        (GERMAN, GERMAN.upper(), f"**{GERMAN}**\n\n* {GERMAN}", "12345 !?", "..."),
        (ENGLISH, FRENCH, HINDI, "", "   \n"),
    ),
    (
        "language:response_language",
        {"language": "hi"},
        (HINDI, f"{HINDI} OK", "1. 2. 3."),
        (ENGLISH, RUSSIAN, GERMAN),
    ),
    (
        "language:response_language",
        {"language": "en"},
        (ENGLISH, f"# Fox\n\n{ENGLISH}"),
        (GERMAN, FRENCH, RUSSIAN),
    ),
]

LENGTHS: list[Case] = [
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ("One. Two! Three?", "Mr. Smith is here. He sat. He left."),
        ("One. Two.", "Dr. Jones met Mr. Smith of the U.S. Senate.", "a\nb\nc\nd", ""),
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "less than"},
        ("Only one sentence", "It costs 3.50 at 5 p.m. today.", "- a\n- b\n- c"),
        ("One. Two.", "Really? Yes.", "   "),
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ("One.\n***\nTwo.", "***\nOne.\n\n***\nTwo.\n***", "a***b", "eins ***\n\nzwei"),
        ("One.\n\nTwo.", "One.\n***\n***\nTwo.", "a *** b *** c", "***", "One. ** Two.", ""),
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        ("one two three four", "don't can't", "état-major à Zürich", "* a\n* b\n* c\n* d"),
        ("one two three", "!!! ... --- ???", "", "a_b c_d e_f"),
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "less than"},
        ("two words", "***", "word"),
        ("now three words", "it's so", " "),
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Weekend"},
        (
            "One.\n\nWeekend is near.",
            'One.\n\n"WEEKEND!" she said.',
            "One.\n\n  weekend's here",
            "One.\nstill one\n\nweekend",
        ),
        (
            "One.\n\nThe weekend.",
            "Weekend.\n\nTwo.",
            "One.\n\nWeekend.\n\nThree.",
            "One.\n\n*Weekend* is near.",
            "One.\nWeekend",
            "One.\n\n\n\nWeekend",  # the paragraph without text is the second
            "",
        ),
    ),
]

CONTENT: list[Case] = [
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ("[name] and [address]", "[a][b][c]", "[x](http://a) [ ]", "[名前] [住所]", "[] []"),
        ("[name]", "(name) {address}", "[name\n] [ad\ndress]", "]a[ ]b[", "", "［a］［b］"),
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ("Bye.\n\nP.S. Call me.", "p.s. call", "P. S. Call", "**P.S.** Call", "see P.S."),
        ("Bye.\nPS: call", "P.S: call", "P .S. call", "", "Postscript: call"),
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ("P.P.S. And call.", "p.p.s and", "P. P. S: and", "P.P.S"),
        ("P.S. And call.", "PPS and", "P.P. and", " \n"),
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "N.B. "},
        ("n.b. this", "And N.B. that"),
        ("nxbx this", "NB"),
    ),
]

FORMATS: list[Case] = [
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ("* a\n* b", "- a\n  - b", "Intro\n\n* a\n- b\n\nEnd", "*a* is\n* b", "-a\n--"),
        ("* a", "* a\n* b\n* c", "** a\n** b", "• a\n• b", "1. a\n2. b", ""),
    ),
    (
        "detectable_format:constrained_response",
        {},
        ("My answer is yes.", "Well: My answer is maybe. Bye", "**My answer is no.**"),
        ("My answer is yes", "my answer is no.", "Yes.", ""),
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ("*a* and *b*", "**a** and **b**", "*a* **b**", "- *a*\n- *b*"),
        ("*a*", "** ** * *", "*a\nb* *c", "_a_ _b_", "* *a*\n* *b*", ""),
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ("Section 1\nx\nSection 2\ny", "**Section1** **Section 2:**", "Section 1, 2; Section 3"),
        ("Section 1\nx", "section 1\nsection 2", "Section I\nSection II", "Sections 1 2", ""),
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day. ", "num_sections": 1},
        ("Day.1", "Day. 12"),
        ("Day 1", "Days 1"),
    ),
    (
        "detectable_format:json_format",
        {},
        ('{"a": [1, "ü"]}', '```json\n{"a": 1}\n```', "```\n[]\n```", "  null ", "3"),
        ('{"a": 1,}', "{'a': 1}", 'Here: {"a": 1}', '{"a": 1}\nDone.', "", "[" * 100_000),
    ),
    (
        "detectable_format:title",
        {},
        ("<<poem of joy>>\nText", "Text <<A>>", "<<<b>>>", "<< Ünï >>"),
        ("<poem>", "<<>>", "<<a\nb>>", "«poem»", "<<  >>", ""),
    ),
]

COMBINATIONS: list[Case] = [
    (
        "combination:two_responses",
        {},
        ("One.\n******\nTwo.", "******\nOne.******Two.\n******\n", "ja******nein"),
        (
            "One.",
            "One.\n*****\nTwo.",
            "Same.\n******\n Same.",
            "a******b******c",
            "a************b",
            "******",
            "",
        ),
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem. Be brief! "},
        (
            "Write a poem. Be brief!",
            "  WRITE A POEM. BE BRIEF!\n\nRoses",
            "Write a poem. Be brief!!",
        ),
        (
            "Sure! Write a poem. Be brief!",
            '"Write a poem. Be brief!"',
            "Write a poem.\nBe brief!",
            "Write a poem.",
            "**Write a poem. Be brief!**",
            "",
        ),
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "¿Qué?"},
        ("¿QUÉ? Nada.",),
        ("Qué? Nada.",),
    ),
]

ENDS: list[Case] = [
    (
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        (
            "Yes. Any other questions?",
            '"No. ANY OTHER QUESTIONS?"\n',
            "Many other questions? Any other questions?",
        ),
        (
            "Any other questions? Ask.",
            "Any other questions",
            "**Any other questions?**",
            "Any other\nquestions?",
            "",
        ),
    ),
    (
        "startend:end_checker",
        {"end_phrase": " Auf Wiedersehen, Jörg! "},
        ("auf wiedersehen, JÖRG!",),
        ("Auf Wiedersehen, Jorg!",),
    ),
    (
        "startend:quotation",
        {},
        ('"Yes."', ' "a" and "b" \n', '""', '"\n# Heading\n"'),
        ("Yes.", '"Yes.', '"', "“Yes.”", "'Yes.'", '**"Yes."**', "", '"Yes.".'),
    ),
]

CASES_OF_LETTERS: list[Case] = [
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 3, "capital_relation": "at least"},
        ("I AM HERE", "A STEP-BY-STEP GPT-4", "DON'T SAY", "ÄRGER ÜBER ÖL", "**NOW** *OR* NEVER"),
        ("I AM", "Step-By-Step 42 !!", "NOWORNEVER", "", "ⅰ ⅱ ⅲ"),
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ("no capitals", "Only ONE here", "THE-ONE"),
        ("TWO HERE", "I and I", "   "),
    ),
    (
        "change_case:english_capital",
        {},
        (ENGLISH.upper(), f"# {ENGLISH.upper()}\n\n* 1. {ENGLISH.upper()}"),
        (ENGLISH, GERMAN.upper(), f"{ENGLISH.upper()} a", "123", "", RUSSIAN.upper()),
    ),
    (
        "change_case:english_lowercase",
        {},
        (ENGLISH.lower(), f"- {ENGLISH.lower()}\n- 2"),
        (ENGLISH, GERMAN.lower(), f"{ENGLISH.lower()} A", "42!", "", HINDI),
    ),
]

PUNCTUATION: list[Case] = [
    (
        "punctuation:no_comma",
        {},
        (
            "No such mark.",
            "One; two: three - four",
            "全角，です",
            "٬ and ،",
            "'quoted'",
            "# A\n\n* b\n* c",
            '{"a": 1}',
            "1.000.000",
            "42",
            "…",
            "`a; b`",
        ),
        (
            "One, two.",
            "1,000",
            ",",
            "a\n,\nb",
            "Hello,\n\nbye",
            "**a, b**",
            "`f(x, y)`",
            "«a, b»",
            "",
            " ",
            "\n\n",
        ),
    ),
]

GROUPS = (
    KEYWORDS, LANGUAGE, LENGTHS, CONTENT, FORMATS, COMBINATIONS, ENDS, CASES_OF_LETTERS,
    PUNCTUATION,
)  # fmt: skip
