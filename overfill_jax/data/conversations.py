"""Owns the conversation of a row: found in its columns, checked, with its answer or without.

A row is a JSON object with `messages` (each with a `role` and a `content`) or with a prompt column,
and a response column where an answer is wanted. A `system` column comes first in either.
"""

from overfill_jax.errors import InputError


def with_answer(row: dict, prompt_column: str, response_column: str) -> list[dict]:
    """The row's messages, of which the last is the assistant's.

    Raises:
      InputError: says which column or message is missing, empty or not text.
    """
    if "messages" in row:
        messages = _checked(row["messages"])
    else:
        messages = [
            {"role": "user", "content": _filled(row, prompt_column)},
            {"role": "assistant", "content": _filled(row, response_column)},
        ]
    if not messages or messages[-1]["role"] != "assistant":
        raise InputError("no answer: the last message is not the assistant's")
    return _opened(row, messages)


def without_answer(row: dict, prompt_column: str) -> list[dict]:
    """The row's messages up to the answer that is asked for; one that the row has is left out.

    Raises:
      InputError: says which column or message is missing, empty or not text.
    """
    if "messages" in row:
        messages = _checked(row["messages"])
    else:
        messages = [{"role": "user", "content": _filled(row, prompt_column)}]
    if messages and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    return _opened(row, messages)


def text(value: dict, key: str) -> str:
    """`value[key]`, which has to be there and to be text.

    Raises:
      InputError: names the key, and what was found.
    """
    if key not in value:
        raise InputError(f"no {key!r}")
    found = value[key]
    if not isinstance(found, str):
        raise InputError(f"{key!r} is {type(found).__name__}, expected text")
    try:
        found.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise InputError(f"{key!r} is not valid Unicode") from error
    return found


def _filled(value: dict, key: str) -> str:
    found = text(value, key)
    if not found.strip():
        raise InputError(f"{key!r} is empty")
    return found


def _checked(messages: object) -> list[dict]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise InputError("'messages' is not a list of objects")
    for number, message in enumerate(messages, 1):
        try:
            if text(message, "role") == "system":
                text(message, "content")
            else:
                _filled(message, "content")
        except InputError as error:
            raise InputError(f"message {number}: {error}") from error
    return messages


def _opened(row: dict, messages: list[dict]) -> list[dict]:
    if all(message["role"] in ("system", "assistant") for message in messages):
        raise InputError("empty prompt: no message of a user")
    if "system" in row:
        if any(message["role"] == "system" for message in messages):
            raise InputError("'system' beside a message of that role, expected one of them")
        return [{"role": "system", "content": text(row, "system")}, *messages]
    return messages
