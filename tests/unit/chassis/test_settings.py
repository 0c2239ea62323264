"""A service's settings come from its environment; what is wrong is named as the operator wrote it."""

from __future__ import annotations

import pytest

from services.billing.settings import BillingSettings


def test_a_missing_and_a_malformed_setting_are_named_by_their_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MODELYARD_BILLING_DATA_DIR", raising=False)
    monkeypatch.setenv("MODELYARD_BILLING_USAGE_BATCH_MAX", "many-secrets")
    with pytest.raises(SystemExit) as ended:
        BillingSettings.from_environment()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "MODELYARD_BILLING_DATA_DIR: Field required" in said
    assert "MODELYARD_BILLING_USAGE_BATCH_MAX: Input should be a valid integer" in said
    assert "many-secrets" not in said
