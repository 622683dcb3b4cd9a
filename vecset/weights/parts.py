"""The parts of a network that `--freeze` names, without torch."""

# {part: the beginnings of the names of its parameters}
PARTS = {
    "encoder": (
        "point_embed",
        "cross_attend_blocks",
        "bottleneck",
        "encoder_gain",
        "state_embed",
        "proposal_embed",
        "latents",
        "anchors",
        "class_embed",
        "absent",
    ),
    "layers": ("layers", "answer_noise"),
    "decoder": (
        "query_embed",
        "decoder_cross_attn",
        "decoder_layers",
        "decoder_gain",
        "far_slope",
        "proposed_distances",
        "to_outputs",
    ),
}
