"""A paragraph for the methods of a paper, every number from the card, with the references that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from videomem.experiments.order_test.result import MemoryResult, OrderCard
from videomem.experiments.tables import p_value, percent, points
from videomem.statistics.results import Estimate

REFERENCES = {
    "Bell & McCaffrey 2002": "Bell, R. M., & McCaffrey, D. F. (2002). Bias reduction in standard errors for linear "
    "regression with multi-stage samples. Survey Methodology, 28(2), 169-181.",
    "Cameron et al. 2008": "Cameron, A. C., Gelbach, J. B., & Miller, D. L. (2008). Bootstrap-based improvements for "
    "inference with clustered errors. The Review of Economics and Statistics, 90(3), 414-427.",
    "Cameron et al. 2011": "Cameron, A. C., Gelbach, J. B., & Miller, D. L. (2011). Robust inference with multiway "
    "clustering. Journal of Business & Economic Statistics, 29(2), 238-249.",
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


def methods_paragraph(card: OrderCard) -> str:
    """Plain text to paste: what was done, what was found, and the references, only those that it names."""
    text = methods_text(card)
    return "\n\n".join([text, "References", "\n".join(used_references(text))])


def methods_text(card: OrderCard) -> str:
    """The paragraph without its references."""
    parts = [
        _data(card),
        _training(card),
        _arms(card),
        _uncertainty(card),
        *_tests(card),
        *_results(card),
        _provenance(card),
    ]
    return " ".join(" ".join(part.split()) for part in parts if part)


def used_references(text: str) -> list[str]:
    return [reference for name, reference in REFERENCES.items() if name in text]


def _data(card: OrderCard) -> str:
    data = card.data
    split = (
        f"each run tested on one of {_folds(card)}folds of the groups and trained on the others"
        if data.split == "random"
        else "in the catalog's own split, so that what is found is conditional on this training set"
    )
    failed = f" {_many(data.num_failed, 'clip')} could not be used and stood in no batch." if data.num_failed else ""
    straddling = (
        f" {_many(data.num_straddling, 'group')} had clips in training and in test." if data.num_straddling else ""
    )
    learners = [one.label for one in _learners(card)]
    return (
        f"We measured with videomem{_version(card)} whether the order of frames matters to "
        f"{_many(len(learners), 'learner')} ({_listed(learners)}) on {_short(data.catalog)}: "
        f"{_many(data.num_clips, 'clip')} in {_many(data.num_groups, 'group')} and "
        f"{_many(len(data.class_names), 'class', 'classes')}, {data.num_frames} frames per clip, each frame "
        f"represented by {data.feature_dim:,} frozen features ({data.features}), {split} "
        f"({data.num_train_clips:,} training and {data.num_test_clips:,} test clips a run; "
        f"{_many(data.num_test_groups, 'group')} tested in all).{straddling}{failed}"
    )


def _folds(card: OrderCard) -> str:
    """How many, where the plan says it."""
    settings = cast("dict[str, Any]", card.plan.get("settings") or {})
    return f"{settings['folds']} " if "folds" in settings else ""


def _short(path: str) -> str:
    """The catalog's name and its folder's: enough to know the data by, and nothing of the machine."""
    return "/".join(Path(path).parts[-2:])


_PROJECTIONS = {
    "pca": "the first principal components (at most {dim}) of the training frames, the same for all learners of a run",
    "learned": "{dim} dimensions by a linear layer of its own",
}


def _training(card: OrderCard) -> str:
    """How heads were trained, where the plan says it."""
    recipe, settings = (cast("dict[str, Any]", card.plan.get(name) or {}) for name in ("recipe", "settings"))
    if not recipe or not settings:
        return ""
    shown = _PROJECTIONS.get(str(settings["projection"]), "").format(dim=settings["projection_dim"])
    chosen = (
        "the epoch that was best on validation clips" if settings["selection"] == "validation" else "the last epoch"
    )
    return (
        f"{f'Frames were projected to {shown}. ' if shown else ''}"
        f"Every learner has a state of {settings['hidden_dim']} units and was trained by AdamW with learning rate "
        f"{recipe['learning_rate']:g}, weight decay {recipe['weight_decay']:g}, dropout {recipe['dropout']:g} and "
        f"batches of {recipe['batch_size']} for {_many(recipe['epochs'], 'epoch')}; {chosen} counted."
    )


def _arms(card: OrderCard) -> str:
    arms = ["with frames in order (O)", "with one fixed shuffle per clip (F)"]
    cells = {cell for one in card.memories for cell in one.cells}
    further = {"SS": "with frames reshuffled at every epoch (S)", "CC": "with one permutation common to all clips (C)",
               "WW": "with frames shuffled within windows (W)", "BB": "with blocks of frames shuffled (B)"}  # fmt: skip
    arms += [words for cell, words in further.items() if cell in cells]
    learners = "Each head" if card.noise_floor is None else "Each head but the control's (O and F only)"
    return (
        f"{learners} was trained in {_many(card.num_runs, 'run')} {_listed(arms)}, and tested in order (O) and "
        f"shuffled (S; mean over {_many(card.num_permutations, 'permutation')} per clip). The value of order is the "
        "accuracy of training and testing in order minus that of training on fixed shuffles and testing shuffled "
        f"(OO - FS); reliance is the loss of models trained in order when tested shuffled (OO - OS).{_control(card)}"
    )


def _control(card: OrderCard) -> str:
    if card.noise_floor is None:
        return ""
    floor = _effect(card.noise_floor)
    return f" The noise floor is OO - FS of a control without memory, trained again with another seed: {floor}."


def _uncertainty(card: OrderCard) -> str:
    overlap = (
        ", with the variance between runs inflated for overlapping training sets (Nadeau & Bengio 2003)"
        if card.data.split == "random" and card.num_runs > 1
        else ""
    )
    checked = any(one.value_of_order.boot_low is not None for one in card.memories)
    check = "; symmetric cluster bootstrap-t intervals served as a check (Cameron et al. 2008)" if checked else ""
    ways = "two-way, by groups and runs (Cameron et al. 2011)" if card.num_runs > 1 else "by groups"
    return (
        f"Standard errors are {ways}, with the CR2 correction "
        "(Bell & McCaffrey 2002) and Satterthwaite degrees of freedom (Pustejovsky & Tipton 2018)"
        f"{overlap}; intervals are of 95 %{check}."
    )


def _tests(card: OrderCard) -> list[str]:
    parts = []
    if any(one.p_holm is not None for one in card.memories):
        parts.append("p-values of the value of order are adjusted over learners (Holm 1979).")
    parts.append(
        f"A value of order within {percent(card.margin)} points counted as none, judged by two one-sided tests at the "
        f"5 % level (Schuirmann 1987); {_frozen(card)}."
    )
    draws = sorted({one.reliance_test.num_draws for one in card.memories if one.reliance_test})
    if draws:
        counts = _listed([f"{count:,}" for count in draws])
        parts.append(f"Reliance was tested by randomisation ({counts} draws; Phipson & Smyth 2010).")
    if any(one.classes for one in card.memories):
        parts.append("Gains of classes were partially pooled (Paule & Mandel 1982) and tested by sign flips of groups, "
                     "adjusted over classes (Holm 1979).")  # fmt: skip
    if any(one.chiral for one in card.memories):
        parts.append("Pairs of classes that time reversal exchanges were sought on one half of the groups and tested "
                     "on the other by the maximum statistic (Westfall & Young 1993).")  # fmt: skip
    if any(one.mcnemar_p is not None for one in card.memories):
        parts.append(
            "Where each group had one clip, McNemar's test compared clips in order and shuffled (McNemar 1947)."
        )
    return parts


def _frozen(card: OrderCard) -> str:
    if not card.num_trained_before:
        return "margin and plan were fixed before the first training"
    return f"{card.num_trained_before} of {card.num_trainings} trainings had been made for other plans before this one"


def _results(card: OrderCard) -> list[str]:
    return [_result(one) for one in _learners(card)]


def _result(one: MemoryResult) -> str:
    p = f", p {_equals(one.p_holm)}" if one.p_holm is not None else ""
    reliance = f"; reliance {_effect(one.reliance)}"
    if one.reliance_test:
        reliance += f", p {_equals(one.reliance_test.p)}"
    verdict = f" ({one.verdict.kind})" if one.verdict else ""
    return f"For {one.label}, the value of order was {_effect(one.value_of_order)}{p}{verdict}{reliance}."


def _provenance(card: OrderCard) -> str:
    seeds = _listed([str(seed) for seed in card.seeds])
    return f"Seeds: {seeds}; SHA-256 of the analysis plan: {card.plan_sha256}."


def _learners(card: OrderCard) -> list[MemoryResult]:
    return [one for one in card.memories if not one.is_control]


def _effect(estimate: Estimate) -> str:
    text = f"{points(estimate.value)} points"
    low, high = points(estimate.low), points(estimate.high)
    return text if "–" in low + high else f"{text} [{low}, {high}]"  # noqa: RUF001


def _equals(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _version(card: OrderCard) -> str:
    return f" {card.versions['videomem']}" if "videomem" in card.versions else ""


def _many(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"
