"""Rows of models that are more than their text model, of which that alone is converted; see family_checkpoints.py."""

from __future__ import annotations

from typing import Any, Final

from checkpoint_configs import ABSENT
from family_checkpoints_newer import SCALED, llama4
from family_configs import NARROW, small
from family_making import FamilyRow, gemma3, write_gemma_sentencepiece, write_gpt2

VISION: Final[dict[str, object]] = {
    "hidden_size": 32,
    "image_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "patch_size": 8,
}
PIXTRAL: Final = VISION | {"head_dim": 16, "model_type": "pixtral"}


def mistral3(text: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Give a Mistral 3 config of this text model."""
    is_tied = text["tie_word_embeddings"]
    whole = {"image_token_index": 10, "text_config": text, "tie_word_embeddings": is_tied, "vision_config": PIXTRAL}
    return whole | changes


ROWS: Final = (
    FamilyRow(
        "gemma-3-4b-it",
        "a vision tower beside, GQA, tied, bfloat16",
        "Gemma3ForConditionalGeneration",
        {"text_config": gemma3(num_hidden_layers=2, num_key_value_heads=2), "vision_config": VISION},
        tokenizer=write_gemma_sentencepiece,
    ),
    FamilyRow(
        "gemma-3-12b-narrow",
        "rows of 48, MHA, float16; config.json says as little as the published one",
        "Gemma3ForConditionalGeneration",
        {
            "text_config": gemma3(
                hidden_size=48, intermediate_size=96, num_attention_heads=2, num_hidden_layers=1, num_key_value_heads=2
            ),
            "vision_config": VISION,
        },
        dtype="float16",
        saved_config={"tie_word_embeddings": ABSENT, "image_token_index": ABSENT},
        tokenizer=write_gemma_sentencepiece,
    ),
    FamilyRow(
        "Llama-4-Scout-17B-16E-Instruct",
        "a vision tower beside, 4 experts in every second layer, untied",
        "Llama4ForConditionalGeneration",
        {
            "text_config": llama4(),
            "vision_config": VISION
            | {
                "projector_input_dim": 32,
                "projector_output_dim": 32,
                "vision_output_dim": 32,
                "intermediate_size": 128,
            },
        },
        scales={"router": 3.0},
        tokenizer=write_gpt2,
        shared=True,
    ),
    FamilyRow(
        "Mistral-Small-3.1-24B",
        "Pixtral's tower beside a Mistral, GQA, untied",
        "Mistral3ForConditionalGeneration",
        mistral3(small(head_dim=32, model_type="mistral", sliding_window=None)),
    ),
    FamilyRow(
        "Ministral-3-3B-Instruct",
        "Pixtral's tower beside a Ministral 3, MHA, tied, rows of 48, YaRN, float16",
        "Mistral3ForConditionalGeneration",
        mistral3(
            small(
                **NARROW,
                head_dim=16,
                model_type="ministral3",
                rope_parameters=SCALED | {"original_max_position_embeddings": 4096},
            )
        ),
        dtype="float16",
    ),
)
