"""What an order test logs to Weights & Biases: a run of the whole test, and a run of each head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from videomem.experiments import permutations
from videomem.experiments.order_test.analysis import accuracies_by_run
from videomem.experiments.order_test.answers import result_summary
from videomem.experiments.order_test.jobs import TrainingJob
from videomem.experiments.order_test.order_tables import result_tables
from videomem.experiments.order_test.plan import OrderPlan
from videomem.experiments.order_test.run import OrderTest
from videomem.tracking import (
    MemoryRun,
    Run,
    Tracking,
    data_artifact,
    log_report,
    log_result,
    log_strips,
    track_memories,
    use_artifact,
    without_paths,
)
from videomem.training.data_module import VideoDataModule


def track_results(
    tested: OrderTest,
    data: VideoDataModule,
    out: Path,
    run: Run,
    figures: Mapping[str, Path],
    strips: Sequence[tuple[Path, str]],
) -> None:
    """Logs the result of the whole test to its W&B run."""
    # Paths of failed clips and of head configs are not in the tables of W&B.
    result = replace(tested.result, plan=without_paths(tested.result.plan), failures=())
    if not run.disabled:
        use_artifact(run, data_artifact(run, data))
    log_result(run, "order", result_tables(result), figures, result_summary(result))
    log_strips(run, "order", strips)
    log_report(run, "order", out, ("order.json", "report.html", "methods.txt"))


def group_of(plan: OrderPlan) -> str:
    """Returns the W&B group of the runs of an order test."""
    return f"order-{plan.sha256[:8]}"


def numbers_of(job: TrainingJob, accuracies: Mapping[str, float]) -> dict[str, float]:
    """Returns the accuracies of a finished training that are logged at once, by head, training and test condition."""
    head = job.name if job.analysis == "primary" else f"{job.name} {job.analysis}"
    tested = {"ordered": "ordered", "shuffled": permutations.SHUFFLE.label}
    return {f"{head}/{job.condition}/{name}": accuracies[one] for name, one in tested.items() if one in accuracies}


def track_heads(tested: OrderTest, out: Path, tracking: Tracking) -> None:
    """Logs a W&B run for each head, so that heads can be compared."""
    result, plan, memories = tested.result, tested.scores.plan, []
    for one in result.heads:
        config = {
            "head": plan.heads[one.name],
            "training_conditions": plan.settings.training_conditions,
            "recipe": asdict(plan.recipe),
            "label": one.label,
            "num_parameters": one.num_parameters,
            "plan": result.plan_sha256,
        }
        own = {pair: accuracy.value for pair, accuracy in one.accuracies.items()}
        own |= {"value_of_order": one.value_of_order.value, "reliance": one.reliance.value if one.reliance else 0.0}
        memories.append(MemoryRun(one.name, config, own, accuracies_by_run(one.name, tested.scores)))
    track_memories(tracking, out, group_of(plan), memories)
