"""Reverse KL: T² KL(student || teacher), which follows the teacher's likeliest classes."""

from torch import Tensor

from kd.losses.logits._shared import divergence


def loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """`kl` with its arguments exchanged: T² KL(softmax(student / T) || softmax(teacher / T)).

    It penalises probability where the teacher has none, and not the lack of it where the teacher
    has some. Gu et al., "MiniLLM: knowledge distillation of large language models", ICLR 2024
    (arXiv 2306.08543), section 2.1; Wen et al., "f-divergence minimization for sequence-level
    knowledge distillation", ACL 2023 (arXiv 2307.15190).
    """
    return temperature**2 * divergence(teacher_logits / temperature, student_logits / temperature)
