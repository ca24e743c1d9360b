"""The parts of the first hour and their questions, the most valuable first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.hour import answers
from benchmarks.hour.steps import Step
from megabert.common.names import TOKENIZER_FOLDER

HOUR = "benchmarks/hour"


@dataclass(frozen=True)
class Plan:
    """What the questions are asked of.

    Args:
        shards: folder of shards.
        small: the smallest sizes, on any machine.
        write_golden: record this device's losses.
        squad: a training file in SQuAD's format, for the part about fine-tuning.
    """

    shards: Path
    small: bool = False
    write_golden: bool = False
    squad: Path | None = None


def machine() -> Step:
    """Asked in every call."""
    return Step(
        "machine", "What is it measured on?", [f"{HOUR}/machine.py"], 60, answers.machine
    )  # fmt: skip


def correctness(plan: Plan) -> list[Step]:
    """Part 1."""
    tests = ["--interpreted"] if plan.small else []
    golden = ["--write-golden"] if plan.write_golden else []
    return [
        Step(
            "kernels",
            "Do the GPU's kernels compute what the reference operators compute?",
            [f"{HOUR}/kernel_tests.py", *tests],
            330,
            answers.kernel_tests,
        ),
        Step(
            "losses",
            "Do 20 updates give the losses of a CPU, and those recorded?",
            [f"{HOUR}/golden.py", *golden],
            200,
            answers.losses,
        ),
    ]


def against_plan(plan: Plan, name: str, model: str, phases: str, precision: str) -> Step:
    """Whole runs, profiled, next to the planner's forecast."""
    sizes = ["--profile", "2"]
    if plan.small:
        model, precision = f"{model.partition('-')[0]}-tiny", "fp32"
        sizes = ["--profile", "1", "--update-tokens", "1024", "--updates", "8"]
    return Step(
        name,
        f"{model}, phase {phases.replace(',', ' and ')}, {precision}: MFU, idle GPU, memory and time "
        "compared with the plan?",
        [
            "benchmarks/plan_run.py", str(plan.shards), "--model", model, "--phases", phases,
            "--precisions", precision, *sizes,
        ],
        260,
        answers.plan,
    )  # fmt: skip


def whole_runs(plan: Plan) -> list[Step]:
    """Part 2."""
    rounds = ["--rounds", "3"] if plan.small else []
    host = Step(
        "host",
        "What does an update of 24 layers cost this machine's host alone?",
        ["benchmarks/host_time.py", "--layers", "24", *rounds],
        90,
        answers.host,
    )
    phases = [
        against_plan(plan, f"phase{phase}", "bert-large", phase, "bf16") for phase in ("1", "2")
    ]
    return [*phases, host]


def undone(plan: Plan) -> list[Step]:
    """Part 3; the second set is for a second call."""
    small = ["--model", "bert-tiny", "--precision", "fp32", "--update-tokens", "1024"]
    sizes = small if plan.small else []

    def step(name: str, which: str, question: str) -> Step:
        command = [f"{HOUR}/switches.py", str(plan.shards), "--set", which, *sizes]
        return Step(name, question, command, 530, answers.switches)

    return [
        step("switches", "main", "What does each choice for GPUs give, undone one by one?"),
        step("settings", "more", "What do other settings of the same run cost or give?"),
    ]


def kernels_against_others(plan: Plan) -> list[Step]:
    """Part 4."""
    model, rounds = ("bert-tiny", "2") if plan.small else ("bert-large", "10")
    lengths = ["--lengths", "16,32", "--tokens", "256", "--rounds", "2"] if plan.small else []
    return [
        Step(
            "optimizer",
            "How far is LAMB from the floor of bytes, and from apex and DeepSpeed?",
            ["benchmarks/lamb.py", "--models", model, "--rounds", rounds],
            120,
            answers.optimizer,
        ),
        Step(
            "attention",
            "Which attention is fastest at which length, for BERT and for NEZHA?",
            [f"{HOUR}/attention.py", *lengths],
            300,
            answers.attention,
        ),
    ]


