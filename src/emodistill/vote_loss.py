"""The loss of listeners' votes, and how a loss excludes emotions. Torch is loaded when a loss is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from emodistill.lazy import LazyModule

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = LazyModule("torch")


def loss_of_votes(
    logits: Tensor,
    shares: Tensor,
    class_weights: Tensor | None,
    smoothing: float,
    possible: Tensor | None,
    weights: Tensor | None,
    kind: Literal["cross-entropy", "kl"],
) -> Tensor:
    """Loss of the student's probabilities against distributions of votes, `shares` (batch, emotions).

        L = Σ_i u_i D_i / Σ_i u_i c_i
        cross-entropy: D_i = −Σ_k a_i(k) log p_i(k)
        kl:            D_i = Σ_k a_i(k) (log r_i(k) − log p_i(k)),   r_i = a_i / Σ_k a_i(k)
        a_i(k) = (1 − ε) v_k q_i(k) + ε s_i(k),   c_i = Σ_k v_k q_i(k)

    q_i are the shares, p_i the student's probabilities, v_k the class weights, u_i the weights, and ε the
    smoothing. So each vote counts as an utterance of its own with that label, and votes for one emotion alone
    give the loss of that label. The smoothed part is that of `hard_label_loss`: s_i(k) = v_k / K over all K
    emotions. With `possible` or `weights` it is c_i / K over the possible ones.

    The two differ by the entropy of a_i, which does not depend on the student, so their gradients are the
    same. The divergence is 0 for a perfect student. Sources: cross entropy with the shares of annotators,
    Fayek et al. 2016 ("Modeling subjectiveness in emotion recognition with deep neural networks: Ensembles vs
    soft labels", IJCNN) and Peterson et al. 2019 (arXiv 1908.07086); divergence, Kullback & Leibler 1951.
    """
    weighted = shares if class_weights is None else shares * class_weights
    size = weighted.sum(dim=1)
    if possible is None and weights is None:
        smooth = torch.ones_like(shares) if class_weights is None else class_weights.expand_as(shares)
        smooth = smooth / shares.shape[1]
    else:
        allowed = torch.ones_like(shares, dtype=torch.bool) if possible is None else possible
        smooth = size[:, None] * allowed / allowed.sum(dim=1, keepdim=True)
    aims = (1 - smoothing) * weighted + smoothing * smooth
    log = (logits if possible is None else exclude(logits, possible)).log_softmax(dim=1)
    values = -(aims * log).sum(dim=1)
    if kind == "kl":
        relative = aims / aims.sum(dim=1, keepdim=True).clamp(min=1e-8)
        values = values + (aims * relative.clamp(min=1e-30).log()).sum(dim=1)
    utterance_weights = torch.ones_like(size) if weights is None else weights
    return (utterance_weights * values).sum() / (utterance_weights * size).sum().clamp(min=1e-8)


def exclude(logits: Tensor, possible: Tensor) -> Tensor:
    """Lower the logits of impossible emotions until their probability is 0 and the loss is still finite."""
    return logits.masked_fill(~possible, -1e4)
