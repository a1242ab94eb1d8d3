"""A methods paragraph for a paper, with all numbers from the result, and the references that it cites."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from videomem.experiments.clips import MAX_FRAMES
from videomem.experiments.order_test.plan import CONDITIONS, TRAINING_CONDITIONS, spelled_out
from videomem.experiments.order_test.result import HeadResult, OrderTestResult
from videomem.experiments.tables import NOTHING, percent, points
from videomem.heads import MEMORIES
from videomem.heads.head import MAX_DEVIATIONS
from videomem.statistics.results import Estimate
from videomem.training.lit_classifier import adamw
from videomem.utils.text import p_text

REFERENCES = {
    "Bell & McCaffrey 2002": "Bell, R. M., & McCaffrey, D. F. (2002). Bias reduction in standard errors for linear "
    "regression with multi-stage samples. Survey Methodology, 28(2), 169-181.",
    "Cameron et al. 2011": "Cameron, A. C., Gelbach, J. B., & Miller, D. L. (2011). Robust inference with multiway "
    "clustering. Journal of Business & Economic Statistics, 29(2), 238-249.",
    "Gelman 2006": "Gelman, A. (2006). Prior distributions for variance parameters in hierarchical models. Bayesian "
    "Analysis, 1(3), 515-534.",
    "Holm 1979": "Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of "
    "Statistics, 6(2), 65-70.",
    "McNemar 1947": "McNemar, Q. (1947). Note on the sampling error of the difference between correlated proportions "
    "or percentages. Psychometrika, 12(2), 153-157.",
    "Nadeau & Bengio 2003": "Nadeau, C., & Bengio, Y. (2003). Inference for the generalization error. Machine "
    "Learning, 52(3), 239-281.",
    "Paule & Mandel 1982": "Paule, R. C., & Mandel, J. (1982). Consensus values and weighting factors. Journal of "
    "Research of the National Bureau of Standards, 87(5), 377-385.",
    "Phipson & Smyth 2010": "Phipson, B., & Smyth, G. K. (2010). Permutation P-values should never be zero: "
    "calculating exact P-values when permutations are randomly drawn. Statistical Applications in Genetics and "
    "Molecular Biology, 9(1), Article 39.",
    "Pustejovsky & Tipton 2018": "Pustejovsky, J. E., & Tipton, E. (2018). Small-sample methods for cluster-robust "
    "variance estimation and hypothesis testing in fixed effects models. Journal of Business & Economic Statistics, "
    "36(4), 672-683.",
    "Schuirmann 1987": "Schuirmann, D. J. (1987). A comparison of the two one-sided tests procedure and the power "
    "approach for assessing the equivalence of average bioavailability. Journal of Pharmacokinetics and "
    "Biopharmaceutics, 15(6), 657-680.",
    "Westfall & Young 1993": "Westfall, P. H., & Young, S. S. (1993). Resampling-Based Multiple Testing: Examples and "
    "Methods for p-Value Adjustment. Wiley.",
}


def methods_paragraph(result: OrderTestResult) -> str:
    """Plain text: what was done, what was found, and the references that the text cites."""
    text = methods_text(result)
    return "\n\n".join([text, "References", "\n".join(used_references(text))])


def methods_text(result: OrderTestResult) -> str:
    """The paragraph without its references."""
    learners = [one for one in result.heads if not one.is_order_blind]
    seeds = _listed([str(seed) for seed in result.seeds])
    provenance = f"Seeds: {seeds}; SHA-256 of the analysis plan: {result.plan_sha256}."
    methods = [*_data(result, learners), *_training(result), *_statistics(result)]
    sentences = [*(sentence for applies, sentence in methods if applies), *map(_finding, learners)]
    sentences += [f"{result.verdict.sentence}.", provenance]
    return " ".join(" ".join(sentence.split()) for sentence in sentences)


def used_references(text: str) -> list[str]:
    """The references that a text cites."""
    return [reference for name, reference in REFERENCES.items() if name in text]


Sentences = list[tuple[object, str]]  # each with a value that is true if it applies


def _data(result: OrderTestResult, learners: list[HeadResult]) -> Sentences:
    data, settings = result.data, result.plan.get("settings") or {}
    version = f" {result.versions['videomem']}" if "videomem" in result.versions else ""
    fold = f"one of {settings['folds']} folds" if "folds" in settings else "one fold"
    split = (
        f"Each run tested {fold} of the groups and trained on the others"
        if data.split == "random"
        else "Runs used the catalog's own split, so results are conditional on this training set"
    )
    return [
        (True, f"We measured with videomem{version} whether frame order matters to "
         f"{_count(len(learners), 'learner')} ({_listed([one.label for one in learners])}) on {data.catalog}: "
         f"{_count(data.num_clips, 'clip')} in {_count(data.num_groups, 'group')} and "
         f"{_count(len(data.class_names), 'class', 'classes')}, {data.num_frames} frames per clip, "
         f"{data.feature_dim:,} features per frame from a frozen encoder ({data.features})."),
        (True, f"{split} ({data.num_train_clips:,} training and {data.num_test_clips:,} test clips per run; "
         f"{_count(data.num_test_groups, 'group')} tested in total)."),
        (data.num_straddling, f"{_count(data.num_straddling, 'group')} had clips in both training and test."),
        (data.num_failed, f"{_count(data.num_failed, 'clip')} could not be used."),
    ]  # fmt: skip


_PROJECTIONS = {
    "pca": f"Standardized frames were projected to the first principal components (at most {{dim}}) of at most "
    f"{MAX_FRAMES:,} training frames, the same for all learners of a run; the components were standardized and clamped "
    "in the same way, and so were whitened.",
    "learned": "Each learner projected standardized frames to {dim} dimensions by a learned linear layer.",
    "none": "",
}
# How forget gates are initialized, by class of the memory; {bias} is the initial bias.
_FORGET_GATES = {
    "LSTM": "the forget gate of the LSTM had the initial bias {bias} (input bias {bias}, recurrent bias 0)",
    "GRU": "the update gate of the GRU, which in torch multiplies the previous state, had the initial bias {bias} "
    "(input bias {bias}, recurrent bias 0)",
    "Gated": "the forget gate of the gated memory had the initial bias {bias}",
    "MinGRU": "the update gate of the minGRU had the initial bias {bias} with the sign that keeps the state",
    "MinLSTM": "the forget gate of the minLSTM had the initial bias {bias} and its input gate the negative of it",
}


def _training(result: OrderTestResult) -> Sentences:
    recipe, settings, sentences = result.plan.get("recipe"), result.plan.get("settings"), []
    if recipe and settings:
        projection = _PROJECTIONS[settings["projection"]].format(dim=settings["projection_dim"])
        sentences = [
            (True, "Features were standardized by the mean and the standard deviation of all training frames and "
             f"clamped to ±{MAX_DEVIATIONS:g}; features that are constant in training were set to "
             "0."),
            (projection, projection),
            *_architecture(result.plan.get("heads") or {}, recipe, settings),
            *_optimization(recipe, settings),
        ]  # fmt: skip
    measured = {pair.split("/")[0] for one in result.heads for pair in one.accuracies}
    trained = [f"{spelled_out(name)} ({CONDITIONS[name].training})" for name in TRAINING_CONDITIONS if name in measured]
    floor = result.noise_floor
    return [
        *sentences,
        (True, f"Training conditions were {_listed(trained)}, {_count(result.num_runs, 'run')} each. The value of "
         "order is the accuracy trained and tested in order, minus the accuracy trained on one fixed permutation per "
         f"clip and tested on {_count(result.num_permutations, 'random permutation')} of each test clip; reliance is "
         "the accuracy in order minus that of the same models on permuted frames."),
        (floor, "Order-blind heads were trained in the first two conditions only, with another seed in the second; the "
         f"difference of the first one, the effect of retraining, was {_effect(floor) if floor else NOTHING}."),
        (result.metric == "balanced", "Accuracies are balanced: means over classes of the accuracy on the clips of the "
         "class."),
        (result.information, "The information in frame order is the accuracy of the best ordered learner minus that of "
         "the best order-blind learner (order-blind heads, and heads trained on permuted frames and tested on shuffled "
         "frames), both chosen for each run by their accuracy on groups that the run does not test."),
    ]  # fmt: skip


def _architecture(heads: dict[str, Any], recipe: dict[str, Any], settings: dict[str, Any]) -> Sentences:
    memories = {_short(head["memory"]): head["memory"]["init_args"] for head in heads.values()}
    readouts = {_short(head["readout"]) for head in heads.values()}
    others = ", except for learners whose name states another readout" if readouts != {"MeanReadout"} else ""
    gates = [
        text.format(bias=_initial_forget_bias(name, memories[name]))
        for name, text in _FORGET_GATES.items()
        if name in memories
    ]
    return [
        (True, f"Each learner had {_count(recipe['num_layers'], 'layer')} with a state of {settings['hidden_dim']} "
         "units, initially 0. A linear layer classified tanh(h) of the last layer (the state h itself for GRU and "
         f"LSTM) at each frame, and the logits of a clip were averaged over its frames{others}."),
        (True, "Weights and biases of linear layers were initialized uniformly within 1 / sqrt(number of inputs), and "
         "those of GRU and LSTM within 1 / sqrt(number of units), which are the defaults of torch.nn."),
        ("RNN" in memories, "The recurrent matrix of the vanilla network was initially orthogonal."),
        (gates, f"Other than by default, {_listed(gates)}."),
    ]  # fmt: skip


def _short(part: dict[str, Any]) -> str:
    return str(part["class_path"]).rsplit(".", 1)[-1]


def _initial_forget_bias(memory: str, arguments: dict[str, Any]) -> str:
    defaults = {name: value.default for name, value in inspect.signature(MEMORIES[memory]).parameters.items()}
    bias, longest = (arguments.get(name, defaults[name]) for name in ("forget_bias", "max_time_frames"))
    return f"log(t), with t uniform in 1 to {longest - 1}," if bias == "chrono" else f"{bias:g}"


def _optimization(recipe: dict[str, Any], settings: dict[str, Any]) -> Sentences:
    defaults = adamw([nn.Parameter(torch.zeros(1))], recipe["learning_rate"], recipe["weight_decay"]).defaults
    first, second = defaults["betas"]
    clipping = recipe["gradient_clip_val"]
    norm = f"The norm of the gradient of a learner was limited to {clipping:g}." if clipping else ""
    selected = "the best epoch on validation clips" if settings["selection"] == "validation" else "the last epoch"
    weighted = recipe["class_weighting"] == "balanced"
    return [
        (True, f"Training minimized the mean{' weighted' if weighted else ''} cross-entropy of a batch by AdamW with "
         f"the constant learning rate {recipe['learning_rate']:g}, betas {first:g} and {second:g}, epsilon "
         f"{defaults['eps']:g}, and weight decay {recipe['weight_decay']:g} of weight matrices but not of biases."),
        (weighted, "The loss of a clip was weighted by the inverse frequency of its class."),
        (recipe["balanced_sampling"], "Training clips were drawn with replacement so that classes were equally "
         "frequent."),
        (norm, norm),
        (recipe["dropout"], f"Dropout {recipe['dropout']:g} was applied to the standardized input and to the output of "
         "each layer, with one mask for all frames of a clip and the remaining values scaled by "
         f"{1 / (1 - recipe['dropout']):.3g}."),
        (True, f"Batches had {recipe['batch_size']} clips (the last of an epoch had the rest), in a new random order "
         f"in each of {_count(recipe['epochs'], 'epoch')}; we tested {selected}."),
    ]  # fmt: skip


def _statistics(result: OrderTestResult) -> Sentences:
    heads, many = result.heads, result.num_runs > 1
    ways = "two-way, by groups and runs (Cameron et al. 2011)" if many else "by groups"
    overlap = spread = ""
    if many:
        spread = ", averaged over the posterior of the spread of runs with a half-normal prior (Gelman 2006)"
    if many and result.data.split == "random":
        overlap = ", with the variance between runs inflated for overlapping training sets (Nadeau & Bengio 2003)"
    num_learners = sum(not one.is_order_blind for one in heads)
    draws = sorted({one.reliance_test.num_draws for one in heads if one.reliance_test})
    frozen = "margin and plan were fixed before the first training"
    share = ""
    if result.margin_share is not None:
        share = f", {percent(result.margin_share)} % of what the best head gains over a constant answer,"
        frozen = "the plan was fixed before the first training"
    if result.num_trained_before:
        before = f"{result.num_trained_before} of {result.num_trainings} trainings"
        frozen = f"{before} had been made for other plans before this plan was fixed"
    return [
        (True, f"Standard errors are {ways}, with the CR2 correction (Bell & McCaffrey 2002) and Satterthwaite degrees "
         f"of freedom (Pustejovsky & Tipton 2018){overlap}; intervals are 95 % intervals{spread}."),
        (num_learners > 1, f"Intervals and p-values of the value of order hold for {num_learners} learners together "
         "(Bonferroni)."),
        (True, f"Differences within {percent(result.margin)} points{share} are negligible, tested by one-sided tests "
         f"at the 5 % level (Schuirmann 1987); {frozen}."),
        (draws, f"Reliance was tested by randomization ({_listed([f'{count:,}' for count in draws])} draws; Phipson & "
         "Smyth 2010)."),
        (any(one.classes for one in heads), "Gains of classes were partially pooled (Paule & Mandel 1982) and "
         "tested by flipping the signs of whole groups, adjusted over classes (Holm 1979)."),
        (any(one.chiral for one in heads), "Pairs of classes that time reversal exchanges were found on one half of "
         "the groups and tested on the other by the maximum statistic (Westfall & Young 1993)."),
        (any(one.mcnemar_p is not None for one in heads), "Each group had one clip, so McNemar's test compared "
         "clips in order and shuffled (McNemar 1947)."),
    ]  # fmt: skip


def _finding(one: HeadResult) -> str:
    p = "" if one.is_order_blind else f", {p_text(one.value_of_order.p)}"
    verdict = f" ({one.verdict.kind})" if one.verdict else ""
    relies = "0 by construction" if one.reliance is None else _effect(one.reliance)
    relies += f", {p_text(one.reliance_test.p)}" if one.reliance_test else ""
    return f"For {one.label}, the value of order was {_effect(one.value_of_order)}{p}{verdict}; reliance was {relies}."


def _effect(estimate: Estimate) -> str:
    text = f"{points(estimate.value)} points"
    low, high = points(estimate.low), points(estimate.high)
    return text if NOTHING in low + high else f"{text} [{low}, {high}]"


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"
