"""How well the trained model's implicit reward orders pairs of prompts that were held out."""

from prefine.config import RunConfig
from prefine.metrics.rewards import longer_is_better, reward_accuracy
from prefine.models.base import Sampler
from prefine.models.folders import load_model
from prefine.models.hf import HfModel
from prefine.records import MetricValue
from prefine.stages.training_inputs import read_examples, trainable
from prefine.store.folder import RunFolder
from prefine.store.rows import pair_of
from prefine.store.tables import parts, read_part
from prefine.training.logprobs import SideLogps
from prefine.training.objective import PairTable
from prefine.training.reference import score_sides


def reward_metrics(config: RunConfig, folder: RunFolder, trained: Sampler) -> list[MetricValue]:
    """Reward accuracy (share of held-out pairs with a positive margin), beside that of preferring the longer answer.

    The margin is the difference of log-ratios to the reference, whatever score the loss optimised. Intervals are
    bootstraps over prompts.
    """
    assert isinstance(trained, HfModel), "train made it"
    settings = config.train
    reference = trainable(config.policy, where="policy")
    if settings.reference != "initial":
        reference = trainable(settings.reference, where="train.reference")
    table = folder / "heldout_pairs"
    examples = read_examples(table, trained, config).examples
    pairs = {pair.id: pair for path in parts(table) for row in read_part(path) if (pair := pair_of(row))}
    kept = [pairs[example.id] for example in examples]

    def sides(model: HfModel) -> SideLogps:
        loaded = load_model(model.path, dtype=settings.dtype, device=model.device)
        return score_sides(loaded, examples, micro_batch_pairs=settings.micro_batch_pairs, dtype=settings.dtype)

    values = sides(reference)
    logps = PairTable.of(examples, initial=values, reference=values).join(
        sides(trained), pairs_in_step=len(examples), chosen_tokens_in_step=sum(len(e.chosen_ids) for e in examples)
    )
    ids = [pair.prompt.id for pair in kept]
    bootstrap = {"samples": config.evaluate.bootstrap_samples, "seed": config.evaluate.seed}
    return [
        reward_accuracy(logps.margin.tolist(), ids, **bootstrap),
        longer_is_better([len(p.chosen.text) for p in kept], [len(p.rejected.text) for p in kept], ids, **bootstrap),
    ]
