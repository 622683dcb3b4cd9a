"""How well two label maps agree, and what scores to compare with. No network and no torch."""
