"""Attention by document against a softmax written out position by position, under every rule that layers have."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn

from vlm_ablate.models import documents
from vlm_ablate.models.documents import Documents, attend

RULES = [
    {},
    {"scaling": 0.3},
    {"softcap": 2.0},
    {"sliding_window": 3},
    {"sliding_window": 50},
    {"sliding_window": 2, "softcap": 1.0, "scaling": 1.0},
    {"is_causal": False},
    {"is_causal": False, "softcap": 2.0},
    {"is_causal": False, "sliding_window": 2},
]


def written_out(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], prefixes: list[int], rule: dict
) -> Tensor:
    """(1, heads, sequence, width) each -> (1, sequence, heads, width): every query by itself."""
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    scale = rule.get("scaling", query.shape[-1] ** -0.5)
    out = torch.zeros(1, query.shape[2], heads, value.shape[-1], dtype=query.dtype)
    starts = [0, *accumulate(lengths)][:-1]
    for start, length, prefix in zip(starts, lengths, prefixes, strict=True):
        for place in range(length):
            seen = [at for at in range(length) if rule.get("is_causal") is False
                    or (at <= place and place - at < rule.get("sliding_window", length))
                    or (at < prefix and place < prefix)]  # fmt: skip
            rows = torch.tensor(seen) + start
            for head in range(heads):
                scores = key[0, head // groups, rows] @ query[0, head, start + place] * scale
                if "softcap" in rule:
                    scores = torch.tanh(scores / rule["softcap"]) * rule["softcap"]
                out[0, start + place, head] = scores.softmax(0) @ value[0, head // groups, rows]
    return out


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_each_document_attends_as_it_is_written(kv_heads: int, rule: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(kv_heads)
    for lengths in ([1], [4, 1, 6], [2, 2, 7, 3]):
        total = sum(lengths)
        query, key, value = (torch.randn(1, heads, total, 6, generator=generator, dtype=torch.float64)
                             for heads in (4, kv_heads, kv_heads))  # fmt: skip
        for prefixes in ([0] * len(lengths), [length // 2 for length in lengths], lengths):
            both_ways = torch.cat([torch.arange(n) < p for n, p in zip(lengths, prefixes, strict=True)])[None]
            told = Documents.of(lengths, query.device, both_ways=both_ways if any(prefixes) else None)
            assert told.longest == max(lengths) and told.starts.tolist() == [0, *accumulate(lengths)]
            assert told.prefixes == (tuple(prefixes) if any(prefixes) else None)
            token = documents._NOW.set(told)
            try:
                found, _ = attend(nn.Module(), query, key, value, None, **rule)
            finally:
                documents._NOW.reset(token)
            expected = written_out(query, key, value, lengths, prefixes, rule)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_what_is_not_done_by_document_is_refused() -> None:
    states = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match="without documents"):
        attend(nn.Module(), states, states, states, None)
    for told, more in (([3], {"s_aux": states}), ([3], {"cache": 1}), ([3], {"position_bias": states}), ([2], {})):
        token = documents._NOW.set(Documents.of(told, states.device))
        try:
            with pytest.raises(ValueError, match=r"not done by document|without documents"):
                attend(nn.Module(), states, states, states, None, **more)
        finally:
            documents._NOW.reset(token)
