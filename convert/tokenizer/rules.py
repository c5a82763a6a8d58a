"""How a family's tokenizer is read: which kinds may serve it, in order, and what the family sets beside the tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from convert.tokenizer.special_tokens import CODE_LLAMA_KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping


class TokenizerKind(Enum):
    """A kind of tokenizer files."""

    SENTENCEPIECE = "tokenizer.model"
    LLAMA_HF = "tokenizer.json of the sentencepiece-like kind"
    BYTE_LEVEL = "tokenizer.json of the byte-level kind, or vocab.json with merges.txt"


class SpacePrefix(Enum):
    """Whether `add_space_prefix` is written, and as what."""

    AS_DECLARED = "as tokenizer_config.json declares it, before the tokens"
    AS_DECLARED_AFTER = "as tokenizer_config.json declares it, after the tokens"
    AS_PIECES_SAY = "as tokenizer.model normalizes, after the tokens"
    NEVER_AFTER_PIECES = "false, after the tokens of a tokenizer.model"
    UNSAID = "not written"


@dataclass(frozen=True, slots=True)
class LateTokens:
    """Special tokens that the reference adds after all the rest.

    kinds: looked for once more, and these only. ids: of kinds that are not found. add: whether a kind is added.
    stated: (kind, file, key, default) of ids that a file states; of a list of two and more the first, of a shorter one
    none.
    """

    kinds: tuple[str, ...] = ()
    ids: tuple[tuple[str, int], ...] = ()
    add: tuple[tuple[str, bool], ...] = ()
    stated: tuple[tuple[str, str, str, int | None], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenizerRule:
    """A row.

    kinds: the first whose files are there serves. late: by the vocabulary's size; always: for other sizes.
    named: (kind, text) of special tokens that the vocabulary must have, where the files do not say the kind.
    may_lack: tokens added to a tokenizer.model that a variant of the family has no embeddings for: left out where they
    lie beyond. as_marked: tokens added to a tokenizer.model are read as the files mark them, tokenizer.json too.
    unused, spelled: pieces that begin so are unused ones; pieces with another text in GGUF.
    preferred: (kind, text) of special tokens that are these where the vocabulary has them, whatever the files say.
    """

    kinds: tuple[TokenizerKind, ...]
    space_prefix: SpacePrefix = SpacePrefix.UNSAID
    late: Mapping[int, LateTokens] = field(default_factory=lambda: MappingProxyType({}))
    may_lack: tuple[str, ...] = ()
    named: tuple[tuple[str, str], ...] = ()
    always: LateTokens = LateTokens()
    as_marked: bool = False
    unused: str | None = None
    spelled: tuple[tuple[str, str], ...] = ()
    preferred: tuple[tuple[str, str], ...] = ()


# conversion/llama.py, LlamaModel.set_vocab @ 0c1e570, which knows Code Llama and Granite's small models (and with them
# SmolLM2) by the size of their vocabularies.
LLAMA_TOKENIZER: Final = TokenizerRule(
    (TokenizerKind.SENTENCEPIECE, TokenizerKind.LLAMA_HF, TokenizerKind.BYTE_LEVEL),
    SpacePrefix.AS_DECLARED,
    MappingProxyType(
        {
            32016: LateTokens(kinds=CODE_LLAMA_KINDS, ids=(("eot", 32010),)),
            49152: LateTokens(add=(("bos", False),)),
        }
    ),
)
# conversion/gemma.py, Gemma3Model.set_vocab @ 0c1e570
GEMMA_TOKENIZER: Final = TokenizerRule(
    (TokenizerKind.SENTENCEPIECE, TokenizerKind.BYTE_LEVEL),
    SpacePrefix.NEVER_AFTER_PIECES,
    may_lack=("<image_soft_token>",),  # every Gemma 3 has it in its tokenizer, those that see in their embeddings
)
# conversion/gemma.py, GemmaModel.set_vocab @ 0c1e570, which gives CodeGemma's tokens to every Gemma 1
GEMMA_1_TOKENIZER: Final = replace(
    GEMMA_TOKENIZER,
    always=LateTokens(
        kinds=("prefix", "suffix", "middle", "fsep", "eot"),
        ids=(("prefix", 67), ("suffix", 69), ("middle", 68), ("fsep", 70), ("eot", 107)),
    ),
)
# conversion/qwen.py, Qwen2Model.set_vocab @ 0c1e570: dense Qwen 2 and 3
QWEN_TOKENIZER: Final = TokenizerRule((TokenizerKind.SENTENCEPIECE, TokenizerKind.BYTE_LEVEL))
# conversion/phi.py, Phi3MiniModel.set_vocab @ 0c1e570, which asks for tokenizer.model unless the class is GPT2Tokenizer
PHI_TOKENIZER: Final = TokenizerRule(
    (TokenizerKind.SENTENCEPIECE, TokenizerKind.LLAMA_HF, TokenizerKind.BYTE_LEVEL), as_marked=True
)
# conversion/base.py, TextModel.set_vocab @ 0c1e570
BYTE_LEVEL_TOKENIZER: Final = TokenizerRule((TokenizerKind.BYTE_LEVEL,))
# conversion/glm.py, Glm4Model.set_vocab, and conversion/base.py, TextModel._set_vocab_glm @ 0c1e570
GLM4_TOKENIZER: Final = TokenizerRule(
    (TokenizerKind.BYTE_LEVEL,),
    named=(
        ("eos", "<|endoftext|>"),
        ("eot", "<|user|>"),
        ("unk", "<|endoftext|>"),
        ("bos", "<|endoftext|>"),
    ),
)
GLM4_MOE_TOKENIZER: Final = TokenizerRule(
    (TokenizerKind.BYTE_LEVEL,),
    named=(("bos", "[gMASK]"), ("eot", "<|user|>"), ("unk", "<|endoftext|>"), ("eom", "<|observation|>")),
)
# conversion/ernie.py, Ernie4_5Model.set_vocab @ 0c1e570
ERNIE_TOKENIZER: Final = TokenizerRule((TokenizerKind.SENTENCEPIECE,), SpacePrefix.AS_DECLARED_AFTER)
# conversion/nemotron.py, NemotronModel.set_vocab @ 0c1e570
NEMOTRON_TOKENIZER: Final = TokenizerRule(
    (TokenizerKind.SENTENCEPIECE,), always=LateTokens(ids=(("pad", 0), ("unk", 1)))
)
# conversion/minicpm.py, MiniCPMModel.set_vocab @ 0c1e570
SENTENCEPIECE_TOKENIZER: Final = TokenizerRule((TokenizerKind.SENTENCEPIECE,))
# conversion/internlm.py, InternLM2Model.set_vocab @ 0c1e570; C++ would take the piece of a zero byte for an empty one
INTERNLM2_TOKENIZER: Final = TokenizerRule(
    (TokenizerKind.SENTENCEPIECE,),
    SpacePrefix.AS_PIECES_SAY,
    as_marked=True,
    unused="[UNUSED",
    spelled=(("\x00", "🐉"),),
    preferred=(("eos", "<|im_end|>"),),
)
# conversion/hunyuan.py, HunYuanModel.set_vocab @ 0c1e570; the default is transformers'
HUNYUAN_TOKENIZER: Final = TokenizerRule(
    (TokenizerKind.BYTE_LEVEL,),
    always=LateTokens(
        stated=(("eos", "config.json", "eod_token_id", 3), ("eot", "generation_config.json", "eos_token_id", None))
    ),
)
