"""The numbers: of a result and its guide, L2 and LPIPS; of two sets of pictures, KID and FID."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from diffusions import distance

Lpips = Callable[[Tensor, Tensor], Tensor]
"""Pictures in [-1, 1], twice [B, 3, H, W] -> distances [B, 1, 1, 1]."""
Extract = Callable[[Tensor], Tensor]
"""uint8 pictures [B, 3, H, W] -> features [B, D]."""

CONVENTIONS = {
    "l2": "root mean square difference of a result from its guide, on [-1, 1]; mean over the results",
    "lpips": "LPIPS between the two on [-1, 1]; mean over the results",
    "masked_*": "what the mask lets change: l2 weighted by the mask; lpips with the rest of both set to 0",
    "kept_*": "likewise what the mask keeps",
    "kid": "kernel inception distance from the reference; mean and deviation over subsets",
    "fid": "Fréchet inception distance from the reference",
}
KID_SUBSET, KID_SUBSETS = 1000, 100


def compare(result: Tensor, guide: Tensor, mask: Tensor | None, lpips: Lpips | None) -> dict[str, Tensor]:
    """Return the distances [B] of results from their guides, see `CONVENTIONS`.

    Args:
        result: [B, 3, H, W] on [-1, 1].
        guide: Likewise.
        mask: What may change, 0 to 1, [B, 1, H, W].
        lpips: None to leave it out.
    """
    regions = {"": None} if mask is None else {"": None, "masked_": mask, "kept_": 1 - mask}
    found = {f"{region}l2": distance(result, guide, where) for region, where in regions.items()}
    if lpips is not None:
        for region, where in regions.items():
            seen = (result, guide) if where is None else (result * where, guide * where)
            found[f"{region}lpips"] = lpips(*seen).flatten()
    return found


@torch.inference_mode()
def features(extract: Extract, batches: Iterable[Tensor]) -> Tensor:
    """Return the features [N, D] of uint8 pictures, given in batches [B, 3, H, W]."""
    return torch.cat([extract(batch).cpu() for batch in batches])


def kid(found: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return the kernel inception distance of two sets of features: mean and deviation over subsets."""
    from torch_fidelity import metric_kid

    size = min(KID_SUBSET, len(found), len(reference))
    values = metric_kid.kid_features_to_metric(
        found, reference, kid_subsets=KID_SUBSETS, kid_subset_size=size, verbose=False
    )
    return values[metric_kid.KEY_METRIC_KID_MEAN], values[metric_kid.KEY_METRIC_KID_STD]


def fid(found: Tensor, reference: Tensor) -> float:
    """Return the Fréchet inception distance of two sets of features."""
    from torch_fidelity import metric_fid

    statistics = [metric_fid.fid_features_to_statistics(part) for part in (found, reference)]
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[metric_fid.KEY_METRIC_FID]
