"""An LSTM language model (embedding, LSTM, linear head) as transformers classes, model type
`ratchet_lstm`.

Importing this module makes its checkpoints known to AutoConfig and AutoModelForCausalLM: no remote
code is involved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import create_recurrent_attention_mask
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
)
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils import can_return_tuple

MODEL_TYPE = "ratchet_lstm"


class LstmConfig(PreTrainedConfig):
    """Shape of the model. There is no longest sequence, so no `max_position_embeddings`."""

    model_type = MODEL_TYPE
    keys_to_ignore_at_inference = ("cache",)

    vocab_size: int = 256
    hidden_size: int = 256
    embedding_size: int | None = None
    """Of a token, at the input of the first LSTM layer; None: `hidden_size`."""
    num_hidden_layers: int = 2
    dropout: float = 0.0
    """Between LSTM layers, before the first and after the last; never from one time step to the
    next (1409.2329)."""
    initializer_range: float = 0.02
    """Standard deviation of embedding and head."""
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    tie_word_embeddings: bool = False


class LstmState(DynamicLayer):
    """The one layer of this model's `Cache`: the state of all LSTM layers after the last token.

    `keys` is the hidden and `values` the cell state, both (batch, num_layers, hidden_size).
    """

    # With the batch first, transformers' own methods repeat, select and reorder the rows.

    is_croppable = False

    def __init__(self) -> None:
        super().__init__()
        self.cumulative_length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, num_tokens: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Replace the state by the one `num_tokens` later."""
        self.keys = key_states
        self.values = value_states
        self.is_initialized = True
        self.dtype = key_states.dtype
        self.device = key_states.device
        self.cumulative_length += num_tokens
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Return the tokens seen, padding included."""
        return int(self.cumulative_length)

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: a recurrent state cannot unsee a token."""
        raise NotImplementedError("the state of an LSTM cannot be cropped")


class LstmPreTrainedModel(PreTrainedModel):
    """Base of the two classes below."""

    config_class = LstmConfig
    base_model_prefix = "model"
    _is_stateful = True
    # There is no attention: whichever implementation is asked for will do.
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module; the forget gates of an LSTM begin open."""
        super()._init_weights(module)
        if not isinstance(module, nn.LSTM):
            return
        for name, bias in module.named_parameters():
            if name.startswith("bias_ih"):
                # A bias of 1 lets the state last until training says otherwise (Jozefowicz et al.,
                # ICML 2015). torch lays out the gates as input, forget, cell, output.
                values = torch.zeros_like(bias)
                values[module.hidden_size : 2 * module.hidden_size] = 1.0
                init.copy_(bias, values)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Return False, so that `generate` leaves the cache to `forward`."""
        # The default cache would hold keys and values per token.
        return False


class LstmModel(LstmPreTrainedModel):
    """Embedding and LSTM layers."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        layers = config.num_hidden_layers
        embedding_size = config.embedding_size or config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(
            embedding_size,
            config.hidden_size,
            layers,
            batch_first=True,
            dropout=config.dropout if layers > 1 else 0.0,
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: object,
    ) -> BaseModelOutputWithPast:
        """Return hidden states (batch, length, hidden_size) and the state behind them.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length so far). Masked positions leave a row's state as it was,
                and their hidden states are zero.
            cache: the state before the first of `input_ids`; None: a fresh one.
            inputs_embeds: (batch, length, embedding_size), instead of `input_ids`.
            use_cache: return the state; None: as the config says.
            kwargs: ignored, such as position ids, which other models take.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        inputs = self.dropout(
            self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        )
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if cache is None:
            cache = Cache(layers=[LstmState()])
        memory = cache.layers[0]
        state = None
        if memory.is_initialized:
            state = (
                memory.keys.transpose(0, 1).contiguous(),
                memory.values.transpose(0, 1).contiguous(),
            )
        mask = create_recurrent_attention_mask(
            self.config, inputs, attention_mask, cache
        )
        if mask is None:
            outputs, (hidden, cell) = self.lstm(inputs, state)
        else:
            outputs, (hidden, cell) = _masked(self.lstm, inputs, state, mask)
        if use_cache:
            hidden = hidden.transpose(0, 1)
            cell = cell.transpose(0, 1)
            memory.update(hidden, cell, num_tokens=inputs.shape[1])
        return BaseModelOutputWithPast(
            last_hidden_state=self.dropout(outputs),
            cache=cache if use_cache else None,
        )


def _masked(
    lstm: nn.LSTM, inputs: Tensor, state: tuple[Tensor, Tensor] | None, mask: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run `lstm` over the real tokens of each row alone, wherever its padding is."""
    batch, length, embedding_size = inputs.shape
    if state is None:
        zeros = inputs.new_zeros(lstm.num_layers, batch, lstm.hidden_size)
        state = (zeros, zeros)
    counts = mask.long().sum(dim=1)
    # The real tokens of a row first, in their order.
    positions = mask.long().argsort(dim=1, descending=True, stable=True)
    positions = positions.unsqueeze(-1)
    # A packed row has at least one token; a row of padding only takes its old state back below.
    packed_inputs = nn.utils.rnn.pack_padded_sequence(
        inputs.gather(1, positions.expand(-1, -1, embedding_size)),
        counts.clamp(min=1).cpu(),
        batch_first=True,
        enforce_sorted=False,
    )
    packed_outputs, (new_hidden, new_cell) = lstm(packed_inputs, state)
    ordered_outputs, _ = nn.utils.rnn.pad_packed_sequence(
        packed_outputs, batch_first=True, total_length=length
    )
    outputs = torch.zeros_like(ordered_outputs).scatter(
        1, positions.expand(-1, -1, lstm.hidden_size), ordered_outputs
    )
    outputs = outputs * mask[..., None].to(outputs.dtype)
    has_tokens = (counts > 0)[:, None]
    old_hidden, old_cell = state
    hidden = torch.where(has_tokens, new_hidden, old_hidden.to(new_hidden.dtype))
    cell = torch.where(has_tokens, new_cell, old_cell.to(new_cell.dtype))
    return outputs, (hidden, cell)


class LstmForCausalLM(LstmPreTrainedModel, GenerationMixin):
    """`LstmModel` with a linear head."""

    # transformers reads a plain dict here.
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: LstmConfig) -> None:
        super().__init__(config)
        self.model = LstmModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: object,
    ) -> CausalLMOutputWithPast:
        """Return the logits of the last `logits_to_keep` positions (0: of all).

        With `labels` also their mean loss. The other arguments are those of `LstmModel`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        logits = self.lm_head(
            slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        )
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.vocab_size,
                **kwargs,
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, cache=outputs.cache)


AutoConfig.register(MODEL_TYPE, LstmConfig)
AutoModelForCausalLM.register(LstmConfig, LstmForCausalLM)
