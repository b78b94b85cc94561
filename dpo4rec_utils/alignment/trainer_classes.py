"""trl's trainers on our rows of token ids: prompts computed once, the reference kept, a margin that pays for length."""

import functools
from pathlib import Path

import numpy as np
from trl import DPOConfig, DPOTrainer, SFTTrainer

from dpo4rec_utils.alignment.packing import prefix_shared_forward
from dpo4rec_utils.files import atomic_path, read_arrays

REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")  # trl's columns


class TokenRows:
    """Takes rows of token ids as they are, the same that engines sample from.

    From strings trl would put a second BOS before a prompt whose chat template writes one, as Llama 3's does.
    """

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset


class StockDPOTrainer(TokenRows, DPOTrainer):
    """`DPOTrainer` on our rows, with a margin that pays for length.

    length_margin: alpha of R-DPO (Park et al., arXiv 2403.19159, eq. 9): alpha * (tokens of the chosen text - tokens of
    the rejected one) is added to the margin, so that a pair whose chosen text is longer pulls less. It is taken from
    the reference log-probabilities, which have to be computed beforehand; trl's logged rewards hold it, too.
    """

    def __init__(self, model, *, args: DPOConfig, length_margin: float = 0.0, **options):
        if length_margin and not args.precompute_ref_log_probs:
            raise ValueError("length_margin needs precompute_ref_log_probs=True")
        self.length_margin = length_margin
        super().__init__(model, args=args, **options)

    def _precompute_ref_logps(self, dataset, name, batch_size):
        """Kept beside the checkpoints: a training that is resumed does not compute them again."""
        path = Path(self.args.output_dir) / f"reference-{name}.npz"
        if path.exists():
            for column, values in read_arrays(path).items():
                dataset = dataset.add_column(column, values)
            return dataset
        dataset = super()._precompute_ref_logps(dataset, name, batch_size)
        with atomic_path(path) as temporary:
            np.savez(temporary, **{column: np.array(dataset[column], np.float32) for column in REFERENCE})
        return dataset

    def _compute_loss(self, model, inputs, return_outputs):
        if self.length_margin:
            chosen, rejected = inputs["completion_mask"].sum(dim=1).chunk(2)
            bonus = self.length_margin / self.beta
            lengths = zip(REFERENCE, (chosen, rejected), strict=True)
            inputs = inputs | {column: inputs[column] - bonus * tokens for column, tokens in lengths}
        return super()._compute_loss(model, inputs, return_outputs)


class PrefixSharedDPOTrainer(StockDPOTrainer):
    """`StockDPOTrainer` with every distinct prompt of a batch computed once; same losses, metrics and options.

    Needs `precompute_ref_log_probs=True`, and no truncation, which would cut chosen and rejected differently.
    """

    def __init__(self, model, *, args: DPOConfig, **options):
        if not args.precompute_ref_log_probs or args.max_length is not None:
            raise ValueError("PrefixSharedDPOTrainer needs precompute_ref_log_probs=True and max_length=None")
        super().__init__(model, args=args, **options)

    def _shared(self, model):
        return functools.partial(prefix_shared_forward, model, self._tokenizer.pad_token_id)

    def compute_ref_log_probs(self, model, inputs):
        return super().compute_ref_log_probs(self._shared(model), inputs)

    def _compute_loss(self, model, inputs, return_outputs):
        return super()._compute_loss(self._shared(model), inputs, return_outputs)


class PrefixSharedSFTTrainer(SFTTrainer):
    """`SFTTrainer` with every distinct prompt of a batch computed once and logits at completion positions only."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        shared = functools.partial(prefix_shared_forward, model, self.processing_class.pad_token_id)
        return super().compute_loss(shared, inputs, return_outputs, num_items_in_batch)
