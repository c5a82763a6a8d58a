"""The checkpoint itself as the measure: its probabilities of a text, computed by transformers.

A packed checkpoint, or one with adapters merged in, is given to transformers as the decoded and merged values: it
need not know the packing.
"""

from __future__ import annotations

import os
import warnings
from contextlib import closing
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from convert.checkpoint import SourceFiles, matrix_shape
from convert.checkpoint.packed.values import FLOATS
from convert.checkpoint.statistics import measured
from convert.errors import UnsupportedError
from convert.model import Model, float_values, open_model
from convert.verify.probabilities import Probabilities, write_probabilities
from convert.verify.transformers_names import in_halves, transformers_name

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from convert.checkpoint import Tensor
    from convert.model import ModelRequest

_MAX_WINDOWS: Final = 16  # a short text: a large model takes seconds for each on a CPU


def checkpoint_probabilities(model: ModelRequest, like: Probabilities, out: Path, *, bos: int | None) -> Probabilities:
    """Compute a checkpoint's probabilities of the same windows, in float32.

    bos: llama-perplexity puts it in place of each window's first token, if the tokenizer adds one.
    Raises UnsupportedError where transformers cannot: it is missing, too little memory, another vocabulary.
    """
    opened = open_model(model)
    _check_memory(opened)
    network = load_network(opened)
    if network.config.vocab_size != like.n_vocab:
        raise UnsupportedError(f"the checkpoint has {network.config.vocab_size} tokens, the file {like.n_vocab}")

    def logits(window: int) -> NDArray[np.float32]:
        ids = like.tokens[window].astype(np.int64)
        if bos is not None:
            ids[0] = bos
        return _logits(network, ids)[like.first : like.n_ctx - 1]

    return write_probabilities(out, like, n_windows=min(len(like.tokens), _MAX_WINDOWS), logits=logits)


def _check_memory(model: Model) -> None:
    needed = sum(prod(tensor.shape) * 4 for tensor in model.tensors.values())
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > free:
        raise UnsupportedError(f"the checkpoint needs {needed} bytes of memory in float32, {free} are free")


def load_network(model: Model) -> Any:  # noqa: ANN401 - transformers publishes no types
    """Let transformers make its network of a model, in float32; UnsupportedError where it cannot."""
    try:
        import torch  # noqa: PLC0415 - hundreds of megabytes, only here
        import transformers  # noqa: PLC0415
        from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415
    except ImportError as error:
        raise UnsupportedError(f"transformers cannot be imported: {error}") from None
    disable_progress_bar()
    how: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if model.is_plain and all(transformers_name(name) == name for name in model.tensors):
                network, found = transformers.AutoModelForCausalLM.from_pretrained(model.directory, **how)
            else:
                how |= {"config": config_without_packing(model), "state_dict": _state_dict(model)}
                network, found = getattr(transformers, model.hyperparameters.architecture).from_pretrained(None, **how)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:  # its ways of refusing a directory
        raise UnsupportedError(f"transformers cannot load `{model.directory}`: {error}".splitlines()[0]) from None
    if found["missing_keys"]:  # it would fill them with random numbers
        names = ", ".join(sorted(found["missing_keys"])[:3])
        raise UnsupportedError(f"transformers does not find `{names}` in `{model.directory}`")
    return network.eval()


def config_without_packing(model: Model) -> Any:  # noqa: ANN401
    """Give transformers' config of a model as it is decoded and merged."""
    from transformers import AutoConfig  # noqa: PLC0415

    if model.checkpoint.arrange is None:
        config = AutoConfig.from_pretrained(model.directory, local_files_only=True)
    else:  # another program's directory, whose config is in no file
        config = AutoConfig.for_model(**model.config)
    config.vocab_size = model.hyperparameters.size("vocab_size")
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if "lm_head.weight" in model.tensors:  # an adapter may have untied it
        config.tie_word_embeddings = False
    return config


def _state_dict(model: Model) -> dict[str, Any]:
    import torch  # noqa: PLC0415

    def whole(tensor: Tensor) -> torch.Tensor:
        n_rows = matrix_shape(tensor.shape)[0]
        values = float_values(measured(tensor, files), files, range(n_rows))
        return torch.from_numpy(in_halves(tensor.name, values.reshape(tensor.shape), n_heads))

    h = model.hyperparameters
    heads = h.optional_size("num_attention_heads", "n_head") or 1
    n_heads = {"q": heads, "k": h.optional_size("num_key_value_heads") or heads}
    with closing(SourceFiles()) as files:
        return {
            transformers_name(name): whole(tensor) for name, tensor in model.tensors.items() if tensor.dtype in FLOATS
        }


def _logits(network: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: ANN401
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        found: NDArray[np.float32] = network(torch.from_numpy(ids)[None]).logits[0].float().numpy()
    return found
