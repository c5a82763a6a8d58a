"""How `front_end_checkpoints.py` makes a checkpoint: transformers' own class with a small config, seeded weights.

Every size that a config class has by default is made small where the table below knows it; a row says the rest.
"""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from checkpoint_tokenizers import TOKENIZER_CONFIG, write_byte_level_bpe
from checkpoint_tokenizers import write_tokenizer_model as copy_tokenizer_model
from family_making import change_weights, normal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

VOCABULARY: Final = 600
_IDS: Final = {"pad_token_id": 0, "bos_token_id": 598, "eos_token_id": 599}
_SMALL: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "ffn_hidden_size"), 96),
    **dict.fromkeys(("d_kv", "head_dim", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 256),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "n_group", "linear_num_key_heads"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "sliding_window"), 32),
    **dict.fromkeys(("topk_group", "first_k_dense_replace", "moe_layer_start_index"), 1),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    "linear_num_value_heads": 4,
    "n_inner": 128,
    "state_size": 8,
    "time_step_rank": 4,
    "vocab_size": VOCABULARY,
    **_IDS,
}
_SMALL_VISION: Final = {"image_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 64, "out_hidden_size": 64}
_MOST_PARAMETERS: Final = 3_000_000


@dataclass(frozen=True, slots=True)
class FrontEndRow:
    """One checkpoint. config: what the config class is given beside what is made small; a dict for a part of it.

    tokenizer: writes its files. files: written beside them, by name. saved_config: put into config.json afterwards.
    renamed: (old, new) in the saved tensors' names. types: of files that are compared beside F16.
    only_float: why llama-quantize does not take the reference's file; None where it does.
    """

    name: str
    covers: str
    config: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    tokenizer: Callable[[Path], None] = field(default=lambda folder: write_own_bpe(folder))  # noqa: PLW0108  # below
    files: Mapping[str, Any] = field(default_factory=dict)
    saved_config: Mapping[str, Any] = field(default_factory=dict)
    max_shard_size: str = "5GB"
    renamed: tuple[str, str] | None = None
    types: tuple[str, ...] = ("Q4_0",)
    has_mmproj: bool = False
    only_float: str | None = None


def save_checkpoint(row: FrontEndRow, folder: Path) -> Path:
    """Write a row's files into `folder`, anew."""
    import torch
    import transformers

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    transformers.utils.logging.disable_progress_bar()
    network_class = getattr(transformers, row.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = _config(network_class.config_class, row.config)
        with torch.device("meta"):
            network = network_class(config)
        assert sum(parameter.numel() for parameter in network.parameters()) < _MOST_PARAMETERS
        network = network.to(getattr(torch, row.dtype)).to_empty(device="cpu")
        network.tie_weights()
        _fill(row.name, network)
        network.save_pretrained(folder, max_shard_size=row.max_shard_size)
    if row.renamed is not None:
        old, new = row.renamed
        change_weights(folder, lambda weights: {name.replace(old, new): tensor for name, tensor in weights.items()})
    row.tokenizer(folder)
    for name, content in row.files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        _write_json(folder / name, content)
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    _write_json(folder / "config.json", saved | dict(row.saved_config))
    return folder


def _config(config_class: Any, given: Mapping[str, Any]) -> Any:  # noqa: ANN401 - transformers'
    standard = config_class()
    known = standard.to_dict()
    config = {key: value for key, value in _SMALL.items() if key in known or hasattr(standard, key)}
    for key in ("layer_types", "mlp_layer_types"):
        if isinstance(known.get(key), list):
            config[key] = known[key][: config.get("num_hidden_layers", 2)]
    parts = {
        part: _part(part, part_class, given.get(part, {}))
        for part, part_class in getattr(config_class, "sub_configs", {}).items()
        if getattr(part_class, "model_type", "")  # AutoConfig has none: then the row says all of it
    }
    return config_class(**{**config, **given, **parts})


def _part(part: str, part_class: Any, given: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    known = part_class().to_dict()
    small = {**_SMALL, **(_SMALL_VISION if "vision" in part else {})}
    return {key: value for key, value in small.items() if key in known} | dict(given)


def _fill(seed: str, network: torch.nn.Module) -> None:
    import torch

    known: dict[int, str] = {}
    for name, tensor in network.state_dict().items():
        if known.setdefault(tensor.data_ptr(), name) != name or not tensor.numel():
            continue
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        values = normal(f"{seed}/{name}", tuple(tensor.shape)) * np.float32(0.1)
        mean = 1.0 if tensor.dim() <= 1 and "norm" in name else 0.0
        tensor.copy_(torch.from_numpy(np.asarray(values + np.float32(mean))))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# --- Tokenizers, all of our own


@cache
def _own_bpe() -> str:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_byte_level_bpe(Path(folder))
        return (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")


def write_own_bpe(folder: Path) -> None:
    """Write a byte-level BPE that declares Llama 3's splitting: upstream does not know it by its hash."""
    (folder / "tokenizer.json").write_text(_own_bpe(), encoding="utf-8")
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
    _write_json(folder / "tokenizer_config.json", names | {"tokenizer_class": "PreTrainedTokenizerFast"})


def write_pieces(folder: Path) -> None:
    """Write tests/data's sentencepiece model, of 1024 BPE pieces."""
    copy_tokenizer_model(folder)
    _write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)


def write_wordpiece(folder: Path) -> None:
    """Write a WordPiece vocabulary of letters, as BERT's files are."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127)]
    (folder / "vocab.txt").write_text("\n".join([*special, *letters, *(f"##{letter}" for letter in letters)]) + "\n")
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


def write_unigram(name: str) -> Callable[[Path], None]:
    """Return what writes a unigram sentencepiece model of letters under a name, as T5 and XLM-R have it."""

    def write(folder: Path) -> None:
        from sentencepiece import sentencepiece_model_pb2 as protobuf

        model = protobuf.ModelProto()
        model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
        model.normalizer_spec.name = "identity"
        for kind, texts in (
            (3, ("<pad>", "</s>")),
            (2, ("<unk>",)),
            (1, ("▁", *(chr(code) for code in range(33, 127)))),
        ):
            for text in texts:
                model.pieces.add(piece=text, score=-float(len(model.pieces)), type=kind)
        (folder / name).write_bytes(model.SerializeToString())

    return write
