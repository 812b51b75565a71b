"""The filterbank of operators/filterbank.py once more, for a batch of clips on the device that trains on them.

    int16 pcm_BT ──windows──> minus mean, pre-emphasis, povey window ──> |FFT|² ──> 80 mels ──> log ──> CMVN ──masks──>
    features_BF80, 0 behind a clip's end

The window and the mel triangles are the other's. Numbers differ from its own in the last digits, as sums are made in
another order: a hundredth of a percent of a bin's spread.

Shapes: B clips, T samples, F frames of the longest, W samples of a window, M masks of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model_training.data.features import Cmvn
from model_training.model.device import exact_products, to_device
from operators.filterbank import BINS, FFT, FLOOR, PRE_EMPHASIS, SHIFT, WINDOW, mel_weights, window

_TOGETHER = 1 << 14
"""Frames that are transformed at once: some 200 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFilterbank:
    """A DeviceFilterbank holds what the filterbank multiplies with, where it multiplies."""

    window_W: Tensor
    mels_K80: Tensor
    mean_80: Tensor
    istd_80: Tensor

    @classmethod
    def of(cls, cmvn: Cmvn, device: torch.device) -> DeviceFilterbank:
        parts = (window(), mel_weights(), cmvn.mean, cmvn.istd)
        return cls(*(torch.from_numpy(part).to(device) for part in parts))

    @torch.no_grad()
    def features(self, pcm_BT: Tensor, lengths_B: Tensor, bands_BM2: Tensor, stretches_BM2: Tensor) -> Tensor:
        """Return normalised features (B, F, 80), float32 on the device; the program waits for nothing.

        Args:
            pcm_BT: int16, 0 behind a clip's end.
            lengths_B: feature frames of each clip, int64.
            bands_BM2, stretches_BM2: bins and frames [first, last) that are masked, int64.
        """
        device = self.window_W.device
        clips, frames = len(pcm_BT), int(lengths_B.max()) if len(lengths_B) else 0
        features_BF80 = torch.zeros(clips, frames, BINS, device=device)
        pcm_BT = to_device(pcm_BT, device)
        together = max(1, _TOGETHER // max(1, frames))
        for first in range(0, clips if frames else 0, together):
            features_BF80[first : first + together] = self._log_mel(pcm_BT[first : first + together])[:, :frames]
        features_BF80 = (features_BF80 - self.mean_80) * self.istd_80
        frame_F, bin_80 = torch.arange(frames, device=device), torch.arange(BINS, device=device)
        hidden_BF1 = (frame_F >= to_device(lengths_B, device).unsqueeze(1)) | _within(frame_F, stretches_BM2)
        hidden_BF80 = hidden_BF1.unsqueeze(2) | _within(bin_80, bands_BM2).unsqueeze(1)
        return features_BF80.masked_fill(hidden_BF80, 0.0)

    def _log_mel(self, pcm_BT: Tensor) -> Tensor:
        frames_BFW = pcm_BT.float().unfold(1, WINDOW, SHIFT)
        frames_BFW = frames_BFW - frames_BFW.mean(-1, keepdim=True)
        before_BFW = torch.cat((frames_BFW[..., :1], frames_BFW[..., :-1]), -1)
        frames_BFW = (frames_BFW - float(PRE_EMPHASIS) * before_BFW) * self.window_W
        spectrum_BFK = torch.fft.rfft(frames_BFW, FFT)
        power_BFK = spectrum_BFK.real.square() + spectrum_BFK.imag.square()
        with exact_products(), torch.autocast(pcm_BT.device.type, enabled=False):
            return (power_BFK @ self.mels_K80).clamp(min=float(FLOOR)).log()


def _within(place_P: Tensor, spans_BM2: Tensor) -> Tensor:
    """Return true where a place lies in any of a clip's spans (B, P)."""
    spans_BM2 = to_device(spans_BM2, place_P.device)
    first_BM1, last_BM1 = spans_BM2[..., :1], spans_BM2[..., 1:]
    return ((place_P >= first_BM1) & (place_P < last_BM1)).any(1)
