"""The float checkpoint itself as the measure: its probabilities of a text, computed by transformers."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from convert.checkpoint import open_checkpoint
from convert.errors import UnsupportedError
from convert.verify.probabilities import Probabilities, write_probabilities

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_MAX_WINDOWS: Final = 16  # a short text: a large model takes seconds for each on a CPU


def checkpoint_probabilities(model: Path, like: Probabilities, out: Path, *, bos: int | None) -> Probabilities:
    """Compute a checkpoint's probabilities of the same windows, in float32.

    bos: llama-perplexity puts it in place of each window's first token, if the tokenizer adds one.
    Raises UnsupportedError where transformers cannot: it is missing, too little memory, another vocabulary.
    """
    _check_memory(model)
    network = _load(model)
    if network.config.vocab_size != like.n_vocab:
        raise UnsupportedError(f"the checkpoint has {network.config.vocab_size} tokens, the file {like.n_vocab}")

    def logits(window: int) -> NDArray[np.float32]:
        ids = like.tokens[window].astype(np.int64)
        if bos is not None:
            ids[0] = bos
        return _logits(network, ids)[like.first : like.n_ctx - 1]

    return write_probabilities(out, like, n_windows=min(len(like.tokens), _MAX_WINDOWS), logits=logits)


def _check_memory(model: Path) -> None:
    tensors = open_checkpoint(model).tensors.values()
    needed = sum(tensor.nbytes // tensor.dtype.itemsize * 4 for tensor in tensors)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > free:
        raise UnsupportedError(f"the checkpoint needs {needed} bytes of memory in float32, {free} are free")


def _load(model: Path) -> Any:  # noqa: ANN401 - transformers publishes no types
    try:
        import torch  # noqa: PLC0415 - hundreds of megabytes, only here
        from transformers import AutoModelForCausalLM  # noqa: PLC0415
        from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415
    except ImportError as error:
        raise UnsupportedError(f"transformers cannot be imported: {error}") from None
    disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:  # its ways of refusing a directory
        raise UnsupportedError(f"transformers cannot load `{model}`: {error}".splitlines()[0]) from None
    return network.eval()


def _logits(network: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:  # noqa: ANN401
    import torch  # noqa: PLC0415

    with torch.inference_mode():
        found: NDArray[np.float32] = network(torch.from_numpy(ids)[None]).logits[0].float().numpy()
    return found
