"""llama.cpp's conversion package as a front end: every architecture that it knows, in one read, byte for byte.

MODEL ── prepared ──▶ our reader's tensors ──┐
├──▶ worker: upstream's own code, in a process of its own
a source tree ── tree ───────────────────────┘        │ plan: metadata, tensors, what each is made of
▼
GGUFModel ◀── gguf_model ── recognised: views of our reader, which stream
└── computed: asked for whole, one at a time
"""

from convert.llama_cpp.front_end.architectures import KnownArchitecture, known_architectures
from convert.llama_cpp.front_end.choose import open_gguf_model, open_other_model
from convert.llama_cpp.front_end.request import Part

__all__ = ["KnownArchitecture", "Part", "known_architectures", "open_gguf_model", "open_other_model"]
