"""A model's directory as a GGUFModel: config, family, and every tensor decoded, merged, mapped and plainly named."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from gguf import GGML_QUANT_VERSION, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFType, GGUFValueType, GGUFWriter, Keys

from convert.adapter import merge_adapters, other_bases, resolve_model
from convert.architecture import (
    Family,
    Hyperparameters,
    Mapped,
    check_keys,
    family_of,
    first_metadata_of,
    have_place,
    map_tensors,
    metadata_of,
    own_names,
    plain_names,
    read_hyperparameters,
    take_numbers,
    with_counts,
)
from convert.authorship import write_authorship
from convert.checkpoint import StoredType, open_checkpoint
from convert.checkpoint.packed import DECODED, as_floats, model_tensors
from convert.checkpoint.views import leaves
from convert.errors import PlanError
from convert.gguf_file import ALIGNMENT, KeyValue, encoded_entry
from convert.model.gguf_model import GGUFModel
from convert.model.left_out import left_out
from convert.model.pooling import pooling_entries
from convert.tokenizer import Vocabulary, read_vocabulary, vocabulary_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from convert.checkpoint import Checkpoint, Tensor
    from convert.gguf_file import Entry
    from convert.model.left_out import LeftOut
    from convert.model.request import ModelRequest

NATIVE: Final = "native"
_NO_SCORE: Final = -1000.0  # what LlamaHfVocab gives every token


@dataclass(frozen=True, slots=True)
class Model:
    """A model's directory, opened.

    checkpoint: as it was opened. directory: of the checkpoint. tokenizer: the directory of the tokenizer's files, an
    adapter's where it has resized the vocabulary. is_plain: the tensors are the checkpoint's own, as stored.
    notes: a line each, for the plan to show.
    """

    checkpoint: Checkpoint
    directory: Path
    config: Mapping[str, Any]
    hyperparameters: Hyperparameters
    family: Family
    tensors: Mapping[str, Tensor]
    tokenizer: Path
    is_plain: bool
    notes: tuple[str, ...]


def open_model(request: ModelRequest, checkpoint: Checkpoint | None = None) -> Model:
    """Open a model; reads headers and small statistics only.

    checkpoint: the model's, where it has been opened already.

    Raises CheckpointError, UnsupportedError or PlanError.
    """
    base = resolve_model(request.path, request.adapters)
    checkpoint = open_checkpoint(base.model, request.stated) if checkpoint is None else checkpoint
    config, where = checkpoint.require_config(), str(request.stated.config or checkpoint.directory / "config.json")
    family = family_of(config, where=where)
    h = read_hyperparameters(config, where=where)
    unpacked = model_tensors(checkpoint)
    floats, casts = as_floats(unpacked.tensors)
    h = with_counts(family, h, floats)
    own = own_names(family, h, floats)
    merged = merge_adapters(plain_names(family, h, own.tensors), base.requests)
    if merged.vocab_size is not None:
        h = h.replaced(vocab_size=merged.vocab_size)
    return Model(
        checkpoint=checkpoint,
        directory=checkpoint.directory,
        config=config,
        hyperparameters=h,
        family=family,
        tensors=merged.tensors,
        tokenizer=merged.tokenizer or checkpoint.tokenizer,
        is_plain=unpacked.is_plain and not base.requests and not own.notes,
        notes=(
            *base.notes,
            *other_bases(request.adapters, checkpoint),
            *checkpoint.notes,
            *unpacked.notes,
            *casts,
            *own.notes,
            *merged.notes,
        ),
    )


def gguf_model(request: ModelRequest, checkpoint: Checkpoint | None = None) -> GGUFModel:
    """Open a model and put it into GGUF's words.

    checkpoint: the model's, where it has been opened already.

    Raises CheckpointError, UnsupportedError or PlanError; no weight is read.
    """
    model = open_model(request, checkpoint)
    h = model.hyperparameters
    first, own = first_metadata_of(model.family, h), metadata_of(model.family, h)
    vocabulary = read_vocabulary(
        model.tokenizer,
        vocab_size=h.size("vocab_size"),
        rule=model.family.tokenizer,
        pre_tokenizer=request.pre_tokenizer,
        model_config=model.config,
    )
    numbers, tensors = take_numbers(model.family, h, model.tensors)
    mapped = _mapped(replace(model, tensors=tensors), n_tokens=len(vocabulary.tokens))
    unused = check_keys(model.family.arch, h)
    metadata, said = _metadata(model, (first | numbers, own), vocabulary, mapped.tensors)
    return GGUFModel(
        source=model.directory,
        architecture=h.architecture,
        metadata=metadata,
        tensors=mapped.tensors,
        alignment=ALIGNMENT,
        through=GGMLQuantizationType.F16,
        notes=_packing_told(model.notes, mapped)
        + mapped.notes
        + unused
        + said
        + vocabulary.notes
        + _notes(h, vocabulary),
        definition=NATIVE,
        left_out=_left_out(model, mapped.tensors),
    )


def _packing_told(notes: tuple[str, ...], mapped: Mapped) -> tuple[str, ...]:
    """Say of packed weights that the file keeps in their blocks that they stay so, and not that they are decoded."""
    n_kept = sum(not isinstance(tensor.dtype, StoredType) for _, tensor in mapped.tensors)
    kept = f"{n_kept} tensors of the file stay as they are packed"
    return tuple(f"{note.partition(':')[0]}: {kept}" if n_kept and note.endswith(DECODED) else note for note in notes)


def _left_out(model: Model, tensors: Sequence[tuple[str, Tensor]]) -> tuple[LeftOut, ...]:
    used = {leaf.name for _, tensor in tensors for leaf in leaves(tensor)}
    names = {name for name, tensor in model.tensors.items() if any(leaf.name in used for leaf in leaves(tensor))}
    h = model.hyperparameters
    others = ("mmproj",) * h.is_whole
    return left_out(model.tensors, names, lambda name: model.family.left_out(h, name), others)


def _mapped(model: Model, *, n_tokens: int) -> Mapped:
    """Map a model's tensors. Where something of the checkpoint is missing, the model must not have needed it.

    What is left out of it is told by `_left_out`, with names and bytes.
    """
    checkpoint, family, h = model.checkpoint, model.family, model.hyperparameters
    try:
        mapped = map_tensors(family, h, model.tensors, n_tokens=n_tokens)
    except PlanError:
        checkpoint.require_whole()
        raise
    if checkpoint.lacking is None:
        return replace(mapped, notes=())
    if have_place(family, h, checkpoint.absent, n_tokens=n_tokens) or not _biases_are_alike(mapped):
        raise checkpoint.lacking
    return replace(mapped, notes=(f"{checkpoint.lacking.message}; the model has all that it needs",))


def _biases_are_alike(mapped: Mapped) -> bool:
    """Whether each block has the same biases: a model can run without, so that none of them is missed."""
    biases: dict[str, set[str]] = defaultdict(set)
    for name, _ in mapped.tensors:
        _, _, rest = name.partition(".")
        block, _, part = rest.partition(".")
        biases[block] |= {part} if name.startswith("blk.") and name.endswith(".bias") else set()
    found = [parts for block, parts in biases.items() if block.isdigit()]
    return all(parts == found[0] for parts in found)


def _metadata(
    model: Model,
    own: tuple[Mapping[str, KeyValue], Mapping[str, KeyValue]],
    vocabulary: Vocabulary,
    tensors: Sequence[tuple[str, Tensor]],
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    """Gather the metadata in the reference's order: who made it, the family's, the tokenizer's; and notes.

    own: what the family puts first, after the architecture's name, what it takes from tensors among it; the rest.
    """
    writer = GGUFWriter(None, MODEL_ARCH_NAMES[model.family.arch])
    for name, tensor in tensors:  # the writer counts parameters for the size label
        writer.add_tensor_info(name, tensor.shape, None, 0, raw_dtype=GGMLQuantizationType.F32)
    writer.add_type(GGUFType.MODEL)
    notes = write_authorship(writer, model.directory)
    general = {key: KeyValue(key, value.value, value.type, value.sub_type) for key, value in writer.kv_data[0].items()}
    architecture = Keys.General.ARCHITECTURE
    entries = {architecture: general.pop(architecture), **own[0], **general, **own[1]}
    entries |= pooling_entries(model.directory, MODEL_ARCH_NAMES[model.family.arch])
    version = Keys.General.QUANTIZATION_VERSION
    entries[version] = KeyValue(version, GGML_QUANT_VERSION, GGUFValueType.UINT32)
    entries |= {entry.key: entry for entry in vocabulary_metadata(vocabulary)}
    return tuple(map(encoded_entry, entries.values())), notes


def _notes(h: Hyperparameters, vocabulary: Vocabulary) -> tuple[str, ...]:
    notes = []
    if h.rope.get("rope_type") == "dynamic" and "alpha" not in h.rope.asked:  # which makes a fixed one of it
        notes.append("dynamic rope scaling has no place in GGUF: the model runs at its original context length")
    if vocabulary.scores and max(vocabulary.scores) <= _NO_SCORE:
        # Parity: the reference has no scores without tokenizer.model, and llama.cpp then merges from the left.
        notes.append(
            "no tokenizer.model: llama.cpp will split some texts otherwise than Hugging Face; add the base model's"
        )
    return tuple(notes)
