"""Records of comparisons whose numbers are chosen, and not measured."""

from optimiz import compare


def run(optimizer, accuracy, losses=(2.0, 1.0, 0.5), *, rate=0.01, seed=0, validation=None, **changes):
    history = [{"step": i, "loss": loss, "gradient_norm": 1.0} for i, loss in enumerate(losses)]
    validation = accuracy if validation is None else validation
    history += [{"steps": len(losses), "evaluation": {"loss": 0.7, "accuracy": validation}}]
    fields = {
        "optimizer": optimizer,
        "learning_rate": rate,
        "seed": seed,
        "steps": len(losses),
        "diverged_at": None,
        "seconds": 1.5,
        "compile_seconds": 0.5,
        "forward_equivalents": 3.0 * len(losses),
        "reference_seconds": None,
        "budget": None,
        "state_bytes_per_parameter": 4.0,
        "temporary_bytes": 2_000_000,
        "versions": {"jax": "0.10.2"},
        "test": {"accuracy": accuracy, "mcc": accuracy, "loss": None if accuracy is None else 1 - accuracy},
        "history": history,
    }
    return compare.Run(**fields | changes)


def seeds(optimizer, *accuracies, **changes):
    return [run(optimizer, accuracy, seed=seed, **changes) for seed, accuracy in enumerate(accuracies)]


def record(*runs, baseline=0.7, test_examples=1000):
    return compare.Record(
        title="Fine-tuning a model",
        command="python -m examples.finetune_text",
        task={"data": "sentences", "test_examples": test_examples},
        settings={"steps": 3},
        baselines={
            "TF-IDF": {part: {"accuracy": baseline, "mcc": baseline} for part in ("validation", "test")}
        },
        test_examples=test_examples,
        runs=runs,
    )
