"""A tokenizer for data of one's own: sentencepiece, with a plain chat template."""

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from overfill_jax import files
from overfill_jax.errors import InputError

# Bytes of a text that sentencepiece takes unless told otherwise: longer ones it leaves out, unsaid.
LONGEST = 4192

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"
PAD_ID, END_ID = 0, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|assistant|>{{ message.content }}<|end|>"
    "{% else %}<|user|>{{ message.content }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Trains a sentencepiece BPE on `texts`; writes it, and what transformers reads beside it.

    These are `tokenizer.model`, `tokenizer_config.json` and, with the token that ends an answer,
    `generation_config.json`. Digits are tokens of their own, and so are the chat template's headers
    and its end of turn. The same texts give the same bytes.

    Raises:
      InputError: the texts do not give so many pieces, or have more letters.
    """
    texts, model = list(texts), io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            max_sentence_length=max([LONGEST, *(len(text.encode()) for text in texts)]),
            num_threads=1,  # The file's bytes depend on the number of threads.
            character_coverage=1.0,
            split_digits=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            pad_id=PAD_ID,
            unk_id=1,
            eos_id=END_ID,
            eos_piece=END,
            bos_id=-1,
            control_symbols=[USER, ASSISTANT],
            minloglevel=2,
        )
    except RuntimeError as error:  # sentencepiece raises nothing narrower
        reason = str(error).partition("] ")[2] or str(error).strip()
        raise InputError(
            f"data.vocab_size: found {vocab_size}, which cannot be made of these texts ({reason})"
        ) from error
    with files.replace_file(folder / "tokenizer.model") as temporary:
        temporary.write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": None,
        "eos_token": END,
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "additional_special_tokens": [USER, ASSISTANT],
        "chat_template": CHAT_TEMPLATE,
    }
    files.write_json(folder / "tokenizer_config.json", config)
    ids = {"eos_token_id": END_ID, "pad_token_id": PAD_ID}
    files.write_json(folder / "generation_config.json", ids)
