"""Whether a hub of models answers at all, asked before its client, which tries for a minute where there is no network.

model ──surely_missing: the cache's folders──> no copy of it here, or perhaps one
hub   ──silent: one HEAD, a few seconds──────> it answers, whatever it says, or a reason why not
"""

from __future__ import annotations

import http.client
import os
import threading
import urllib.error
import urllib.request

HUBS = {
    "hf": ("HF_ENDPOINT", "https://huggingface.co"),
    "ms": ("MODELSCOPE_DOMAIN", "https://www.modelscope.cn"),
}
"""By name: the variable that names another place for it, and its own."""

PATIENCE_SECONDS = 6.0


def surely_missing(hub: str, model: str, short: str = "") -> bool:
    """Return whether this machine's cache of a hub cannot hold a model; a look at names of folders, nothing more.

    A short name (large-v3) may stand for several repositories, which only its own library knows: any with `short` in
    its name may then be it.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if hub == "hf":
        root = os.path.join(os.environ.get("HF_HOME") or os.path.join(home, "huggingface"), "hub")
        root = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or root
        wanted = f"models--{model.replace('/', '--')}" if "/" in model else short
        cached = [name for name in _folder(root) if name.startswith("models--")]
        return not any(wanted.lower() in name.lower() for name in cached)
    root = os.environ.get("MODELSCOPE_CACHE") or os.path.join(home, "modelscope")
    models = [each for under in ("models", "hub", os.path.join("hub", "models")) for each in _owned(root, under)]
    found = [each for each in models if (each.lower() == model.lower() if "/" in model else short in each.lower())]
    return not found


def _folder(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _owned(root: str, under: str) -> list[str]:
    """Return owner/name of the models in a folder of ModelScope's cache."""
    place = os.path.join(root, under)
    owners = [each for each in _folder(place) if not each.startswith((".", "_")) and each != "models"]
    return [f"{owner}/{name}" for owner in owners for name in _folder(os.path.join(place, owner))]


def silent(hub: str, patience_seconds: float = PATIENCE_SECONDS) -> str | None:
    """Return why there is no use in asking a hub ("hf" or "ms"), None where it answers; in `patience_seconds`.

    An answer of any status will do. Proxies of the environment are used, as the hubs' own clients do.
    """
    if hub == "hf" and os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    variable, own = HUBS[hub]
    place = os.environ.get(variable) or own
    place = place if "://" in place else f"https://{place}"
    told: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(place, method="HEAD"), timeout=patience_seconds).close()
        except urllib.error.HTTPError:
            told.append(None)
        except (OSError, ValueError, http.client.HTTPException):
            told.append(f"no answer from {place}")
        else:
            told.append(None)

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name has no timeout of its own
    asking.start()
    asking.join(patience_seconds)
    return told[0] if told else f"no answer from {place} in {patience_seconds:g} s"
