"""The paper's next check: accuracy against all tokens that went in, the full model's counted."""

from configs.experiments._base import experiment


def get_config(base: str = "quickstart"):
    return experiment(
        base,
        name="data_efficiency",
        title="Data efficiency",
        x="train steps",
        rows=(
            "75: train.steps=75",
            "150: train.steps=150",
            "300: train.steps=300",
            "600: train.steps=600",
            "1200: train.steps=1200",
            "2400: train.steps=2400",
            # From scratch as many tokens as the quickstart's full model and 600 steps behind it.
            "6100: train.steps=6100",
        ),
        systems=(
            "two_stage",
            "pruned_tuned",
            "scratch",
        ),
        measures=(
            "accuracy_by_tokens",
            "accuracy",
        ),
    )