def guarantees(plan: Plan) -> list[Step]:
    """Part 5."""
    shards, small = str(plan.shards), plan.small
    tiny = ["--model", "bert-tiny", "--precision", "fp32", "--global-batch-size", "16"]
    two = ["--model", "bert-tiny", "--precisions", "fp32", "--global-batch-size", "8"]
    model, samples = ("bert-tiny", "2") if small else ("bert-large", "128")
    precisions = "bf16,fp8"
    return [
        Step(
            "resume",
            "Does a run that was killed continue bit for bit?",
            [f"{HOUR}/resume.py", shards, *(tiny if small else [])],
            200,
            answers.resume,
        ),
        Step(
            "two-ranks",
            "Does tensor parallelism of two ranks on this device train like one rank?",
            [f"{HOUR}/two_ranks.py", shards, *(two if small else [])],
            150,
            answers.two_ranks,
        ),
        Step(
            "fp8",
            "What does fp8 (E4M3) give over bf16 in forward and backward?",
            [
                "benchmarks/step.py", shards, "--models", model, "--lengths", "128,512",
                "--precisions", precisions, "--micro-batch-size", samples, "--rounds",
                "2" if small else "8", "--peers", "none",
            ],
            150,
            answers.steps,
        ),
        against_plan(plan, "nezha", "nezha-large", "1,2", "bf16"),
    ]  # fmt: skip


def against_others(plan: Plan) -> list[Step]:
    """Part 6."""
    shards, small = str(plan.shards), plan.small
    names, one = ("bert-tiny", "bert-tiny") if small else ("bert-base,bert-large", "bert-base")
    precision = "fp32" if small else "bf16"
    peers = ["--peers", "transformers,plain"] if small else []
    few = "2" if small else "10"

    def step(phase: str, length: str, samples: str) -> Step:
        return Step(
            f"step-phase{phase}",
            f"Forward and backward of {length} tokens compared with transformers and plain torch?",
            [
                "benchmarks/step.py", shards, "--models", names, "--lengths", length,
                "--precisions", precision, "--micro-batch-size", "2" if small else samples,
                "--rounds", few, "--profile", *peers,
            ],
            150,
            answers.steps,
        )  # fmt: skip

    found = [
        step("1", "128", "256"),
        step("2", "512", "64"),
        Step(
            "training",
            "Whole updates compared with transformers with DeepSpeed?",
            [
                "benchmarks/training.py", shards, "--model", one, "--precision", precision,
                "--micro-batch-size", "2" if small else "128", "--accumulation", "2",
                "--rounds", "2" if small else "5",
            ],
            90,
            answers.contestants,
        ),
        Step(
            "jitter",
            "Are there compilations or jitter over real data?",
            [
                "benchmarks/jitter.py", shards, "--model", one, "--precision", precision,
                "--micro-batch-size", "2" if small else "64", "--steps", "5" if small else "200",
                "--warm-up", "2" if small else "10",
            ],
            60,
            answers.jitter,
        ),
    ]  # fmt: skip
    if plan.squad is not None:
        found.append(
            Step(
                "finetune",
                "Fine-tuning for SQuAD compared with transformers?",
                [
                    "benchmarks/finetune.py", str(plan.squad), "--tokenizer",
                    str(plan.shards / TOKENIZER_FOLDER), "--model", one, "--precision", precision,
                    "--micro-batch-size", "2" if small else "32", "--rounds", few,
                    *(["--max-train-examples", "20"] if small else []),
                ],
                60,
                answers.contestants,
            )
        )  # fmt: skip
    return found


PARTS = {
    1: ("Correctness", correctness),
    2: ("Whole runs of BERT-large against the plan", whole_runs),
    3: ("What each choice gives", undone),
    4: ("Kernels against floors and others", kernels_against_others),
    5: ("Guarantees: resume, two ranks, fp8, NEZHA", guarantees),
    6: ("Compared with other programs", against_others),
}
"""Number -> title and steps."""
