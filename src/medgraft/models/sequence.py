"""A clip as a sentence: what an image network says of each frame, read by BERT.

CEUS study: 2D CNN + BERT. Transformer: Devlin et al., BERT, NAACL 2019 (arXiv:1810.04805), built by
``transformers``; its weights start at random. What differs from BERT: 3 layers of 5 heads, hidden 1000,
feed-forward 1280, dropout .2; words are the network's 1000 ImageNet logits of a frame, so the vocabulary
is the class token alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medgraft.errors import UserError

CLASSES = 1000  # logits that an image network keeps
LAYERS, HEADS, FEED_FORWARD, DROPOUT, SPREAD = 3, 5, 1280, 0.2, 0.02


class Bert(nn.Module):
    """(B, T, F) -> (B, hidden): class token in front, learned positions, encoder, dense + tanh on the class token.

    ``length`` is the longest T. ``hidden`` other than ``features`` puts a linear projection in front. Layer
    norms come after the residual sums (eps 1e-12), GELU between the dense layers, weights start from N(0, .02).
    """

    def __init__(self, features: int, length: int, *, hidden: int = CLASSES) -> None:
        super().__init__()
        if hidden < HEADS or hidden % HEADS:
            raise UserError(
                f"BERT's width is a multiple of its {HEADS} heads, not {hidden}", fix="use hidden=1000 or hidden=1280"
            )
        from transformers import BertConfig, BertModel

        self.length, self.features = length, hidden
        self.project: nn.Module = nn.Identity()
        if hidden != features:
            self.project = projection = nn.Linear(features, hidden)
            nn.init.normal_(projection.weight, std=SPREAD)
            nn.init.zeros_(projection.bias)
        config = BertConfig(  # type: ignore[call-arg]  # the last argument is one of every configuration
            vocab_size=1,
            pad_token_id=None,  # row 0 is the class token, which learns
            type_vocab_size=1,
            hidden_size=hidden,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=FEED_FORWARD,
            hidden_act="gelu",
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
            max_position_embeddings=length + 1,
            initializer_range=SPREAD,
            layer_norm_eps=1e-12,
            attn_implementation="eager",  # fused kernels have no deterministic backward pass on a GPU
        )
        self.bert = BertModel(config)

    def forward(self, frames: Tensor) -> Tensor:
        batch, count, _ = frames.shape
        if count > self.length:
            raise UserError(
                f"{count} frames meet a BERT with {self.length} positions", fix="build it for the window's length"
            )
        token = self.bert.embeddings.word_embeddings(torch.zeros(batch, 1, dtype=torch.long, device=frames.device))
        words = torch.cat([token, self.project(frames)], dim=1)
        pooled: Tensor = self.bert(inputs_embeds=words).pooler_output
        return pooled
