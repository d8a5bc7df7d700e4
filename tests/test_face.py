"""The public names of the three packages, pinned: adding or removing one is a decision, not an accident."""

from __future__ import annotations

import pytest

import afactors
import afactors_channels
import afactors_store

FACES = {
    afactors: """
        AuthPolicy ChannelIdentity ChannelRequest ChannelSession DrainReport HostedRunResult Limits Runtime
        RuntimeStatistics TargetUnusable serve
    """,
    afactors_channels: """
        BadRequest Channel ChannelContext ChannelContribution ChannelIdentity ChannelRequest ChannelSession Conflicting
        Endpoint HostError HostedRunResult HostedTurn NotAllowed NotFound OnDisconnect Overloaded PushDeferred
        PushRejected Receive ResponsesChannel Route Scope Send SessionMode StorageFull TargetFailed TooLarge
        Unprocessable
    """,
    afactors_store: """
        Append BadKey Claim Commit Committed Conflict Dead DeadLetter Delivered Delivery Fenced FormatTooNew Found
        Letter LmdbStore MAX_KEY_BYTES MAX_NAME_BYTES MemoryStore NewDelivery Retry RunRecord Settlement Store
        StoreBroken StoreError StoreFull StoreLocked StoreStatistics StoreUnusable Work check_key
    """,
}


@pytest.mark.parametrize("package", FACES, ids=lambda package: package.__name__)
def test_the_face_of_a_package(package: object) -> None:
    modules = {name for name, value in vars(package).items() if type(value).__name__ == "module"}
    public = {name for name in vars(package) if not name.startswith("_") and name != "annotations"}
    assert sorted(public - modules) == sorted(FACES[package].split())
