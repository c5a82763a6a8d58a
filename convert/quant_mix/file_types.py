"""What a whole file can be asked for: a row a file type."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gguf import GGMLQuantizationType, LlamaFileType

from convert.codec import FLOAT_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class FileType:
    """One file type.

    name: as users write it, in upper case. type: of the file's ordinary tensors. declared: `general.file_type`.
    """

    name: str
    type: GGMLQuantizationType
    declared: LlamaFileType

    @property
    def is_quantized(self) -> bool:
        """Whether llama-quantize makes the reference's file, rather than the converter."""
        return self.type not in FLOAT_TYPES


_TABLE: Final = (
    FileType("F32", GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    FileType("F16", GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    FileType("BF16", GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    FileType("Q4_0", GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    FileType("Q4_1", GGMLQuantizationType.Q4_1, LlamaFileType.MOSTLY_Q4_1),
    FileType("Q5_0", GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    FileType("Q5_1", GGMLQuantizationType.Q5_1, LlamaFileType.MOSTLY_Q5_1),
    FileType("Q8_0", GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
)

FILE_TYPES: Final[Mapping[str, FileType]] = MappingProxyType({row.name: row for row in _TABLE})

if len(FILE_TYPES) != len(_TABLE):
    raise RuntimeError("two file types have one name")
