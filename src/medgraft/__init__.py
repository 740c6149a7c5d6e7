"""medgraft: which pretrained model transfers best to my data, by which way, and how sure can I be?"""

__version__ = "0.1.0"
