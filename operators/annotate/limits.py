"""How good a clip's sound must be: a limit that is set rejects, without one a measure is only written."""

from __future__ import annotations

from dataclasses import dataclass

from operators.clip import Quality, Rejection
from operators.settings import setting

LOW_SNR = "low_snr"
NARROW_BAND = "narrow_band"
CLIPPED = "clipped"
LOW_DNSMOS = "low_dnsmos"
REASONS = (LOW_SNR, NARROW_BAND, CLIPPED, LOW_DNSMOS)
"""The closed list of why stage "annotate" rejects a clip."""


@dataclass(kw_only=True)
class QualityLimits:
    """QualityLimits are the section `annotate.quality` of the settings, but for how quality is measured.

    A measure that could not be taken of a clip breaks no limit.
    """

    min_snr_db: float | None = setting(
        None, "dB; a clip with less is rejected; null: none is", at_least=-50, at_most=100
    )
    min_bandwidth_hz: float | None = setting(
        None, "Hz; 4000 and less is telephone speech, 8000 all there is", at_least=0, at_most=8000
    )
    max_clipped: float | None = setting(None, "share of samples cut off at full scale", at_least=0, at_most=1)
    min_ovrl: float | None = setting(None, "DNSMOS, overall; needs the setting dnsmos", at_least=1, at_most=5)

    @property
    def any_set(self) -> bool:
        """Return whether there is a limit at all."""
        return any(
            each is not None for each in (self.min_snr_db, self.min_bandwidth_hz, self.max_clipped, self.min_ovrl)
        )


def reject(quality: Quality, limits: QualityLimits) -> Rejection | None:
    """Return why a clip of this quality is dropped, None when it is kept. A limit that is met exactly is kept."""

    def broken(value: float | None, least: float | None) -> bool:
        return value is not None and least is not None and value < least

    if broken(quality.snr_db, limits.min_snr_db):
        return Rejection(stage="annotate", reason=LOW_SNR, detail=f"SNR {quality.snr_db:.1f} dB")
    if broken(quality.bandwidth_hz, limits.min_bandwidth_hz):
        return Rejection(stage="annotate", reason=NARROW_BAND, detail=f"speech up to {quality.bandwidth_hz:.0f} Hz")
    if quality.clipped is not None and limits.max_clipped is not None and quality.clipped > limits.max_clipped:
        detail = f"{100 * quality.clipped:.3f} % of the samples"
        return Rejection(stage="annotate", reason=CLIPPED, detail=detail)
    if broken(quality.dnsmos_ovrl, limits.min_ovrl):
        return Rejection(stage="annotate", reason=LOW_DNSMOS, detail=f"DNSMOS {quality.dnsmos_ovrl:.2f}")
    return None
