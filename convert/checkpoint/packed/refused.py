"""Methods that are known and not decoded: what each is called, why not, and how to get a 16-bit checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from convert.errors import UnsupportedError
from convert.shown import shown

_ANOTHER: Final = "get the 16-bit checkpoint that it was made from"
_DEQUANTIZE: Final = f"{_ANOTHER}, or dequantize it with its producer's library and save that"


@dataclass(frozen=True, slots=True)
class RefusedMethod:
    """A method that this version does not decode.

    methods: the values of `quant_method` that mean it. label: what it is called. reason: a clause after "is".
    remedy: how to get a 16-bit checkpoint.
    """

    methods: tuple[str, ...]
    label: str
    reason: str
    remedy: str = _DEQUANTIZE


REFUSED_METHODS: Final = (
    RefusedMethod(("quip", "quip#", "quip_sharp"), "QuIP#", "lattice codes of weights that were rotated", _ANOTHER),
    RefusedMethod(("spqr",), "SpQR", "tiles of its CUDA kernel with outliers kept apart", _ANOTHER),
    RefusedMethod(("vptq",), "VPTQ", "indices into codebooks of vectors, with outliers and residuals"),
    RefusedMethod(("eetq",), "EETQ", "8 bits in the order of its CUDA kernel, which is made on a GPU only", _ANOTHER),
    RefusedMethod(("higgs",), "HIGGS", "grid codes in the order of FLUTE's kernel, rotated by Hadamard matrices"),
    RefusedMethod(("fp_quant",), "FP-Quant", "4-bit floats of weights rotated by Hadamard matrices"),
    RefusedMethod(("quanto",), "quanto", "tensors that transformers itself does not save"),
    RefusedMethod(("quark",), "AMD Quark", "any of several packings of its own", _DEQUANTIZE),
    RefusedMethod(("sinq",), "SINQ", "codes with scales along both dimensions"),
    RefusedMethod(("metal",), "Metal kernels", "words of a kernel for Apple's GPUs", _ANOTHER),
    RefusedMethod(("gemma",), "Gemma's quantization", "a layout of those models alone"),
    RefusedMethod(("fouroversix",), "Four Over Six", "4-bit floats with adaptive block scales"),
    RefusedMethod(("exl2", "exl3", "exllamav2", "exllamav3"), "ExLlama's EXL", "codes of its CUDA kernels", _ANOTHER),
    RefusedMethod(("marlin",), "Marlin", "GPTQ in the order of a CUDA kernel", f"{_ANOTHER}, or the GPTQ one"),
    RefusedMethod(("bitblas",), "BitBLAS", "GPTQ in the order of generated kernels", f"{_ANOTHER}, or the GPTQ one"),
    RefusedMethod(("qqq",), "QQQ", "4 bits in the order of a CUDA kernel", _ANOTHER),
    RefusedMethod(("paroquant",), "ParoQuant", "AWQ's packing of weights that were rotated in pairs", _ANOTHER),
    RefusedMethod(("gguf",), "GGUF", "a GGUF file already", "give that file itself"),
)

_BY_METHOD: Final = {method: refused for refused in REFUSED_METHODS for method in refused.methods}
assert len(_BY_METHOD) == sum(len(refused.methods) for refused in REFUSED_METHODS), "a method stands twice"  # noqa: S101


def refusal(method: str | None, *, decoded: str) -> UnsupportedError:
    """Make the error for a method that no row of the table decodes; decoded: what they do."""
    refused = _BY_METHOD.get(method or "")
    if refused is None:
        said = shown(method or "an unnamed method")
        message = f"the checkpoint is quantized with {said}, which this version does not decode"
        return UnsupportedError(message, hint=f"{_DEQUANTIZE}; decoded are {decoded}")
    return UnsupportedError(
        f"the checkpoint is quantized with {refused.label}, which this version does not decode: its weights are "
        f"{refused.reason}",
        hint=f"{refused.remedy}; decoded are {decoded}",
    )
