"""The options of networks, without torch: what a command line needs to know of them."""

# the named extensions from the public architecture, switched off
EXTENSIONS = {
    "anchors": False,
    "rotary": False,
    "fps_class_gap": 0.0,
    "fps_density": "",
    "decoder_layers": 0,
    "network": "joint",
    "class_outputs": "logits",
    "states": False,
    "answer_noise": 0,
    "shape_model": None,
    "fit_at_queries": False,
}
NETWORKS = ("joint", "per_class", "parts")  # autoencoder.py
CLASS_OUTPUTS = ("logits", "distances", "both")  # joint_network.py
