"""Tokenizers: byte-level BPE of Hugging Face's library, trained here or taken from a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from cupel.protocol.errors import MalformedInput, UsageError

END_OF_DOCUMENT = "<|end|>"
SMALLEST_VOCABULARY = 257
"""Every byte, so that any text can be written, and the end of a document."""
LARGEST_VOCABULARY = 1 << 20
_KNOWN_ENDS = (END_OF_DOCUMENT, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
_PIECE_CHARACTERS = 1 << 16


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of at most `vocabulary` tokens; token 0 ends a document. Same texts, same tokenizer.

    Raises  UsageError: no such vocabulary
    """
    if not SMALLEST_VOCABULARY <= vocabulary <= LARGEST_VOCABULARY:
        raise UsageError(f"vocabulary {vocabulary:,}: from {SMALLEST_VOCABULARY} up to {LARGEST_VOCABULARY:,}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in pieces(text)), trainer)
    return tokenizer


def load_tokenizer(data: bytes) -> Tokenizer:
    """From the bytes of a tokenizer.json. Raises MalformedInput."""
    try:
        return Tokenizer.from_str(data.decode())
    except Exception as error:  # the library raises plain Exception
        raise MalformedInput(f"not a tokenizer.json of Hugging Face's tokenizers: {error}") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """Raises UsageError: the file cannot be read or is no tokenizer."""
    try:
        return load_tokenizer(path.read_bytes())
    except (OSError, MalformedInput) as error:
        raise UsageError(f"{path}: {error}") from error


def tokenizer_bytes(tokenizer: Tokenizer) -> bytes:
    """Its tokenizer.json."""
    return str(tokenizer.to_str()).encode()


def vocabulary_of(tokenizer: Tokenizer) -> int:
    """One more than the highest token."""
    return int(max(tokenizer.get_vocab(with_added_tokens=True).values())) + 1


def end_of_document(tokenizer: Tokenizer, text: str | None = None) -> int:
    """The token that closes a document. Raises UsageError if the tokenizer has none of that text or known to us."""
    for candidate in (text,) if text is not None else _KNOWN_ENDS:
        token = tokenizer.token_to_id(candidate)
        if token is not None:
            return int(token)
    asked = repr(text) if text is not None else "that is known to end documents"
    raise UsageError(f"the tokenizer has no token {asked}; name one with --end-of-document")


class Encoder:
    """Turns documents into tokens. Text that looks like a special token stays text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = load_tokenizer(tokenizer_bytes(tokenizer))
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._may_cut = _splits_at_lines(self._tokenizer)

    def encode(self, text: str) -> Iterator[list[int]]:
        """The document's tokens, some at a time."""
        for group in _groups(pieces(text) if self._may_cut else [text]):
            for encoding in self._tokenizer.encode_batch_fast(group, add_special_tokens=False):
                yield encoding.ids


def pieces(text: str) -> Iterator[str]:
    """Cut a long text where a byte-level BPE cuts anyway: after a line feed that stands alone between other characters.

    (At the end of several spaces it would not do: the pattern that splits words treats their last one differently when
    text follows.) The library keeps hundreds of bytes for each token it is working on; this bounds how many those are,
    and changes no token. A text without such places stays whole.
    """
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        cut = text.find("\n", start + _PIECE_CHARACTERS) + 1
        while 0 < cut < len(text) and (text[cut].isspace() or text[cut - 2].isspace()):
            cut = text.find("\n", cut) + 1
        if cut == 0 or cut == len(text):
            break
        yield text[start:cut]
        start = cut
    yield text[start:]


def _groups(texts: Iterable[str], count: int = 16) -> Iterator[Sequence[str]]:
    group: list[str] = []
    for text in texts:
        group.append(text)
        if len(group) == count:
            yield group
            group = []
    if group:
        yield group


def _splits_at_lines(tokenizer: Tokenizer) -> bool:
    """Whether cutting as `pieces` does cannot change a token; only known of the kind made here."""
    description = json.loads(tokenizer.to_str())
    before = description["pre_tokenizer"] or {}
    return (
        description["normalizer"] is None
        and before.get("type") == "ByteLevel"
        and before.get("add_prefix_space") is False
        and before.get("use_regex", True) is True
    )
