"""The model: a small GPT in plain PyTorch, nothing in it that knows how it will be run.

Axes: B = sequences, T = tokens, D = width, V = vocabulary, H = heads, E = width of a head.
Sources: RMSNorm, Zhang & Sennrich 2019; rotary positions, Su et al. 2021; SwiGLU, Shazeer 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from cupel.protocol.errors import UsageError

Weights = dict[str, torch.Tensor]
"""Parameter name → float32 tensor, in the order the model registers them."""


MAX_LAYERS = 1 << 10
MAX_SIZE = 1 << 24
"""Beyond any model in sight; a configuration read from a file cannot ask for more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shapes of a GPT; everything a run must know to build its Programs."""

    vocabulary: int
    """Token ids are below this."""
    width: int
    """Size of a token's vector; a multiple of `heads`."""
    layers: int
    heads: int
    """Attention heads; width / heads is even, because rotary positions turn pairs."""
    hidden: int
    """Inner size of the SwiGLU layers."""
    context: int
    """Tokens a sequence has in training, and the most the model reads when it writes."""
    tied: bool = True
    """Whether the head that gives logits is the embedding itself."""
    rope_base: float = 10000.0
    """Longest rotary wavelength over 2 pi, in tokens."""
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "hidden", "context"):
            most = MAX_LAYERS if name == "layers" else MAX_SIZE
            if not 1 <= getattr(self, name) <= most:
                raise UsageError(f"model.{name} is {getattr(self, name)}; it is from 1 to {most}")
        if self.width % (2 * self.heads):
            raise UsageError(f"model.width {self.width} is no multiple of 2 x {self.heads} heads")
        if not (1 < self.rope_base < math.inf and 0 < self.norm_epsilon < math.inf):
            raise UsageError("model.rope_base is above 1 and model.norm_epsilon above 0, both finite")

    @staticmethod
    def demo() -> ModelConfig:
        """Trains on two cores in minutes."""
        return ModelConfig(vocabulary=512, width=96, layers=3, heads=4, hidden=256, context=64)

    @staticmethod
    def tiny() -> ModelConfig:
        """Learns next to nothing, in milliseconds a step: for tests of everything around it."""
        return ModelConfig(vocabulary=260, width=16, layers=1, heads=2, hidden=32, context=16)


def rotary_tables(context: int, size: int, base: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(cos, sin) of position x base^(-2 i / size), each [T, E/2]."""
    exponents = torch.arange(size // 2, dtype=torch.float32) * (-2.0 * math.log(base) / size)
    angles = torch.arange(context, dtype=torch.float32)[:, None] * torch.exp(exponents)
    return torch.cos(angles), torch.sin(angles)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (i, i + E/2) of x[..., T, E] by their position's angles."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        result: torch.Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return result


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return result


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.feed_forward = FeedForward(config)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        result: torch.Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return result


class GPT(nn.Module):
    """tokens[B, T] → logits[B, T, V]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # Drawing it at random on the meta device would import PyTorch's compiler, a second of every start.
        drawn_nowhere = torch.empty(config.vocabulary, config.width)
        self.embedding = nn.Embedding(config.vocabulary, config.width, _weight=drawn_nowhere)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_epsilon)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary, bias=False)

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T] → [B, T, D], normalised: what the head reads."""
        config = self.config
        cos, sin = rotary_tables(tokens.shape[1], config.width // config.heads, config.rope_base)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, cos, sin)
        result: torch.Tensor = self.norm(x)
        return result

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.embedding.weight if self.head is None else self.head.weight)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits(self.hidden(tokens))


class _LogitsAt(nn.Module):
    """The logits at one position: the head is not spent on the others."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        hidden = self.gpt.hidden(tokens).index_select(1, position.reshape(1))
        return self.gpt.logits(hidden)[:, 0]


def build(config: ModelConfig) -> GPT:
    """The module without memory for its weights, which always come as arguments."""
    with torch.device("meta"):
        return GPT(config)


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, in order."""
    return {name: tuple(weight.shape) for name, weight in build(config).named_parameters()}


def compute_logits(gpt: GPT, weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """tokens[B, T] → logits[B, T, V]."""
    logits: torch.Tensor = functional_call(gpt, weights, (tokens.long(),), strict=True)
    return logits


def compute_logits_at(gpt: GPT, weights: Weights, tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """tokens[B, T], position int64 scalar → logits[B, V] there. Tokens after it cannot change a bit."""
    prefixed = {f"gpt.{name}": weight for name, weight in weights.items()}
    logits: torch.Tensor = functional_call(_LogitsAt(gpt), prefixed, (tokens.long(), position), strict=True)
    return logits


def compute_loss(gpt: GPT, weights: Weights, tokens: torch.Tensor) -> torch.Tensor:
    """tokens[B, T + 1] → mean cross-entropy of each next token, nats, float32 scalar."""
    logits = compute_logits(gpt, weights, tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].long().flatten())
