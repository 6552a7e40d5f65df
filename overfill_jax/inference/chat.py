"""The chat stage: a conversation in the terminal, the answers streaming as they are written."""

import io
import sys
from pathlib import Path

import ml_collections

from overfill_jax.data import conversations
from overfill_jax.errors import InputError
from overfill_jax.inference.settings import Assistant, load_assistant

HELP = "/reset begins a new conversation, /exit or Ctrl-D ends; Ctrl-C cuts an answer short."


def run(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Talks until the user ends it; the full model reads the whole conversation at every turn."""
    c = config.generate
    assistant = load_assistant(config, workdir, rows=1)
    if c.warm_up:
        lengths = range(1, c.warm_up + 1)
        assistant.generator.warm_up(lengths, (1,), c.max_new_tokens, show_progress=True)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # `answer` takes such a message back
    print(HELP)
    opening = [{"role": "system", "content": c.system}] if c.system else []
    messages = opening
    while (line := ask()) not in (None, "/exit"):
        if line == "/reset":
            messages = opening
        elif line:
            messages = answer(assistant, [*messages, {"role": "user", "content": line}], c)


def ask() -> str | None:
    """The user's next line; None at the end of the input."""
    try:
        return input("\n> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return None


def answer(assistant: Assistant, messages: list[dict], c: ml_collections.ConfigDict) -> list[dict]:
    """Prints the answer as it comes; returns the longer conversation.

    A message that cannot be answered is taken back, so that one too long, or of bytes
    that are no text, does not end the chat.
    """
    text = ""
    try:
        conversations.text(messages[-1], "content")
        prompt = assistant.encode(messages)
        for piece in assistant.generator.stream(
            prompt, assistant.sampling, c.max_new_tokens, c.stop
        ):
            print(piece, end="", flush=True)
            text += piece
    except InputError as error:
        print(f"{error}; your message is taken back, /reset begins anew")
        return messages[:-1]
    except KeyboardInterrupt:
        pass  # what has been said stands
    print()
    return [*messages, {"role": "assistant", "content": text}]
