"""Check which shards of the teacher cache exist, for code that must not import torch."""

from pathlib import Path

from storage.files.artifacts import is_finished, read_manifest
from storage.files.layout import view_folder


def missing_views(folder: Path, count: int, *, features: bool) -> list[int]:
    """Return the views in 0 … count - 1 without a finished shard, or without required features."""
    return [
        k
        for k in range(count)
        if not is_finished(view_folder(folder, k)) or (features and not cached_taps(folder, k))
    ]


def cached_taps(folder: Path, k: int) -> list[str]:
    """Return the taps whose features shard `k` holds."""
    return list(read_manifest(view_folder(folder, k), "shard").info["taps"])


def verify_shard(folder: Path, k: int) -> None:
    """Compare shard `k` with its checksums. Raises ArtifactError when it differs."""
    identity = read_manifest(folder, "shards").identity
    read_manifest(view_folder(folder, k), "shard", {**identity, "view": k}).verify()
