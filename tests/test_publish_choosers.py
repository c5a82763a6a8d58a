"""Which file a tag means: llama.cpp is asked itself, by its own code, of a repository that a double lists."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

import pytest
from tree_double import tree_double

from convert.publish.choosers import hub_label, llama_cpp_model, llama_cpp_projector, ollama_models

if TYPE_CHECKING:
    from pathlib import Path

    from reference import Reference

# Asks llama.cpp for the model and the projector of each `REPO[:TAG]`, and downloads nothing.
ASKING: Final = """
#include "common.h"
#include "download.h"
#include <cstdio>
int main(int argc, char ** argv) {
    for (int i = 1; i < argc; i++) {
        common_params_model model;
        model.hf_repo = argv[i];
        common_download_opts opts;
        opts.download_mmproj = true;
        const auto plan = common_download_get_hf_plan(model, opts);
        printf("%s\\t%s\\n", plan.primary.path.c_str(), plan.mmproj.path.c_str());
    }
}
"""

REPOSITORIES: Final = {
    "plain": ("m-Q4_0.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-F16.gguf", "mmproj-m-Q8_0.gguf"),
    "one type in another": ("m-BF16.gguf", "m-F16.gguf", "m-Q2_0.gguf", "m-TQ2_0.gguf", "m-UD-Q4_K_XL.gguf"),
    "of no usual type": ("m-IQ3_XS.gguf", "m-imatrix.gguf", "mtp-m-Q8_0.gguf", "README.md"),
    "split, in folders": (
        "m-Q4_K_M/m-Q4_K_M-00001-of-00002.gguf",
        "m-Q4_K_M/m-Q4_K_M-00002-of-00002.gguf",
        "m-Q4_K_M/mmproj-F16.gguf",
        "m-Q8_0/m-Q8_0-00001-of-00002.gguf",
        "m-Q8_0/m-Q8_0-00002-of-00002.gguf",
        "mmproj-BF16.gguf",
    ),
    "mradermacher's": ("M.Q4_K_M.gguf", "M.i1-Q4_K_M.gguf", "M.mmproj-Q8_0.gguf", "M.imatrix.gguf"),
    "a projector elsewhere": ("m-Q8_0.gguf", "vision/mmproj-m-F16.gguf", "vision/other-F32.gguf"),
    "a type in the model's name": ("tuned-F16-v2-Q5_0.gguf", "tuned-F16-v2-Q8_0.gguf", "upper-Q6_K.GGUF"),
    "not found": ("m-Q4_K_M_v2.gguf", "m.gguf", "m-Q4_K_L.gguf"),
}
TAGS: Final = (
    None, "Q4_K_M", "q8_0", "F16", "BF16", "Q2_0", "Q4_K_XL", "UD-Q4_K_XL", "IQ3_XS", "Q5_0", "Q6_K", "Q4_K_L", "Q9",
)  # fmt: skip


@pytest.fixture(scope="module")
def asking(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program that tells what llama.cpp would run; compiled against its library, in seconds."""
    folder = tmp_path_factory.mktemp("asking")
    (folder / "asking.cpp").write_text(ASKING)
    libraries = reference.libggml_base.resolve().parent
    include = [f"-I{reference.source / place}" for place in ("common", "include", "ggml/include", "vendor")]
    linked = [f"-L{libraries}", "-lllama-common", f"-Wl,-rpath,{libraries},--unresolved-symbols=ignore-in-shared-libs"]
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-std=c++17", *include, str(folder / "asking.cpp"), "-o", str(folder / "asking"), *linked]
    subprocess.run(command, check=True)
    return folder / "asking"


@pytest.mark.parametrize("repository", REPOSITORIES)
def test_llama_cpp_takes_the_model_and_the_projector_that_we_say(asking: Path, repository: str, tmp_path: Path) -> None:
    names = sorted(REPOSITORIES[repository])
    with tree_double(dict.fromkeys(names, b"")) as tree:
        environment = {**os.environ, "MODEL_ENDPOINT": tree.endpoint, "LLAMA_CACHE": str(tmp_path)}
        asked = [f"me/model{f':{tag}' if tag else ''}" for tag in TAGS]
        answer = subprocess.run([asking, *asked], env=environment, capture_output=True, text=True, check=True).stdout
    said = []
    for tag in TAGS:
        model = llama_cpp_model(names, tag)
        said.append((model or "", (model and llama_cpp_projector(names, model)) or ""))
    assert said == [tuple(line.split("\t")) for line in answer.splitlines()]


# What parseGGUFQuantLabel of @huggingface/tasks 0.21.54 (npm) said of each.
LABELS: Final = {
    "tiny-llama-F16.gguf": "F16",
    "m-BF16.gguf": "BF16",
    "org_Model-7B-Q4_K_L.gguf": None,
    "Model.i1-IQ2_XXS.gguf": "IQ2_XXS",
    "Model-UD-Q4_K_XL.gguf": "UD-Q4_K_XL",
    "Q8_0/Model-Q8_0-00001-of-00003.gguf": "Q8_0",
    "model-q4_k_m.gguf": "Q4_K_M",
    "Model-F16-tuned-Q5_0.gguf": "Q5_0",
    "mmproj-Model-f16.gguf": "F16",
    "Model.gguf": None,
    "m-Q4_0_4_4.gguf": "Q4_0",
    "gpt-oss-20b-MXFP4_MOE.gguf": "MXFP4_MOE",
    "gpt-oss-20b-mxfp4.gguf": "MXFP4",
    "m-TQ1_0.gguf": "TQ1_0",
    "m-Q4_1_SOME_F16.gguf": "F16",
    "m-Q4_K_M_v2.gguf": "Q4_K_M_V",
    "m-Q2_K_S.gguf": "Q2_K_S",
    "m-IQ4_NL.gguf": "IQ4_NL",
    "m-Q1_0.gguf": "Q1_0",
    "m-Q2_0.gguf": "Q2_0",
    "m-NVFP4.gguf": "NVFP4",
    "BF16/model.gguf": "BF16",
}


def test_the_hub_labels_files_as_we_say() -> None:
    assert {name: hub_label(name) for name in LABELS} == LABELS


def test_ollama_takes_q4_k_m_or_a_label_in_any_case_or_a_whole_name() -> None:
    names = ["m-F16.gguf", "m-IQ3_M.gguf", "m-Q4_K_M.gguf", "mmproj-m-F16.gguf"]
    assert ollama_models(names) == ("m-Q4_K_M.gguf",)
    assert ollama_models(names, "iq3_m") == ("m-IQ3_M.gguf",)
    assert ollama_models(names, "m-IQ3_M.gguf") == ("m-IQ3_M.gguf",)
    assert ollama_models(names, "Q2_K") == ()
    assert ollama_models(names[:2]) == ("m-F16.gguf", "m-IQ3_M.gguf")  # any
