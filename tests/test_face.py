"""The public names of the three packages, pinned: adding or removing one is a decision, not an accident."""

from __future__ import annotations

import pytest

import afactors
import afactors_channels
import afactors_store

FACES = {
    afactors: """
        ActorExport AuthPolicy ChannelIdentity ChannelRequest ChannelSession ContinuationToken DrainReport HostedRun
        HostedRunResult HostedSession IsolationKeys Limits Question Runtime RuntimeStatistics SessionEdit
        StoreHistoryProvider TargetUnusable UnusableFile get_current_isolation_keys get_current_request serve
    """,
    afactors_channels: """
        BadRequest Channel ChannelContext ChannelContribution ChannelIdentity ChannelRequest ChannelResponseContext
        ChannelResponseHook ChannelRunHook ChannelSession Conflicting ContinuationToken Endpoint HostError HostedRun
        HostedRunResult HostedSession HostedTurn IsolationKeys NotAllowed NotFound OnDisconnect OverlapPolicy Overloaded
        PushDeferred PushRejected Question QuestionKind Receive Repeated ResponsesChannel Restarted Route RunState
        Scope Send SessionEdit SessionMode StorageFull TargetFailed TooLarge Transcriber Transcript Unprocessable
    """,
    afactors_store: """
        Append BadKey Claim Commit Committed Conflict Dead DeadLetter Delivered Delivery Fenced FormatTooNew Found
        Letter LmdbStore MAX_KEY_BYTES MAX_NAME_BYTES MemoryStore NewDelivery NewLetter Retry RunRecord Settlement Slice
        Store StoreBroken StoreError StoreFull StoreLocked StoreStatistics StoreUnusable Work check_key
    """,
}


@pytest.mark.parametrize("package", FACES, ids=lambda package: package.__name__)
def test_the_face_of_a_package(package: object) -> None:
    modules = {name for name, value in vars(package).items() if type(value).__name__ == "module"}
    public = {name for name in vars(package) if not name.startswith("_") and name != "annotations"}
    assert sorted(public - modules) == sorted(FACES[package].split())
